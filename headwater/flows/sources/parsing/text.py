"""Markdown, reStructuredText and plain text, and the decoding they share with other formats."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any

import yaml

from headwater.errors import ParseError
from headwater.flows.sources.parsing import ParsedDocument

_TABLES_LIMIT = 1_000_000
_FRONT_MATTER_LIMIT = 64_000
# UTF-32 before UTF-16: the little-endian mark of the latter starts that of the former.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ADORNMENTS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")


def byte_order_mark(data: bytes) -> tuple[str, int] | None:
    """The encoding that the mark at the start of `data` names, and the mark's length in bytes."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return None


def decode(data: bytes, *, name: str, encoding: str) -> str:
    """The text of `data`: its byte order mark decides, or else `encoding`, strictly.

    Line ends become line feeds.

    Raises:
        ParseError: the bytes are not of that encoding (it names the offset), or look binary.
    """
    encoding, skip = byte_order_mark(data) or (encoding, 0)
    try:
        text = data[skip:].decode(encoding)
    except UnicodeDecodeError as error:
        raise ParseError(
            f"The file is not {encoding}",
            obj=name,
            todo=f"byte {skip + error.start}: {error.reason}",
        ) from None
    except UnicodeError as error:
        raise ParseError(f"The file is not {encoding}", obj=name, todo=str(error)) from None
    nul = text.find("\x00")
    if nul >= 0:
        raise ParseError("The file looks binary", obj=name, todo=f"character {nul} is NUL")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_text(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Plain text, as it is."""
    return ParsedDocument(decode(data, name=name, encoding=encoding).strip("\n"))


def parse_markdown(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Markdown, as it is, without its front matter.

    Scalars of the front matter, and lists of them, become metadata, dates as ISO text; `title` wins
    over the first heading. Its tables (mappings, and lists of them) are knowledge: they follow the
    text as `path: value` lines. Front matter that is no YAML mapping stays part of the text.
    """
    text = decode(data, name=name, encoding=encoding)
    metadata, tables, body = split_front_matter(text)
    title = metadata.get("title")
    parts = [part for part in (body.strip("\n"), *tables) if part.strip()]
    return ParsedDocument(
        "\n\n".join(parts), str(title) if title is not None else first_heading(body), metadata
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


def parse_rst(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """reStructuredText: underlined titles become markdown headings, all else stays.

    The level of an underline is, as in reStructuredText, the order in which its style first occurs.
    """
    lines = decode(data, name=name, encoding=encoding).split("\n")
    levels: dict[tuple[str, bool], int] = {}
    out: list[str] = []
    title = None
    at = 0
    while at < len(lines):
        found = _rst_title(lines, at)
        if found is None:
            out.append(lines[at])
            at += 1
            continue
        text, style, used = found
        level = levels.setdefault(style, len(levels) + 1)
        out += [f"{'#' * min(level, 6)} {text}", ""]
        title = title or text
        at += used
        while at < len(lines) and not lines[at].strip():
            at += 1
    return ParsedDocument("\n".join(out).strip("\n"), title)


def _rst_title(lines: list[str], at: int) -> tuple[str, tuple[str, bool], int] | None:
    """The title that starts at line `at`: its text, its style and how many lines it takes."""
    if at and lines[at - 1].strip():
        return None
    here, below, third, fourth = (*lines[at : at + 4], "", "", "", "")[:4]
    if _is_adornment(here):
        # A blank line must follow, or a table of one column would be taken for a title.
        framed = below.strip() and third.rstrip() == here.rstrip() and not fourth.strip()
        if framed and not _is_adornment(below) and len(here.rstrip()) >= len(below.strip()):
            return below.strip(), (here[0], True), 3
        return None
    if not here.strip() or here[0].isspace() or here.startswith(".. ") or not _is_adornment(below):
        return None
    if len(below.rstrip()) < min(4, len(here.strip())):
        return None
    return here.strip(), (below[0], False), 2


def _is_adornment(line: str) -> bool:
    line = line.rstrip()
    return len(line) > 1 and line[0] in _ADORNMENTS and line == line[0] * len(line)


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
