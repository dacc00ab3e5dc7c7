"""Fields become text a column at a time: what Python does row by row costs ten times as much.

A column is Arrow's, as a database hands it over, or a sequence of Python values of any types. Both
give the text that `value_text` gives value by value; the fast ways are only taken where they do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Formatter
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.errors import ConfigError
from headwater.flows.sources.protocol import canonical_json
from headwater.flows.sources.values import (
    BinaryValueError,
    binary_column,
    plain_value,
    value_text,
    value_time,
)

_UNSAFE_IN_JSON = r'["\\\x00-\x1f]'
_UNSAFE_IN_LINK = r"[^A-Za-z0-9_.~-]"
# JSON whose numbers, or whose halves of a surrogate pair, the fast reader may treat in another way.
_UNCOMMON_JSON = r"[0-9]{16}|[0-9][eE]|0\.000|\\u|NaN|Infinity"
_PLAIN_FLOATS = (1e-4, 1e9)
"""Between these sizes Arrow writes a float as Python does, but for the `.0` of a whole one."""


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True, eq=False)
class JsonTexts:
    """A column of JSON that the database hands over as text.

    Attributes:
        texts: one JSON text per row, or null; a text that is no JSON stands for itself.
    """

    texts: Sequence[Any] | pa.Array

    def __len__(self) -> int:
        return len(self.texts)


Values: TypeAlias = "Sequence[Any] | pa.Array | JsonTexts"
"""The values of a column, one per row."""


def column_texts(name: str, values: Values) -> pa.Array:
    """The text of each value: `string`, null for null.

    Raises:
        SourceDataError: the column holds binary values.
        UnicodeEncodeError: a value is no Unicode text.
    """
    try:
        if isinstance(values, JsonTexts):
            return _of_json(values, _json_text)
        held = _as_array(values)
        if held is not None:
            return _array_texts(held)
        return pa.array([value_text(v) for v in values], pa.string())
    except BinaryValueError:
        raise binary_column(name) from None


def column_fragments(name: str, values: Values) -> pa.Array:
    """Each value as JSON: `string`, null for null. What JSON lacks becomes its text.

    Raises:
        SourceDataError: the column holds binary values.
        UnicodeEncodeError: a value is no Unicode text.
    """
    try:
        if isinstance(values, JsonTexts):
            return _of_json(values, _json_fragment)
        held = _as_array(values)
        if held is not None:
            return _array_fragments(held)
        found = [None if v is None else canonical_json(plain_value(v)) for v in values]
        return pa.array(found, pa.string())
    except BinaryValueError:
        raise binary_column(name) from None


def column_times(values: Values) -> pa.Array:
    """Each value as a source's own time: `timestamp[us, UTC]`, null where it is no time."""
    plain = values.texts if isinstance(values, JsonTexts) else values
    found = plain.to_pylist() if isinstance(plain, pa.Array) else plain
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    times = [None if (t := value_time(v)) is None else t - epoch for v in found]
    return pa.array(times, pa.duration("us")).cast(pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def labelled_lines(labels: Sequence[str], texts: Sequence[pa.Array], *, rows: int) -> pa.Array:
    """One text per row: a line `Label: text` for each text that says something.

    Args:
        labels: one per column.
        texts: `string` columns.
        rows: how many there are.
    """
    cells = [_cells(label, column) for label, column in zip(labels, texts, strict=True)]
    return _join(cells, "\n", rows)


def metadata_objects(names: Sequence[str], fragments: Sequence[pa.Array], *, rows: int) -> pa.Array:
    """One canonical JSON object per row, nulls left out; see `column_fragments`."""
    parts = [
        _wrap(f"{canonical_json(name)}:", column, "")  # type: ignore[arg-type]
        for name, column in sorted(zip(names, fragments, strict=True), key=lambda pair: pair[0])
    ]
    return _wrap("{", _join(parts, ",", rows), "}")


def filled_links(template: str, texts: dict[str, pa.Array], *, rows: int) -> pa.Array:
    """The link of each row, its values percent-quoted; null where one of them is null."""
    parts: list[Any] = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(pa.scalar(literal, pa.string()))
        if name is not None:
            parts.append(_mended(texts[name], _UNSAFE_IN_LINK, _quote_link))
    return _repeated("".join(p.as_py() for p in parts), rows) if not texts else _concat(parts)


def filled_template(template: str, texts: dict[str, pa.Array], *, rows: int) -> pa.Array:
    """The text of each row by a template of lines.

    A field without a value is empty; a line all of whose fields are empty is left out.
    """
    return _join([_line(line, texts, rows) for line in template.split("\n")], "\n", rows)


def template_fields(template: str) -> tuple[str, ...]:
    """The fields a template names.

    Raises:
        ConfigError: the braces do not match, are empty, or hold more than a name.
    """
    try:
        parts = [part for line in template.split("\n") for part in Formatter().parse(line)]
    except ValueError as error:
        raise ConfigError("The template is wrong", obj=template, todo=str(error)) from None
    fields = [name for _, name, _, _ in parts if name is not None]
    if "" in fields:
        raise ConfigError(
            "The template has empty braces", obj=template, todo="write {column} or {key}"
        )
    if any(form or conversion for _, _, form, conversion in parts):
        raise ConfigError(
            "The template formats a value",
            obj=template,
            todo="write the name alone between the braces; a 'query' may format values",
        )
    return tuple(fields)


def constant_lists(values: Sequence[str], rows: int) -> pa.Array:
    """The same list of strings for each row."""
    offsets = np.arange(rows + 1, dtype=np.int32) * len(values)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(list(values) * rows, pa.string()))


