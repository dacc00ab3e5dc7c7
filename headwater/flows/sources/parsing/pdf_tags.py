"""Tagged PDF: the structure that the author's program wrote down, as markdown.

Word, LibreOffice and most tools for accessible documents mark headings, lists and tables, and leave
out running heads and page numbers. What they marked needs no guess.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from headwater.flows.sources.parsing.formats import encodable
from headwater.flows.sources.parsing.text import escape_marks

_LEVELS = {"Title": 1, "H": 2, **{f"H{level}": level for level in range(1, 7)}}
_PARAGRAPHS = frozenset(
    {"P", "Caption", "BlockQuote", "Note", "TOCI", "Code", "Formula", "BibEntry"}
)
_ROWS = frozenset({"THead", "TBody", "TFoot"})
_MAX_DEPTH = 100
_MAX_ELEMENTS = 200_000
_LONG = 100
_STRIDE = 8
# What pdfium puts where a word was broken at the end of a line.
_BREAKS = (0x02, 0xFFFE)
_ChildAt = Callable[[int], tuple[Any, int] | None]
_BULLETS = frozenset("•◦▪‣–-*·●○■")


@dataclass(frozen=True)
class TaggedPage:
    """A page by its tags.

    Attributes:
        text: markdown.
        headings: how many of its blocks are headings.
    """

    text: str
    headings: int


def is_tagged(document: Any) -> bool:
    """Whether the document says that it is tagged."""
    from pypdfium2 import raw

    return bool(raw.FPDFCatalog_IsTagged(document.raw))


def read_tags(page: Any, text_page: Any, places: dict[int, int]) -> TaggedPage | None:
    """The page by its tags; None when it has none or they are out of all bounds.

    Args:
        page: of pypdfium2.
        text_page: the same page's text.
        places: where the page before was found in long lists of elements, by depth; kept here
            from page to page, as a page's own elements are a few of all the document's.
    """
    from pypdfium2 import raw

    tree = raw.FPDF_StructTree_GetForPage(page.raw)
    if not tree:
        return None
    try:
        reader = _Reader(_marked(text_page), places)
        reader.read(tree)
    except _EndlessError:
        return None
    finally:
        raw.FPDF_StructTree_Close(tree)
    return TaggedPage("\n\n".join(reader.blocks()), reader.headings)


class _EndlessError(Exception):
    """The tree is deeper or larger than any document is."""


def _marked(text_page: Any) -> dict[int, str]:
    """Mark -> its text. What pdfium put between two characters belongs to the one before."""
    object_of, code_of, mark_of = _calls()
    address = ctypes.cast(text_page.raw, ctypes.c_void_p).value
    count = text_page.count_chars()
    parts: dict[int, list[str]] = {}
    marks: dict[int, int] = {}
    mark, at = -1, 0
    while at < count:
        thing = object_of(address, at)
        if thing:
            if thing not in marks:
                marks[thing] = mark_of(thing)
            mark = marks[thing]
        # An object's characters follow each other: if it goes on at the end of a stride, it does
        # so all along it.
        end = at + 1
        while thing and end + _STRIDE < count and object_of(address, end + _STRIDE) == thing:
            end += _STRIDE
        codes = (code_of(address, one) for one in range(at, end))
        found = [chr(one) for one in codes if one and one not in _BREAKS and one <= 0x10FFFF]
        parts.setdefault(mark, []).extend(found)
        at = end
    return {mark: encodable("".join(found)) for mark, found in parts.items()}


@cache
def _calls() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Character -> object, character -> code point, object -> mark; for plain addresses.

    A page has thousands of characters, and the bindings make an object for each pointer.
    """
    from pypdfium2 import raw

    def plain(function: Any, result: Any, *arguments: Any) -> Callable[..., Any]:
        where = ctypes.cast(function, ctypes.c_void_p).value or 0
        made: Callable[..., Any] = ctypes.CFUNCTYPE(result, *arguments)(where)
        return made

    return (
        plain(raw.FPDFText_GetTextObject, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),
        plain(raw.FPDFText_GetUnicode, ctypes.c_uint, ctypes.c_void_p, ctypes.c_int),
        plain(raw.FPDFPageObj_GetMarkedContentID, ctypes.c_int, ctypes.c_void_p),
    )


