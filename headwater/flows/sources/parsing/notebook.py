"""Jupyter notebooks: text cells as they are, code in fences, and what the code printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from headwater.errors import ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import decode
from headwater.flows.sources.parsing.markup import html_to_markdown
from headwater.flows.sources.parsing.text import first_heading, split_front_matter

_OUTPUT_CHARS = 20_000
_COLOURS = re.compile("\x1b\\[[0-9;]*[A-Za-z]")


def parse_notebook(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """The cells in their order. Of an output its table (HTML) or plain text is kept, images are not.

    `language` stands in the metadata, and the fields of a front matter in a first raw cell.
    """
    try:
        book = json.loads(decode(data, name=name, encoding="utf-8"))
    except ValueError as error:
        raise ParseError("The notebook is not valid JSON", obj=name, todo=str(error)) from None
    cells = _cells(book)
    if cells is None:
        raise ParseError("The file is no notebook", obj=name, todo="it has no list of cells")
    language = _language(book)
    metadata: dict[str, Any] = {"language": language} if language else {}
    parts: list[str] = []
    for at, cell in enumerate(cells):
        source = _joined(cell.get("source", cell.get("input", "")))
        kind = cell.get("cell_type")
        if kind == "code":
            parts += _code(cell, source, language, name=name)
        elif kind == "heading":
            parts.append(f"{'#' * _level(cell)} {' '.join(source.split())}")
        elif kind == "raw" and at == 0 and source.startswith("---"):
            fields, tables, rest = split_front_matter(source + "\n")
            metadata |= fields
            parts += [*tables, rest]
        else:
            parts.append(source)
    text = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    title = metadata.get("title")
    return ParsedDocument(text, str(title) if title is not None else first_heading(text), metadata)


def _cells(book: Any) -> list[dict[str, Any]] | None:
    """The cells of a notebook of format 4, or 3 with its sheets."""
    if not isinstance(book, dict):
        return None
    found = book.get("cells")
    if found is None and isinstance(book.get("worksheets"), list):
        sheets = [one for one in book["worksheets"] if isinstance(one, dict)]
        found = [cell for sheet in sheets for cell in sheet.get("cells", [])]
    if not isinstance(found, list):
        return None
    return [cell for cell in found if isinstance(cell, dict)]


def _language(book: dict[str, Any]) -> str:
    about = book.get("metadata")
    about = about if isinstance(about, dict) else {}
    for name, field in (("kernelspec", "language"), ("language_info", "name")):
        inner = about.get(name)
        if isinstance(inner, dict) and isinstance(inner.get(field), str):
            return str(inner[field])
    return ""


def _level(cell: dict[str, Any]) -> int:
    level = cell.get("level")
    return level if isinstance(level, int) and 1 <= level <= 6 else 1


def _code(cell: dict[str, Any], source: str, language: str, *, name: str) -> Iterator[str]:
    if source.strip():
        yield _fence(source, language)
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        if isinstance(output, dict):
            yield _output(output, name=name)


def _output(output: dict[str, Any], *, name: str) -> str:
    if output.get("output_type") == "error":
        return _fence(f"{output.get('ename', '')}: {output.get('evalue', '')}", "")
    if "text" in output:
        return _fence(_joined(output["text"]), "")
    data = output.get("data")
    data = data if isinstance(data, dict) else {}
    if "text/markdown" in data:
        return _joined(data["text/markdown"])
    page = _joined(data.get("text/html", ""))
    if "<table" in page:
        return html_to_markdown(page, name=name)[0]
    return _fence(_joined(data.get("text/plain", "")), "")


def _fence(text: str, language: str) -> str:
    text = _COLOURS.sub("", text).strip("\n")
    if not text.strip():
        return ""
    if len(text) > _OUTPUT_CHARS and not language:
        text = text[:_OUTPUT_CHARS] + "\n…"
    ticks = max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1
    return f"{'`' * ticks}{language}\n{text}\n{'`' * ticks}"


def _joined(source: Any) -> str:
    """A cell's text, which the format allows to be a list of lines."""
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""
