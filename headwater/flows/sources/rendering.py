"""How a row or a JSON record becomes text: equal values always give equal text.

A document is lines of `Field name: value` in the configured order; nulls and empty strings are left
out. A value of several lines stands below its name as it is. When the configuration names exactly
one text field, that field is the document, without a name before it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from string import Formatter
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from headwater.errors import ConfigError, SourceDataError
from headwater.flows.sources.protocol import RECORD_SCHEMA, canonical_json

BATCH_ROWS = 5000
"""Rows in a batch at most."""

_EPOCH_MS_FROM = 1e11
"""Numbers from here on are milliseconds: as seconds they would lie after the year 5000."""


@dataclass(frozen=True)
class Layout:
    """Which fields go where.

    Attributes:
        text: the fields of the text, in order.
        metadata: the fields of the metadata.
        title: the field that titles a document.
        updated_at: the field that holds the source's own time.
        url: a link template over the fields and `key`.
        labels: put on every record.
        bare: write the one text field without its name.
    """

    text: tuple[str, ...]
    metadata: tuple[str, ...] = ()
    title: str | None = None
    updated_at: str | None = None
    url: str | None = None
    labels: tuple[str, ...] = ()
    bare: bool = False


def field_label(name: str) -> str:
    """What a field is called in a text: `unit_price` -> `Unit price`."""
    words = name.replace("_", " ").replace(".", " ").split()
    label = " ".join(words) or name
    return label[:1].upper() + label[1:]


def value_text(value: Any) -> str | None:
    """The text of one value; None for null.

    Numbers keep their digits, times are ISO 8601 (in UTC where they carry a zone), lists are joined
    by commas, mappings are canonical JSON.

    Raises:
        SourceDataError: the value is binary.
    """
    if value is None or type(value) is str:
        return value
    render = _RENDER.get(type(value)) or next(
        (known for kind, known in _RENDER.items() if isinstance(value, kind)), str
    )
    return render(value)


def value_time(value: Any) -> datetime | None:
    """Read a source's own time as UTC; None where it is no time.

    A time without a zone is taken as UTC; a number is seconds (or milliseconds) since 1970.
    """
    try:
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, date):
            found = datetime(value.year, value.month, value.day)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value / 1000 if abs(value) >= _EPOCH_MS_FROM else value
            found = datetime.fromtimestamp(seconds, UTC)
        elif isinstance(value, str) and value:
            found = _parse_time(value)
        else:
            return None
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def join_key(parts: Sequence[str | None]) -> str | None:
    """One key out of the texts of its columns; None when one is null.

    Several parts are joined by `/`, after `%` and `/` inside them were percent-escaped.
    """
    if len(parts) == 1:
        return parts[0]
    if any(part is None for part in parts):
        return None
    return "/".join(str(part).replace("%", "%25").replace("/", "%2F") for part in parts)


def split_key(key: str, count: int) -> tuple[str, ...] | None:
    """The parts of a joined key; None when it cannot be a key of `count` columns."""
    if count == 1:
        return (key,)
    parts = key.split("/")
    if len(parts) != count:
        return None
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in parts)


def template_fields(template: str) -> tuple[str, ...]:
    """The fields a link template names.

    Raises:
        ConfigError: the braces do not match, or are empty.
    """
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError("The link template is wrong", obj=template, todo=str(error)) from None
    if "" in fields:
        raise ConfigError(
            "The link template has empty braces", obj=template, todo="write {column} or {key}"
        )
    return tuple(fields)


def fill_template(template: str, values: Mapping[str, Any]) -> str | None:
    """Fill a link template with percent-quoted values; None when one of them is null."""
    parts: list[str] = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(literal)
        if name is None:
            continue
        text = value_text(values.get(name))
        if text is None:
            return None
        parts.append(quote(text, safe="", errors="replace"))
    return "".join(parts)


def render_batch(
    keys: Sequence[str | None],
    columns: Mapping[str, Sequence[Any]],
    layout: Layout,
    *,
    urls: Sequence[str | None] | None = None,
) -> pa.RecordBatch:
    """Render rows given by column into one batch of `RECORD_SCHEMA`.

    Args:
        keys: one key per row.
        columns: the values of every field that the layout names, one per row.
        layout: which fields go where.
        urls: the links, where the source has them ready; else they come from `layout.url`.

    Raises:
        SourceDataError: a column of the text or the metadata holds binary values.
    """
    rows = len(keys)
    if urls is None:
        urls = _urls(keys, columns, layout.url)
    titles = _texts(layout.title, columns) if layout.title else [None] * rows
    times = columns[layout.updated_at] if layout.updated_at else [None] * rows
    arrays = {
        "key": list(keys),
        "text": _documents(columns, layout, rows),
        "title": titles,
        "url": list(urls),
        "metadata": _metadata(columns, layout, rows),
        "labels": [list(layout.labels)] * rows,
        "source_ts": [value_time(value) for value in times],
        "fingerprint": [None] * rows,
        "state": ["present"] * rows,
        "error": [None] * rows,
    }
    try:
        return _to_arrow(arrays)
    except UnicodeEncodeError:
        return _to_arrow(_without_surrogates(arrays))


def signature(values: Mapping[str, Any]) -> str:
    """Twelve hex digits that differ when the way records are read or rendered differs."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:12]


