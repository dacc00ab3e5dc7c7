"""Word documents, by xberg."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from headwater.errors import MissingExtraError, ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.text import first_heading

_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_IMAGE_ONLY = re.compile(r"^!\[[^\]\n]*\]\([^)\n]*\)[ \t]*$", re.MULTILINE)


def parse_docx(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Headings, paragraphs, lists and tables of a .docx as markdown.

    xberg's cache is off: it would keep erased text on disk. OCR is off: it would need models.
    """
    content = asyncio.run(_extract(data, name=name))
    text = _IMAGE_ONLY.sub("", content).strip("\n")
    return ParsedDocument(text, first_heading(text))


async def _extract(data: bytes, *, name: str) -> str:
    try:
        import xberg
    except ImportError:
        raise MissingExtraError.of("xberg", "pipeline") from None
    config = xberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        escape_markdown=False,
        extraction_timeout_secs=50,
        max_archive_depth=0,
        output_format="markdown",
    )
    given = xberg.ExtractInput(kind="bytes", bytes=data, mime_type=_DOCX, filename="document.docx")
    try:
        result: Any = await xberg.extract(given, config)
    except (RuntimeError, ValueError, OSError, xberg.XbergError) as error:
        raise _broken(name, error) from None
    if result.errors or not result.results:
        raise _broken(name, result.errors[0] if result.errors else "nothing came back")
    return str(result.results[0].content)


def _broken(name: str, reason: object) -> ParseError:
    return ParseError("The Word document cannot be read", obj=name, todo=str(reason)[:300])
