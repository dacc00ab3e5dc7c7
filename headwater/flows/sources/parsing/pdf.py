"""PDF, by pypdfium2: the text of each page, with the document's own tags or outline as its headings.

Headings guessed from font sizes move whenever a document is re-paginated, and take the heading
path of every chunk with them; the outline is the author's. Lines at the top or bottom of a page
that come back on more than half of the pages are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from headwater.errors import MissingExtraError, ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.formats import encodable, no_text
from headwater.flows.sources.parsing.office import extract
from headwater.flows.sources.parsing.pdf_pages import Page, read_pages
from headwater.flows.sources.parsing.text import escape_marks, first_heading

_EDGE = 2
_MIN_PAGES = 4
_LEAST_COVERED = 0.85
_BETWEEN = re.compile(r"[\W_]+")
_BAD_TITLE = re.compile(r"^(untitled.*|microsoft word - .*|.*\.[a-z0-9]{2,4})$", re.IGNORECASE)


@dataclass(frozen=True)
class _Entry:
    """One entry of the outline: its page from 0, its level from 1."""

    page: int
    level: int
    title: str


def parse_pdf(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """The text of a PDF; `pages` and `page_starts` (offsets into the text) stand in the metadata.

    What pdfium cannot open at all is tried by xberg, which repairs more.

    Raises:
        ParseError: it is protected, damaged, without text, or its text is not made of characters.
    """
    try:
        import pypdfium2
    except ImportError:
        raise MissingExtraError.of("pypdfium2", "pipeline") from None
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        return _repaired(data, str(error), name=name)
    try:
        document.init_forms()
        read = read_pages(document, name=name)
        outline = _read_outline(document)
        title = " ".join((document.get_metadata_value("Title") or "").split())
    finally:
        document.close()
    plain = _plain(read)
    if not any(any(page) for page in plain):
        raise no_text(name, f"none on {len(plain)} pages: a scan, or damaged")
    pages = [_with_headings(page, at, outline) for at, page in enumerate(plain)]
    text, starts = _join_pages(_by_tags(read, outline) or pages)
    if not title or _BAD_TITLE.match(title):
        title = outline[0].title if outline else ""
    return ParsedDocument(text, title or None, {"pages": len(pages), "page_starts": starts})


def _repaired(data: bytes, why: str, *, name: str) -> ParsedDocument:
    if "password" in why.lower():
        raise ParseError("The PDF is protected by a password", obj=name, todo="save it without one")
    broken = ParseError("The PDF cannot be opened", obj=name, todo=why)
    try:
        text = extract(data, "pdf", name=name).strip("\n")
    except ParseError:
        raise broken from None
    if not text.strip():
        raise broken
    return ParsedDocument(text, first_heading(text))


def _read_outline(document: Any) -> list[_Entry]:
    entries = []
    for bookmark in document.get_toc(max_depth=6):
        target = bookmark.get_dest()
        page = target.get_index() if target else None
        title = encodable(" ".join(bookmark.get_title().split()))
        if page is not None and title:
            entries.append(_Entry(page, bookmark.level + 1, title))
    return entries


def _plain(read: list[Page]) -> list[list[str]]:
    """The lines of each page, running heads and feet left out."""
    stripped = _strip_running_lines([page.lines for page in read])
    return [[*lines, *page.written] for lines, page in zip(stripped, read, strict=True)]


def _by_tags(read: list[Page], outline: list[_Entry]) -> list[str] | None:
    """The pages by their tags; None where those do not cover the text.

    An outline is used where the tags know no heading.
    """
    tags = [page.tags for page in read]
    if not any(tags):
        return None
    plain = sum(len(_letters(line)) for lines in _plain(read) for line in lines)
    covered = sum(len(_letters(one.text)) for one in tags if one)
    if covered < _LEAST_COVERED * plain:
        return None
    texts = [
        "\n".join([one.text if one else "", *page.written])
        for one, page in zip(tags, read, strict=True)
    ]
    if outline and not any(one.headings for one in tags if one):
        texts = [_with_headings(text.split("\n"), at, outline) for at, text in enumerate(texts)]
    return [text.strip("\n") for text in texts]


def _strip_running_lines(pages: list[list[str]]) -> list[list[str]]:
    """Leave out head and foot lines that more than half of the pages share but for digits."""
    if len(pages) < _MIN_PAGES:
        return pages
    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({_masked(line) for line in (*page[:_EDGE], *page[-_EDGE:]) if line.strip()})
    running = {line for line, count in seen.items() if count * 2 > len(pages)}
    return [_strip_edges(page, running) for page in pages]


def _strip_edges(page: list[str], running: set[str]) -> list[str]:
    """Peel running lines off both ends, from the outside: what lies behind text is text."""
    first, last = 0, len(page)
    while first < min(_EDGE, last) and _masked(page[first]) in running:
        first += 1
    while last > max(len(page) - _EDGE, first) and _masked(page[last - 1]) in running:
        last -= 1
    return page[first:last]


def _masked(line: str) -> str:
    return re.sub(r"\d+", "#", " ".join(line.split()))


def _with_headings(lines: list[str], page: int, outline: list[_Entry]) -> str:
    """One page's text; an outline entry replaces the line that says it, or else opens the page."""
    words = [_letters(line) for line in lines]
    headings: dict[int, list[_Entry]] = {}
    covered: set[int] = set()
    start = 0
    for entry in (one for one in outline if one.page == page):
        at, used = _find(words, _letters(entry.title), start)
        headings.setdefault(at, []).append(entry)
        covered.update(range(at, at + used))
        start = at + used
    out: list[str] = []
    for at, line in enumerate([*lines, ""]):
        for entry in headings.get(at, ()):
            out += ["", f"{'#' * min(entry.level, 6)} {entry.title}", ""]
        if at not in covered:
            out.append(escape_marks(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n")


def _find(words: list[str], title: str, start: int) -> tuple[int, int]:
    """Where `title` stands: its first line and how many it takes; 0 lines when it is nowhere."""
    for at in range(start, len(words)):
        joined = ""
        for used in range(1, 4):
            joined += "".join(words[at + used - 1 : at + used])
            if title and (joined == title or joined.lstrip("0123456789") == title):
                return at, used
    return start, 0


def _letters(text: str) -> str:
    """What is left to compare when spaces and punctuation, which outlines vary, are gone."""
    return _BETWEEN.sub("", text.casefold())


def _join_pages(pages: list[str]) -> tuple[str, list[int]]:
    """The pages in one text, and where each begins; a sentence may run over a page's end."""
    parts: list[str] = []
    starts = []
    size = 0
    last = ""
    for page in pages:
        if page and last:
            gap = "\n" if last not in ".!?:" and page[0].islower() else "\n\n"
            parts.append(gap)
            size += len(gap)
        starts.append(size)
        if page:
            parts.append(page)
            size += len(page)
            last = page[-1]
    return "".join(parts), starts
