"""PowerPoint, by lxml: slides in their order, with titles, lists, tables and speaker notes.

Libraries that convert whole documents drop the notes, where the sentences of a talk are.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from headwater.errors import MissingExtraError, ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.office import check_package

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_RELATION = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_LARGEST_PART = 50_000_000
_LARGEST_PACKAGE = 200_000_000
_MAX_SLIDES = 5000
# What a slide says of itself on every page.
_FURNITURE = frozenset({"dt", "ftr", "hdr", "sldNum", "sldImg"})


def parse_pptx(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Each slide as a section under its title, its speaker notes as a quote below it.

    `pages` in the metadata counts slides, and `page_starts` says at which character of the text
    each begins. Hidden slides are part of the file and are kept.
    """
    check_package(data, name=name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            slides = [_slide(parts, at) for at, parts in enumerate(_slides(package, name), 1)]
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise _broken(name, error) from None
    text, starts = join_pages([text for _, text in slides])
    title = next((title for title, _ in slides if title), None)
    return ParsedDocument(text, title, {"pages": len(slides), "page_starts": starts})


def join_pages(pages: list[str]) -> tuple[str, list[int]]:
    """The pages as one text, and the character at which each begins."""
    text = ""
    starts = []
    for page in pages:
        text += "\n\n" if text and page else ""
        starts.append(len(text))
        text += page
    return text, starts


def _slides(package: zipfile.ZipFile, name: str) -> Iterator[tuple[Any, Any]]:
    """The tree of each slide and that of its notes (None without), in the order of the show."""
    budget = _Budget(_LARGEST_PACKAGE)
    root = _tree(package, "ppt/presentation.xml", budget, name)
    targets = _targets(package, "ppt/presentation.xml", budget, name)
    listed = [one.get(f"{_R}id") for one in root.iter(f"{_P}sldId")]
    if len(listed) > _MAX_SLIDES:
        raise ParseError("The show has too many slides", obj=name, todo=f"{len(listed):,}")
    for identity in listed:
        path = targets[identity][1]
        notes = next(
            (
                to
                for kind, to in _targets(package, path, budget, name).values()
                if kind == "notesSlide"
            ),
            None,
        )
        yield (
            _tree(package, path, budget, name),
            _tree(package, notes, budget, name) if notes else None,
        )


class _Budget:
    """Bytes that may still be unpacked from one package."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int, name: str) -> None:
        self.left -= size
        if self.left < 0 or size > _LARGEST_PART:
            raise ParseError("The file grows too large", obj=name, todo="when it is unpacked")


def _tree(package: zipfile.ZipFile, path: str, budget: _Budget, name: str) -> Any:
    try:
        from lxml import etree
    except ImportError:
        raise MissingExtraError.of("lxml", "pipeline") from None
    budget.take(package.getinfo(path).file_size, name)
    with package.open(path) as part:
        content = part.read(_LARGEST_PART + 1)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        return etree.fromstring(content, parser)
    except etree.LxmlError as error:
        raise _broken(name, error) from None


def _targets(
    package: zipfile.ZipFile, path: str, budget: _Budget, name: str
) -> dict[str, tuple[str, str]]:
    """Id -> kind and path of what a part refers to inside of the package."""
    folder, file = posixpath.split(path)
    relations = f"{folder}/_rels/{file}.rels"
    if relations not in package.NameToInfo:
        return {}
    found = {}
    for one in _tree(package, relations, budget, name).iter(_RELATION):
        if one.get("TargetMode") != "External":
            to = posixpath.normpath(posixpath.join("/", folder, one.get("Target", "")))
            found[one.get("Id", "")] = (one.get("Type", "").rpartition("/")[2], to.lstrip("/"))
    return found


def _slide(parts: tuple[Any, Any], number: int) -> tuple[str, str]:
    """The title of a slide, and its markdown."""
    slide, notes = parts
    title = ""
    blocks: list[str] = []
    for shape in _shapes(slide):
        kind = _placeholder(shape)
        if kind in ("title", "ctrTitle") and not title:
            title = " ".join(" ".join(_paragraphs(shape)).split())
        elif kind not in _FURNITURE:
            blocks += _blocks(shape)
    said = (
        []
        if notes is None
        else [
            line
            for shape in _shapes(notes)
            if _placeholder(shape) in ("body", "")
            for line in _paragraphs(shape)
        ]
    )
    head = [f"# {title}" if title else f"# Slide {number}"]
    told = [f"> **Notes:** {said[0]}" + "".join(f"\n> {line}" for line in said[1:])] if said else []
    if not blocks and not told and not title:
        return "", ""
    return title, "\n\n".join([*head, *blocks, *told])


def _shapes(tree: Any) -> Iterator[Any]:
    """Text shapes, tables and what groups hold, in the order of the file."""
    yield from tree.iter(f"{_P}sp", f"{_P}graphicFrame")


def _placeholder(shape: Any) -> str:
    found = next(shape.iter(f"{_P}ph"), None)
    return "" if found is None else found.get("type", "body")


def _blocks(shape: Any) -> Iterator[str]:
    tables = list(shape.iter(f"{_A}tbl"))
    for table in tables:
        yield _table(table)
    if not tables and (lines := list(_bullets(shape))):
        yield "\n".join(lines)


def _bullets(shape: Any) -> Iterator[str]:
    """A shape's paragraphs; those of a body are its list."""
    body = _placeholder(shape) in ("body", "")
    listed = body and next(shape.iter(f"{_P}ph"), None) is not None
    for paragraph in shape.iter(f"{_A}p"):
        text = _text(paragraph)
        if text:
            level = _level(paragraph)
            yield f"{'  ' * level}- {text}" if listed else text


def _level(paragraph: Any) -> int:
    properties = paragraph.find(f"{_A}pPr")
    level = properties.get("lvl", "0") if properties is not None else "0"
    return min(int(level), 8) if level.isdecimal() else 0


def _paragraphs(shape: Any) -> list[str]:
    return [text for one in shape.iter(f"{_A}p") if (text := _text(one))]


def _text(paragraph: Any) -> str:
    parts = []
    for one in paragraph.iter(f"{_A}t", f"{_A}br"):
        parts.append(" " if one.tag == f"{_A}br" else one.text or "")
    return re.sub(r"\s+", " ", "".join(parts)).strip()


def _table(table: Any) -> str:
    rows = [
        [" ".join(_paragraphs(cell)).replace("|", "\\|") for cell in row.iter(f"{_A}tc")]
        for row in table.iter(f"{_A}tr")
    ]
    rows = [row for row in rows if any(row)]
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
    lines.insert(1, f"|{' --- |' * width}")
    return "\n".join(lines)


def _broken(name: str, reason: object) -> ParseError:
    return ParseError("The presentation cannot be read", obj=name, todo=str(reason)[:300])