def _as_array(values: Sequence[Any] | pa.Array) -> pa.Array | None:
    """The values as Arrow's, when all of them are of one type that it renders as Python does."""
    if isinstance(values, pa.Array):
        return values
    kinds = set(map(type, values)) - {type(None)}
    kind = _ARROW.get(kinds.pop()) if len(kinds) == 1 else None
    if kind is None:
        return None
    try:
        return pa.array(values, kind)
    except (OverflowError, pa.ArrowInvalid):
        # An integer of more than 64 bits.
        return None


# --- Arrow's columns ------------------------------------------------------------------------------


def _array_texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_string(kind):
        return values
    if pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return values.cast(pa.string())
    if pa.types.is_float64(kind):
        return _float_texts(values)
    if pa.types.is_dictionary(kind):
        return _array_texts(values.dictionary_decode())
    return pa.array([value_text(v) for v in values.to_pylist()], pa.string())


def _float_texts(values: pa.Array) -> pa.Array:
    least, most = _PLAIN_FLOATS
    size = pc.abs(values)
    plain = pc.or_(pc.and_(pc.greater_equal(size, least), pc.less(size, most)), pc.equal(size, 0.0))
    texts = values.cast(pa.string())
    texts = pc.if_else(pc.match_substring(texts, "."), texts, _wrap("", texts, ".0"))
    return _replaced(texts, pc.invert(plain), lambda rows: map(repr, values.take(rows).to_pylist()))


