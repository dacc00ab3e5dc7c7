"""One page of a PDF as lines: its text, and what is written into forms and notes on it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headwater.errors import ParseError
from headwater.flows.sources.parsing.formats import encodable
from headwater.flows.sources.parsing.pdf_tables import with_tables
from headwater.flows.sources.parsing.pdf_tags import TaggedPage, is_tagged, read_tags

# What pdfium puts where a word was broken at the end of a line.
_HYPHEN = re.compile("[\x02\ufffe][ \r\n]*")
_SAMPLE = 200
_MOST_UNMAPPED = 0.5
_FREE_TEXT, _WIDGET = 3, 20
_HIDDEN = 2 | 32
_FILLED = (4, 5, 6)  # combo box, list box, text field: not buttons, not signatures


@dataclass(frozen=True)
class Page:
    """What one page says.

    Attributes:
        lines: its text, line by line.
        written: lines that were filled in or put on the page later.
        tags: the same page by its tags; None when it has none.
    """

    lines: list[str]
    written: list[str]
    tags: TaggedPage | None


def read_pages(document: Any, *, name: str) -> list[Page]:
    """Read every page.

    Raises:
        ParseError: a page cannot be read, or its fonts do not tell which characters they show.
    """
    places: dict[int, int] | None = {} if is_tagged(document) else None
    return [_read_page(document, at, places, name=name) for at in range(len(document))]


def _read_page(document: Any, at: int, places: dict[int, int] | None, *, name: str) -> Page:
    """Read page `at`, from 0; its tags only with `places` to look for them.

    Raises:
        ParseError: the page cannot be read, or its fonts do not tell which characters they show.
    """
    import pypdfium2

    try:
        page = document[at]
        text_page = page.get_textpage()
        content = text_page.get_text_range()
        _check_characters(text_page, at, name=name)
        lines = _lines_of(content)
        tags = None
        if places is None:
            lines = with_tables(page, text_page, lines)
        else:
            tags = read_tags(page, text_page, places)
        written = list(_written(document, page))
        text_page.close()
        page.close()
    except pypdfium2.PdfiumError as error:
        raise ParseError(f"Page {at + 1} cannot be read", obj=name, todo=str(error)) from None
    return Page(lines, [line for line in written if line not in lines], tags)


def _lines_of(content: str) -> list[str]:
    content = _HYPHEN.sub("", encodable(content)).replace("\r\n", "\n").replace("\r", "\n")
    return [line.rstrip() for line in content.strip().split("\n")]


def _check_characters(text_page: Any, at: int, *, name: str) -> None:
    """Refuse a page whose text is numbers of glyphs: it would be found by nobody, and mislead."""
    from pypdfium2 import raw

    count = min(text_page.count_chars(), _SAMPLE)
    unmapped = sum(raw.FPDFText_HasUnicodeMapError(text_page.raw, one) == 1 for one in range(count))
    if unmapped > _MOST_UNMAPPED * count and unmapped > 8:
        raise ParseError(
            f"The text of page {at + 1} is not made of characters",
            obj=name,
            todo="its fonts do not say what they show: print it to PDF again, or OCR it",
        )


def _written(document: Any, page: Any) -> Iterator[str]:
    """What was filled into form fields, and free text put on the page."""
    from pypdfium2 import raw

    for number in range(raw.FPDFPage_GetAnnotCount(page.raw)):
        note = raw.FPDFPage_GetAnnot(page.raw, number)
        if not note:
            continue
        kind = raw.FPDFAnnot_GetSubtype(note)
        if raw.FPDFAnnot_GetFlags(note) & _HIDDEN:
            kind = 0
        if kind == _FREE_TEXT:
            yield from _lines(_wide(raw.FPDFAnnot_GetStringValue, note, b"Contents"))
        elif kind == _WIDGET and document.formenv is not None:
            forms = document.formenv.raw
            if raw.FPDFAnnot_GetFormFieldType(forms, note) in _FILLED:
                yield from _lines(_wide(raw.FPDFAnnot_GetFormFieldValue, forms, note))
        raw.FPDFPage_CloseAnnot(note)


def _lines(text: str) -> Iterator[str]:
    yield from (line.strip() for line in encodable(text).splitlines() if line.strip())


def _wide(ask: Any, *arguments: Any) -> str:
    """What a function that fills a buffer with UTF-16 says."""
    size = ask(*arguments, None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    words = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort))
    ask(*arguments, words, size)
    return buffer.raw[: size - 2].decode("utf-16-le", "replace")
