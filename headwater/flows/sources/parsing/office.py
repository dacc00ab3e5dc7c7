"""Word, Excel, OpenDocument and RTF, by xberg.

xberg's cache is off: it would keep erased text on disk. OCR is off: it would need models.
"""

from __future__ import annotations

import asyncio
import io
import re
import zipfile
from typing import Any

from headwater.errors import MissingExtraError, ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.text import first_heading

_OPEN = "application/vnd.openxmlformats-officedocument"
_KINDS = {
    "docx": f"{_OPEN}.wordprocessingml.document",
    "xlsx": f"{_OPEN}.spreadsheetml.sheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "rtf": "application/rtf",
    "pdf": "application/pdf",
}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_IMAGE_ONLY = re.compile(r"^!\[[^\]\n]*\]\([^)\n]*\)[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^(#{1,6}) +(?:(\*\*|__)(.+?)\2)[ \t]*$", re.MULTILINE)


def parse_docx(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Headings, paragraphs, lists and tables of a Word document as markdown."""
    return _document(data, "docx", name=name)


def parse_odt(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Headings, paragraphs, lists and tables of an OpenDocument text as markdown."""
    return _document(data, "odt", name=name)


def parse_rtf(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """The text of an RTF document."""
    return _document(data, "rtf", name=name)


def parse_xlsx(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Each sheet of a workbook as a heading and a table."""
    return _document(data, "xlsx", name=name)


def extract(data: bytes, kind: str, *, name: str) -> str:
    """The markdown that xberg makes of a document.

    Args:
        data: the document.
        kind: a key of the formats above, or `pdf`.
        name: for messages.

    Raises:
        ParseError: it cannot be read.
        MissingExtraError: xberg is not installed.
    """
    return asyncio.run(_extract(data, kind, name=name))


def _document(data: bytes, kind: str, *, name: str) -> ParsedDocument:
    if kind != "rtf":
        check_package(data, name=name)
    text = _IMAGE_ONLY.sub("", extract(data, kind, name=name))
    text = text.replace("&#32;", " ")
    text = _HEADING.sub(lambda found: f"{found[1]} {found[3].strip()}", text).strip("\n")
    return ParsedDocument(text, first_heading(text))


def check_package(data: bytes, *, name: str) -> None:
    """Make sure that a zipped document can be opened.

    Raises:
        ParseError: it is protected by a password, or no package at all.
    """
    if data.startswith(_OLE):
        raise _protected(name, "save it without one (an Office before 2007 made such files too)")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            manifest = package.NameToInfo.get("META-INF/manifest.xml")
            encrypted = manifest and b"encryption-data" in package.open(manifest).read(1 << 20)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _broken(name, error) from None
    if encrypted:
        raise _protected(name, "save it without one")


def _protected(name: str, todo: str) -> ParseError:
    return ParseError("The document is protected by a password", obj=name, todo=todo)


async def _extract(data: bytes, kind: str, *, name: str) -> str:
    try:
        import xberg
    except ImportError:
        raise MissingExtraError.of("xberg", "pipeline") from None
    config = xberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        escape_markdown=False,
        extraction_timeout_secs=25,
        max_archive_depth=0,
        output_format="markdown",
    )
    given = xberg.ExtractInput(
        kind="bytes", bytes=data, mime_type=_KINDS[kind], filename=f"document.{kind}"
    )
    try:
        result: Any = await xberg.extract(given, config)
    except (RuntimeError, ValueError, OSError, xberg.XbergError) as error:
        raise _broken(name, error) from None
    if result.errors or not result.results:
        raise _broken(name, result.errors[0] if result.errors else "nothing came back")
    return str(result.results[0].content)


def _broken(name: str, reason: object) -> ParseError:
    return ParseError("The document cannot be read", obj=name, todo=str(reason)[:300])
