"""The registry of formats: which suffix is read by which parser, and what its fingerprint says."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import cast

from headwater.errors import MissingExtraError, ParseError
from headwater.flows.sources.parsing import MAX_TEXT, ParsedDocument, Parser

_HERE = "headwater.flows.sources.parsing"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: stands in the metadata of a document, and in its fingerprint.
        suffixes: of file names, in lower case, without the dot; "" means no suffix.
        revision: raised whenever the same bytes would give another text.
        module: the module below this package that holds the parser.
        function: the parser's name there.
        isolated: the parser runs in the worker process.
        encoded: the configured encoding plays a part.
        library: the distribution whose version changes the text, None for own code.
        requires: what must be importable.
    """

    name: str
    suffixes: tuple[str, ...]
    revision: int
    module: str
    function: str
    isolated: bool = False
    encoded: bool = True
    library: str | None = None
    requires: str | None = None

    def parser(self) -> Parser:
        """The parser itself; its module is imported now."""
        return cast(
            Parser, getattr(importlib.import_module(f"{_HERE}.{self.module}"), self.function)
        )

    def parser_id(self, encoding: str) -> str:
        """The name of the parser, its revision, its library and the options that reach it."""
        parts = [f"{self.name}/{self.revision}"]
        if self.library:
            parts.append(f"{self.library} {_installed(self.library)}")
        if self.encoded:
            parts.append(encoding)
        return ";".join(parts)

    def check_installed(self) -> None:
        """Make sure that the parser's library is there.

        Raises:
            MissingExtraError: it is not.
        """
        if self.requires and find_spec(self.requires) is None:
            raise MissingExtraError.of(self.requires, "pipeline")


FORMATS = (
    Format("markdown", ("md", "markdown"), 2, "text", "parse_markdown"),
    Format("rst", ("rst",), 1, "text", "parse_rst"),
    Format("text", ("txt", "text", ""), 1, "text", "parse_text"),
    Format("csv", ("csv",), 1, "structured", "parse_csv"),
    Format("tsv", ("tsv",), 1, "structured", "parse_tsv"),
    Format("json", ("json",), 1, "structured", "parse_json"),
    Format("jsonl", ("jsonl", "ndjson"), 1, "structured", "parse_jsonl"),
    Format("html", ("html", "htm"), 1, "markup", "parse_html", isolated=True, requires="lxml"),
    Format(
        "docx",
        ("docx",),
        1,
        "office",
        "parse_docx",
        isolated=True,
        encoded=False,
        library="xberg",
        requires="xberg",
    ),
    Format(
        "pdf",
        ("pdf",),
        1,
        "pdf",
        "parse_pdf",
        isolated=True,
        encoded=False,
        library="pypdfium2",
        requires="pypdfium2",
    ),
)
BY_NAME = {one.name: one for one in FORMATS}
BY_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}


def no_text(name: str, why: str = "") -> ParseError:
    """The error for a document without any text; its previous version stays served."""
    return ParseError("The file holds no text", obj=name, todo=why)


def finish(parsed: ParsedDocument, *, name: str) -> ParsedDocument:
    """What every parser owes: text that is there, of a bearable size, and encodable.

    Raises:
        ParseError: there is no text, or far too much.
    """
    if len(parsed.text) > MAX_TEXT:
        raise ParseError(
            "The file grows too large as text", obj=name, todo=f"{len(parsed.text):,} characters"
        )
    text = encodable(parsed.text)
    if not text.strip():
        raise no_text(name)
    title = " ".join(encodable(parsed.title or "").split())[:500]
    metadata = {
        encodable(key): encodable(value) if isinstance(value, str) else value
        for key, value in parsed.metadata.items()
    }
    return ParsedDocument(text, title or None, metadata)


def encodable(text: str) -> str:
    """`text` without NUL, and with lone surrogates (JSON can spell them) replaced."""
    text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