def _array_fragments(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return values.cast(pa.string())
    texts = _array_texts(values)
    if pa.types.is_float64(kind):
        return pc.if_else(pc.is_finite(values), texts, _wrap('"', texts, '"'))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return _quoted(texts)
    found = [None if v is None else canonical_json(plain_value(v)) for v in values.to_pylist()]
    return pa.array(found, pa.string())


def _quoted(texts: pa.Array) -> pa.Array:
    unsafe = pc.match_substring_regex(texts, _UNSAFE_IN_JSON)
    whole = _wrap('"', texts, '"')
    return _replaced(whole, unsafe, lambda rows: map(_quote, texts.take(rows).to_pylist()))


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quote_link(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _mended(texts: pa.Array, unsafe: str, mend: Callable[[str], str]) -> pa.Array:
    """The texts, those in which the pattern is found mended."""
    found = pc.match_substring_regex(texts, unsafe)
    return _replaced(texts, found, lambda rows: map(mend, texts.take(rows).to_pylist()))


def _replaced(texts: pa.Array, mask: pa.Array, make: Callable[[pa.Array], Any]) -> pa.Array:
    """The texts, those where `mask` is true replaced by what `make` gives for their rows."""
    chosen = pc.fill_null(mask, False)
    rows = pc.indices_nonzero(chosen)
    if not len(rows):
        return texts
    return pc.replace_with_mask(texts, chosen, pa.array(list(make(rows)), pa.string()))


# --- JSON -----------------------------------------------------------------------------------------


def _of_json(
    values: JsonTexts, make: Callable[[Any, Callable[[Any], str]], str | None]
) -> pa.Array:
    """`make` of each value that the JSON texts stand for, with the writer that suits it."""
    import orjson

    texts = values.texts
    raw = texts.to_pylist() if isinstance(texts, pa.Array) else texts
    held = texts if isinstance(texts, pa.Array) else _as_strings(texts)
    unsure = pc.fill_null(pc.match_substring_regex(held, _UNCOMMON_JSON), False).to_pylist()
    option = orjson.OPT_SORT_KEYS

    def fast(value: Any) -> str:
        return orjson.dumps(value, option=option).decode()

    found: list[str | None] = []
    for text, careful in zip(raw, unsure, strict=True):
        if text is None:
            found.append(None)
            continue
        if not careful and isinstance(text, str):
            try:
                found.append(make(orjson.loads(text), fast))
                continue
            except ValueError:
                pass
        found.append(make(_loads(text), canonical_json))
    return pa.array(found, pa.string())


def _as_strings(values: Sequence[Any]) -> pa.Array:
    return pa.array([v if isinstance(v, str) else None for v in values], pa.string())


def _loads(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _json_text(value: Any, write: Callable[[Any], str]) -> str | None:
    return write(value) if type(value) is dict else value_text(value)


def _json_fragment(value: Any, write: Callable[[Any], str]) -> str | None:
    if value is None:
        return None
    if type(value) is float and not math.isfinite(value):
        return _quote(repr(value))
    return write(plain_value(value))


# --- joining --------------------------------------------------------------------------------------


def _cells(label: str, texts: pa.Array) -> pa.Array:
    """`label: text`, or the text below its label when it has several lines; null for nothing."""
    empty = pc.equal(pc.binary_length(texts), 0)
    if pc.any(empty).as_py():
        texts = pc.if_else(empty, pa.scalar(None, pa.string()), texts)
    several = pc.match_substring(texts, "\n")
    inline = _wrap(f"{label}: ", texts, "")
    if not pc.any(several).as_py():
        return inline
    return pc.if_else(several, _wrap(f"{label}:\n", texts, ""), inline)


def _line(line: str, texts: dict[str, pa.Array], rows: int) -> pa.Array:
    parts: list[Any] = []
    blank: Any = None
    for literal, name, _, _ in Formatter().parse(line):
        parts.append(pa.scalar(literal, pa.string()))
        if name is None:
            continue
        filled = pc.fill_null(texts[name], "")
        parts.append(filled)
        empty = pc.equal(pc.binary_length(filled), 0)
        blank = empty if blank is None else pc.and_(blank, empty)
    if blank is None:
        return _repeated("".join(part.as_py() for part in parts), rows)
    return pc.if_else(blank, pa.scalar(None, pa.string()), _concat(parts))


def _join(parts: Sequence[pa.Array], separator: str, rows: int) -> pa.Array:
    if not parts:
        return _repeated("", rows)
    # Arrow 26 leaves a row out of the result altogether when all of its parts are null.
    without = pc.is_null(parts[0])
    for part in parts[1:]:
        without = pc.and_(without, pc.is_null(part))
    first = parts[0]
    if pc.any(without).as_py():
        first = pc.if_else(without, "", first)
    return pc.binary_join_element_wise(first, *parts[1:], separator, null_handling="skip")


def _wrap(before: str, texts: pa.Array, after: str) -> pa.Array:
    return _concat([pa.scalar(before, pa.string()), texts, pa.scalar(after, pa.string())])


def _concat(parts: Sequence[Any]) -> pa.Array:
    """The parts put together, null where one is null."""
    return pc.binary_join_element_wise(*parts, pa.scalar("", pa.string()))


def _repeated(text: str, rows: int) -> pa.Array:
    return pa.array([text] * rows, pa.string())
