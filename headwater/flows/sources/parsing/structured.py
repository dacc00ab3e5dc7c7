"""CSV, TSV, JSON and JSON lines as `name: value` lines, which embed far better than their syntax.

Numbers keep the digits they were written with. Empty values and nulls are left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from headwater.errors import ParseError
from headwater.flows.sources.parsing import MAX_TEXT, ParsedDocument
from headwater.flows.sources.parsing.decoding import decode, decode_naming

_FIELD_LIMIT = 2**31 - 1


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs: a name that occurs twice keeps both values."""


def parse_csv(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """One block of `header: value` lines per row; the separator is the header line's own."""
    text, about = decode_naming(data, name=name, encoding=encoding)
    return _parse_rows(text, about, name=name, delimiter=_delimiter(text))


def parse_tsv(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """One block of `header: value` lines per row of tab-separated values."""
    text, about = decode_naming(data, name=name, encoding=encoding)
    return _parse_rows(text, about, name=name, delimiter="\t")


def parse_json(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """One `path: value` line per scalar: `items[0].price: 3.10`."""
    value = _read(decode(data, name=name, encoding=encoding), name=name, line=1)
    return ParsedDocument(_join(_flatten(value), "\n", name=name))


def parse_jsonl(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """One block of `path: value` lines per line."""
    lines = decode(data, name=name, encoding=encoding).split("\n")
    blocks = (
        _join(_flatten(_read(line, name=name, line=number)), "\n", name=name)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    return ParsedDocument(_join(blocks, "\n\n", name=name))


def _parse_rows(text: str, about: dict[str, str], *, name: str, delimiter: str) -> ParsedDocument:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if any(cell.strip() for cell in row)), [])
        body = _join((_block(header, row) for row in reader), "\n\n", name=name)
    except csv.Error as error:
        raise ParseError(
            "The file is not valid CSV", obj=name, todo=f"line {reader.line_num}: {error}"
        ) from None
    return ParsedDocument(body or delimiter.join(header).strip(), metadata=about)


def _block(header: list[str], row: list[str]) -> str:
    lines = []
    for at, cell in enumerate(row):
        value = cell.strip()
        if value:
            column = header[at].strip() if at < len(header) else ""
            lines.append(f"{column or f'column {at + 1}'}: {value}")
    return "\n".join(lines)


def _delimiter(text: str) -> str:
    """The separator that occurs most in the first line, outside of quotes."""
    first = text.lstrip("\n").partition("\n")[0]
    plain = "".join(first.split('"')[::2])
    return max(",;\t|", key=plain.count)


def _read(text: str, *, name: str, line: int) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_Object,
            parse_int=str,
            parse_float=str,
            parse_constant=_refuse,
        )
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1}, column {error.colno}: {error.msg}"
    except ValueError as error:
        where = f"line {line}: {error}"
    except RecursionError:
        where = f"line {line}: it is nested too deeply"
    raise ParseError("The file is not valid JSON", obj=name, todo=where)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def _flatten(value: object) -> Iterator[str]:
    """A line per scalar, without recursion: the depth is the document's choice."""
    stack = [iter([("", value)])]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        path, inner = item
        if isinstance(inner, list):
            stack.append(_children(path, inner))
        elif inner is not None and inner != "":
            text = str(inner).lower() if isinstance(inner, bool) else str(inner)
            yield f"{path}: {text}" if path else text


def _children(path: str, value: list[Any]) -> Iterator[tuple[str, object]]:
    if isinstance(value, _Object):
        for key, inner in value:
            yield f"{path}.{key}" if path else key, inner
    else:
        for at, inner in enumerate(value):
            yield f"{path}[{at}]", inner


def _join(parts: Iterable[str], separator: str, *, name: str) -> str:
    """The parts that are not empty; stops at `MAX_TEXT`, as long paths over many values add up."""
    kept = []
    size = 0
    for part in parts:
        if part:
            kept.append(part)
            size += len(part) + len(separator)
            if size > MAX_TEXT:
                raise ParseError(
                    "The file grows too large as text",
                    obj=name,
                    todo=f"over {MAX_TEXT:,} characters",
                )
    return separator.join(kept)