def _documents(
    columns: Mapping[str, Sequence[Any]], layout: Layout, rows: int
) -> list[str | None] | list[str]:
    if layout.bare and len(layout.text) == 1:
        return [text or "" for text in _texts(layout.text[0], columns)]
    cells = [_lines(field_label(name), _texts(name, columns)) for name in layout.text]
    if not cells:
        return [""] * rows
    return ["\n".join([cell for cell in row if cell]) for row in zip(*cells, strict=True)]


def _lines(label: str, texts: list[str | None]) -> list[str | None]:
    inline, above = f"{label}: ", f"{label}:\n"
    return [text and (above if "\n" in text else inline) + text for text in texts]


def _texts(name: str, columns: Mapping[str, Sequence[Any]]) -> list[str | None]:
    try:
        return [
            value if value is None or type(value) is str else value_text(value)
            for value in columns[name]
        ]
    except _BinaryValueError:
        raise binary_column(name) from None


def _metadata(columns: Mapping[str, Sequence[Any]], layout: Layout, rows: int) -> list[str]:
    if not layout.metadata:
        return ["{}"] * rows
    names = layout.metadata
    values = [_plain_column(name, columns[name]) for name in names]
    return [
        canonical_json({n: v for n, v in zip(names, row, strict=True) if v is not None})
        for row in zip(*values, strict=True)
    ]


def _plain_column(name: str, values: Sequence[Any]) -> list[Any]:
    try:
        return [_plain(value) for value in values]
    except _BinaryValueError:
        raise binary_column(name) from None


def _plain(value: Any) -> Any:
    """What JSON holds natively stays; the rest becomes its text."""
    if value is None or isinstance(value, str | bool | int | list | dict):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return value_text(value)


def _urls(
    keys: Sequence[str | None], columns: Mapping[str, Sequence[Any]], template: str | None
) -> list[str | None]:
    if template is None:
        return [None] * len(keys)
    names = template_fields(template)
    pools: list[Sequence[Any]] = [columns.get(name, keys) for name in names]
    rows = zip(*pools, strict=True) if pools else ([()] * len(keys))
    return [fill_template(template, dict(zip(names, row, strict=True))) for row in rows]


class _BinaryValueError(Exception):
    """A binary value met while rendering; the caller knows the column."""


def binary_column(name: str) -> SourceDataError:
    """The error for a column whose binary values cannot be rendered."""
    return SourceDataError(
        "A column holds binary values, which have no text",
        obj=name,
        todo="list it under 'ignore', or name the columns you want under 'text'",
    )


def _refuse(value: Any) -> str:
    raise _BinaryValueError


def _time_text(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.isoformat(sep=" ")


def _list_text(value: Iterable[Any]) -> str:
    return ", ".join(text for item in value if (text := value_text(item)) is not None)


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


_RENDER: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: repr,
    Decimal: _decimal_text,
    datetime: _time_text,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: str,
    dict: canonical_json,
    list: _list_text,
    tuple: _list_text,
    bytes: _refuse,
    bytearray: _refuse,
    memoryview: _refuse,
}


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _to_arrow(arrays: Mapping[str, list[Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(arrays[field.name], type=field.type) for field in RECORD_SCHEMA],
        schema=RECORD_SCHEMA,
    )


def _without_surrogates(arrays: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Mark the rows that are no Unicode text as unreadable, so that the others still get through."""
    mended = {name: list(values) for name, values in arrays.items()}
    for row in range(len(mended["key"])):
        bad = [n for n in ("key", "text", "title", "url", "metadata") if _broken(mended[n][row])]
        if not bad:
            continue
        mended["state"][row] = "unreadable"
        mended["error"][row] = f"bytes that are no UTF-8 text in: {', '.join(bad)}"
        if "key" in bad:
            mended["key"][row] = json.dumps(mended["key"][row])[1:-1]
        mended["text"][row] = mended["title"][row] = mended["url"][row] = None
        mended["metadata"][row] = "{}"
    return mended


def _broken(text: str | None) -> bool:
    if text is None:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
