"""How a row or a JSON record becomes text: equal values always give equal text.

A document is lines of `Field name: value` in the configured order; nulls and empty strings are left
out. A value of several lines stands below its name as it is. When the configuration names exactly
one text field, that field is the document, without a name before it. A template says it otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.flows.sources.columnar import (
    JsonTexts,
    Values,
    column_fragments,
    column_texts,
    column_times,
    constant_lists,
    filled_links,
    filled_template,
    labelled_lines,
    metadata_objects,
    template_fields,
)
from headwater.flows.sources.protocol import RECORD_SCHEMA, canonical_json
from headwater.flows.sources.values import binary_column, value_text, value_time

__all__ = [
    "BATCH_ROWS",
    "Layout",
    "binary_column",
    "field_label",
    "join_key",
    "join_keys",
    "render_batch",
    "signature",
    "split_key",
    "template_fields",
    "value_text",
    "value_time",
]

BATCH_ROWS = 5000
"""Rows in a batch at most."""


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
        template: lines with `{field}`; None for `text` as lines with names.
    """

    text: tuple[str, ...]
    metadata: tuple[str, ...] = ()
    title: str | None = None
    updated_at: str | None = None
    url: str | None = None
    labels: tuple[str, ...] = ()
    bare: bool = False
    template: str | None = None


def field_label(name: str) -> str:
    """What a field is called in a text: `unit_price` -> `Unit price`."""
    words = name.replace("_", " ").replace(".", " ").split()
    label = " ".join(words) or name
    return label[:1].upper() + label[1:]


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


def join_keys(parts: Sequence[Values], names: Sequence[str]) -> pa.Array:
    """`join_key` of each row, its parts given by column."""
    texts = [column_texts(name, part) for name, part in zip(names, parts, strict=True)]
    if len(texts) == 1:
        return texts[0]
    safe = [pc.replace_substring(pc.replace_substring(t, "%", "%25"), "/", "%2F") for t in texts]
    return pc.binary_join_element_wise(*safe, pa.scalar("/", pa.string()))


def render_batch(
    keys: Sequence[str | None] | pa.Array,
    columns: Mapping[str, Values],
    layout: Layout,
    *,
    urls: Sequence[str | None] | None = None,
    fingerprints: pa.Array | None = None,
) -> pa.RecordBatch:
    """Render rows given by column into one batch of `RECORD_SCHEMA`.

    Args:
        keys: one key per row.
        columns: the values of every field that the layout names, one per row.
        layout: which fields go where.
        urls: the links, where the source has them ready; else they come from `layout.url`.
        fingerprints: the source's own proof that a row is the same, where it has one.

    Raises:
        SourceDataError: a column of the text or the metadata holds binary values.
    """
    try:
        return _render(keys, columns, layout, urls, fingerprints)
    except UnicodeEncodeError:
        pass
    broken = _broken_rows(keys, columns, urls)
    whole = _render(
        [None if row in broken else key for row, key in enumerate(_listed(keys))],
        {name: _without(values, broken) for name, values in columns.items()},
        layout,
        None if urls is None else _without(urls, broken),
        fingerprints,
    )
    return _marked_unreadable(whole, keys, broken)


def signature(values: Mapping[str, Any]) -> str:
    """Twelve hex digits that differ when the way records are read or rendered differs."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:12]


def _render(
    keys: Sequence[str | None] | pa.Array,
    columns: Mapping[str, Values],
    layout: Layout,
    urls: Sequence[str | None] | None,
    fingerprints: pa.Array | None,
) -> pa.RecordBatch:
    rows = len(keys)
    held = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    nothing = pa.nulls(rows, pa.string())
    texts = _Texts(held, columns)
    links = nothing if urls is None else pa.array(urls, pa.string())
    if urls is None and layout.url is not None:
        links = filled_links(layout.url, texts.of(template_fields(layout.url)), rows=rows)
    fragments = [column_fragments(name, columns[name]) for name in layout.metadata]
    arrays = {
        "key": held,
        "text": _documents(texts, layout, rows),
        "title": texts[layout.title] if layout.title else nothing,
        "url": links,
        "metadata": metadata_objects(layout.metadata, fragments, rows=rows),
        "labels": constant_lists(layout.labels, rows),
        "source_ts": column_times(columns[layout.updated_at])
        if layout.updated_at
        else pa.nulls(rows, RECORD_SCHEMA.field("source_ts").type),
        "fingerprint": nothing if fingerprints is None else fingerprints,
        "state": pa.array(["present"] * rows, pa.string()),
        "error": nothing,
    }
    return pa.RecordBatch.from_arrays([arrays[f.name] for f in RECORD_SCHEMA], schema=RECORD_SCHEMA)


class _Texts:
    """The text of each column, made once; `key` is the key where no column is called so."""

    def __init__(self, keys: pa.Array, columns: Mapping[str, Values]) -> None:
        self._columns = columns
        self._keys = keys
        self._made: dict[str, pa.Array] = {}

    def __getitem__(self, name: str) -> pa.Array:
        if name not in self._made:
            known = name in self._columns
            self._made[name] = column_texts(name, self._columns[name]) if known else self._keys
        return self._made[name]

    def of(self, names: Iterable[str]) -> dict[str, pa.Array]:
        return {name: self[name] for name in names}


def _documents(texts: _Texts, layout: Layout, rows: int) -> pa.Array:
    if layout.template is not None:
        used = texts.of(template_fields(layout.template))
        return filled_template(layout.template, used, rows=rows)
    if layout.bare and len(layout.text) == 1:
        return pc.fill_null(texts[layout.text[0]], "")
    labels = [field_label(name) for name in layout.text]
    return labelled_lines(labels, [texts[name] for name in layout.text], rows=rows)


# --- rows that are no Unicode ---------------------------------------------------------------------


def _broken_rows(
    keys: Sequence[str | None] | pa.Array,
    columns: Mapping[str, Values],
    urls: Sequence[str | None] | None,
) -> dict[int, list[str]]:
    """Row -> the fields in which it is no Unicode text."""
    fields = [*columns.items(), ("key", keys), ("link", [] if urls is None else urls)]
    found: dict[int, list[str]] = {}
    for name, values in fields:
        for row, value in enumerate(_listed(values)):
            if not isinstance(value, bytes | bytearray | memoryview) and _broken(value_text(value)):
                found.setdefault(row, []).append(name)
    return found


def _listed(values: Values) -> Sequence[Any]:
    plain = values.texts if isinstance(values, JsonTexts) else values
    return plain.to_pylist() if isinstance(plain, pa.Array) else plain


def _without(values: Any, rows: Mapping[int, list[str]]) -> Any:
    """The values with None at these rows, so that the others still get through."""
    plain = values.texts if isinstance(values, JsonTexts) else values
    if isinstance(plain, pa.Array):
        return values
    kept = [None if row in rows else value for row, value in enumerate(plain)]
    return JsonTexts(kept) if isinstance(values, JsonTexts) else kept


def _marked_unreadable(
    batch: pa.RecordBatch, keys: Sequence[str | None] | pa.Array, broken: Mapping[int, list[str]]
) -> pa.RecordBatch:
    rows = batch.to_pylist()
    held = _listed(keys)
    for row, fields in broken.items():
        key = held[row]
        rows[row] |= {
            "key": json.dumps(key)[1:-1] if _broken(key) else key,
            "text": None,
            "title": None,
            "url": None,
            "metadata": "{}",
            "state": "unreadable",
            "error": f"bytes that are no UTF-8 text in: {', '.join(fields)}",
        }
    return pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA)


def _broken(text: str | None) -> bool:
    if text is None:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
