"""Markdown and plain text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any

import yaml

from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import decode_naming

_TABLES_LIMIT = 1_000_000
_FRONT_MATTER_LIMIT = 64_000
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")


def parse_text(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Plain text, as it is."""
    text, about = decode_naming(data, name=name, encoding=encoding)
    return ParsedDocument(text.strip("\n"), metadata=about)


def parse_markdown(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Markdown, as it is, without its front matter.

    Scalars of the front matter, and lists of them, become metadata, dates as ISO text; `title` wins
    over the first heading. Its tables (mappings, and lists of them) are knowledge: they follow the
    text as `path: value` lines. Front matter that is no YAML mapping stays part of the text.
    """
    text, about = decode_naming(data, name=name, encoding=encoding)
    metadata, tables, body = split_front_matter(text)
    title = metadata.get("title")
    parts = [part for part in (body.strip("\n"), *tables) if part.strip()]
    return ParsedDocument(
        "\n\n".join(parts),
        str(title) if title is not None else first_heading(body),
        {**metadata, **about},
    )


def split_front_matter(text: str) -> tuple[dict[str, Any], list[str], str]:
    """What stands between two `---` lines at the top, and the text after them.

    Returns:
        scalars and lists of scalars by name, blocks of `path: value` lines, and the text.
    """
    nothing: tuple[dict[str, Any], list[str], str] = ({}, [], text)
    if not text.startswith("---"):
        return nothing
    head, _, rest = text.partition("\n")
    if head.rstrip() != "---":
        return nothing
    size = 0
    for line in _lines(rest):
        end = size + len(line) + 1
        if line.rstrip() in ("---", "..."):
            fields = _fields(rest[:size])
            return nothing if fields is None else (*fields, rest[end:])
        size = end
        if size > _FRONT_MATTER_LIMIT:
            break
    return nothing


def first_heading(text: str) -> str | None:
    """The text of the first heading of a markdown document, without its marks."""
    fence = ""
    before = ""
    for line in _lines(text):
        stripped = line.strip()
        indented = line.startswith(("    ", "\t"))
        if fence:
            if stripped.startswith(fence) and not stripped.strip(fence[0]):
                fence = ""
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[: len(stripped) - len(stripped.lstrip(stripped[0]))]
        elif not indented and (title := _atx(stripped)):
            return title
        elif not indented and before and _is_rule(stripped, "=-") and _is_prose(before):
            return heading_text(before)
        before = "" if fence or indented else stripped
    return None


def heading_text(text: str) -> str:
    """A heading's words: links become their text, a trailing `{#anchor}` goes."""
    text = _LINK.sub(r"\1", text[:1000]).strip()
    if text.endswith("}") and (start := text.rfind("{")) > 0:
        text = text[:start].rstrip()
    return text.strip("*_").strip()


def escape_marks(line: str) -> str:
    """`line` of running text, so that markdown sees neither a heading nor a fence in it."""
    stripped = line.lstrip()
    if stripped.startswith(("```", "~~~")) or re.match(r"#{1,6}(\s|$)", stripped):
        return line[: len(line) - len(stripped)] + "\\" + stripped
    return line


class _EndlessError(Exception):
    """Aliases made a short block endless; it is text like any other then."""


def _fields(block: str) -> tuple[dict[str, Any], list[str]] | None:
    """The fields of a YAML mapping and its tables, None when `block` is none or has no end."""
    try:
        # The C loader overflows the stack on nested brackets; this one raises RecursionError.
        values = yaml.load(block, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    if not isinstance(values, Mapping):
        return None if values is not None else ({}, [])
    fields: dict[str, Any] = {}
    tables: list[str] = []
    for key, value in values.items():
        kept = [_scalar(item) for item in value] if isinstance(value, list) else _scalar(value)
        try:
            if isinstance(kept, list) and any(isinstance(item, list | dict) for item in value):
                tables += _blocks(f"{key}", enumerate(value))
            elif isinstance(value, dict):
                tables += _blocks(f"{key}", [(None, value)])
            elif kept is not None and kept != []:
                fields[str(key)] = kept
        except _EndlessError:
            return None
    return fields, tables


def _blocks(name: str, items: Iterable[tuple[int | None, object]]) -> Iterator[str]:
    """A block of lines per item of a table, without recursion and not endless."""
    for number, item in items:
        path = name if number is None else f"{name}[{number}]"
        stack: list[tuple[str, object]] = [(path, item)]
        lines: list[str] = []
        size = 0
        while stack:
            path, value = stack.pop()
            size += len(path)
            if isinstance(value, dict):
                stack += [(f"{path}.{key}", inner) for key, inner in reversed(value.items())]
            elif isinstance(value, list):
                numbered = [(f"{path}[{at}]", inner) for at, inner in enumerate(value)]
                stack += reversed(numbered)
            elif (scalar := _scalar(value)) is not None and scalar != "":
                lines.append(f"{path}: {scalar}")
                size += len(lines[-1])
            if size > _TABLES_LIMIT:
                raise _EndlessError
        yield "\n".join(lines)


def _scalar(value: object) -> str | int | float | bool | None:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > 2**63:
        return None
    return value if isinstance(value, str | int | float | bool) else None


def _atx(stripped: str) -> str:
    """The text of a `# heading`, empty when the line is none."""
    marks = len(stripped) - len(stripped.lstrip("#"))
    if not 1 <= marks <= 6 or not stripped[marks : marks + 1].isspace():
        return ""
    text = stripped[marks:].strip()
    closed = text.rstrip("#")
    return heading_text(closed if not closed or closed[-1].isspace() else text)


def _is_rule(stripped: str, marks: str) -> bool:
    return len(stripped) > 1 and stripped[0] in marks and not stripped.strip(stripped[0])


def _is_prose(stripped: str) -> bool:
    return not stripped.startswith((">", "- ", "* ", "+ ", "|", "<", "---", "==="))


def _lines(text: str) -> Iterator[str]:
    """The lines of `text`, one by one: most callers stop after a few."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        if end < 0:
            end = len(text)
        yield text[start:end]
        start = end + 1