class _Reader:
    """Walks the elements of one page.

    Attributes:
        headings: met so far.
    """

    def __init__(self, marked: dict[int, str], places: dict[int, int]) -> None:
        self._marked = marked
        self._places = places
        self._missing = {mark for mark, text in marked.items() if mark >= 0 and text.strip()}
        self._left = _MAX_ELEMENTS
        self._out: list[str] = []
        self._items: list[str] = []
        self.headings = 0

    def blocks(self) -> list[str]:
        """The blocks so far, in the order of the tree."""
        self._end_list()
        return self._out

    def read(self, tree: Any) -> None:
        """Take in the tree of the page."""
        from pypdfium2 import raw

        def child(at: int) -> tuple[Any, int] | None:
            element = raw.FPDF_StructTree_GetChildAtIndex(tree, at)
            return (element, -1) if element else None

        count = raw.FPDF_StructTree_CountChildren(tree)
        for element, _ in self._few_of(child, count, 0):
            self.walk(element, 1)

    def walk(self, element: Any, depth: int = 0, indent: int = 0) -> None:
        """Take in an element and what is below it."""
        kind = _kind(element)
        if kind in _LEVELS:
            self._heading(_LEVELS[kind], self._flat(element, depth))
        elif kind in _PARAGRAPHS:
            self._block(escape_marks(self._flat(element, depth)))
        elif kind == "Table":
            self._block(self._table(element, depth))
        elif kind == "LI":
            self._item(element, depth, indent)
        elif kind == "Figure":
            self._block(self._flat(element, depth) or _alternative(element))
        else:
            inner = indent + 1 if kind == "L" and indent >= 0 else indent
            for child, mark in self._children(element, depth):
                if child is not None:
                    self.walk(child, depth + 1, inner)
                elif text := _tidy(self._marked.get(mark, "")):
                    self._block(escape_marks(text))

    def _children(self, element: Any, depth: int) -> list[tuple[Any, int]]:
        """Each child: an element, or None and the mark of a text."""
        from pypdfium2 import raw

        if depth > _MAX_DEPTH:
            raise _EndlessError
        count = raw.FPDF_StructElement_CountChildren(element)
        if count > _LONG:
            return self._few_of(partial(_child, element), count, depth)
        self._left -= count
        if self._left < 0:
            raise _EndlessError
        found = (_child(element, at) for at in range(count))
        return [one for one in found if one is not None]

    def _few_of(self, child: _ChildAt, count: int, depth: int) -> list[tuple[Any, int]]:
        """The children that are on this page: looked for from where the last page ended."""
        if not count:
            return []
        start = min(self._places.get(depth, 0), count - 1)
        found: dict[int, tuple[Any, int]] = {}
        missing = set(self._missing)
        for step in range(count):
            at = (start + step) % count
            one = child(at)
            if one is not None:
                found[at] = one
                missing -= {one[1]} if one[0] is None else self._marks(one[0], depth + 1)
                if not missing:
                    break
        if found:
            self._places[depth] = max(found)
        self._left -= len(found)
        return [found[at] for at in sorted(found)]

    def _marks(self, element: Any, depth: int) -> set[int]:
        marks: set[int] = set()
        for child, mark in self._children(element, depth):
            marks |= {mark} if child is None else self._marks(child, depth + 1)
        return marks

    def _raw(self, element: Any, depth: int) -> str:
        parts = [
            self._marked.get(mark, "") if child is None else self._raw(child, depth + 1)
            for child, mark in self._children(element, depth)
        ]
        return "".join(parts)

    def _flat(self, element: Any, depth: int) -> str:
        return _tidy(self._raw(element, depth))

    def _block(self, text: str) -> None:
        self._end_list()
        if text:
            self._out.append(text)

    def _heading(self, level: int, text: str) -> None:
        if text:
            self.headings += 1
            self._block(f"{'#' * level} {text}")

    def _end_list(self) -> None:
        if self._items:
            self._out.append("\n".join(self._items))
            self._items = []

    def _item(self, element: Any, depth: int, indent: int) -> None:
        label, texts, inner = "", [], []
        for child, mark in self._children(element, depth):
            kind = "" if child is None else _kind(child)
            if child is None:
                texts.append(self._marked.get(mark, ""))
            elif kind == "Lbl":
                label = self._flat(child, depth + 1)
            elif kind == "L":
                inner.append(child)
            else:
                text, lists = self._body(child, depth + 1)
                texts.append(text)
                inner += lists
        text = _tidy(" ".join(texts))
        marker = "-" if not label or set(label) <= _BULLETS else label
        if marker == "-" and text[:1] in _BULLETS:
            text = text[1:].strip()
        if text:
            self._items.append(f"{'  ' * max(0, indent - 1)}{marker} {text}")
        for one in inner:
            self.walk(one, depth + 2, indent)

    def _body(self, element: Any, depth: int) -> tuple[str, list[Any]]:
        """The text of an item's body, and the lists in it."""
        texts, lists = [], []
        for child, mark in self._children(element, depth):
            if child is None:
                texts.append(self._marked.get(mark, ""))
            elif _kind(child) == "L":
                lists.append(child)
            else:
                texts.append(self._raw(child, depth + 1))
        return " ".join(texts), lists

    def _table(self, element: Any, depth: int) -> str:
        rows = [row for row in self._rows(element, depth) if any(row)]
        if not rows:
            return ""
        width = max(len(row) for row in rows)
        lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
        lines.insert(1, f"|{' --- |' * width}")
        return "\n".join(lines)

    def _rows(self, element: Any, depth: int) -> Iterator[list[str]]:
        for child, _ in self._children(element, depth):
            kind = "" if child is None else _kind(child)
            if kind == "TR":
                yield [
                    self._flat(cell, depth + 2).replace("|", "\\|")
                    for cell, _ in self._children(child, depth + 1)
                    if cell is not None
                ]
            elif kind in _ROWS:
                yield from self._rows(child, depth + 1)


def _child(element: Any, at: int) -> tuple[Any, int] | None:
    """One child, None when it is not on this page."""
    from pypdfium2 import raw

    child = raw.FPDF_StructElement_GetChildAtIndex(element, at)
    if child:
        return child, -1
    mark = raw.FPDF_StructElement_GetChildMarkedContentID(element, at)
    return (None, mark) if mark >= 0 else None


def _kind(element: Any) -> str:
    from pypdfium2 import raw

    return _said(raw.FPDF_StructElement_GetType, element)


def _alternative(element: Any) -> str:
    """What a picture shows, in the words of its author."""
    from pypdfium2 import raw

    return _tidy(encodable(_said(raw.FPDF_StructElement_GetAltText, element)))


def _said(ask: Any, element: Any) -> str:
    size = ask(element, None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    ask(element, buffer, size)
    return buffer.raw[: size - 2].decode("utf-16-le", "replace")


def _tidy(text: str) -> str:
    return " ".join(text.split())
