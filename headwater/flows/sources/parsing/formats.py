"""The registry of formats: which suffix is read by which parser, and what its fingerprint says."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, cast

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
        encoded: the configured encoding plays a part.
        libraries: the distributions whose versions change the text; none for own code.
        requires: what must be importable.
        wraps: the parser hands what is in the file to the other parsers: all of them play a part.
    """

    name: str
    suffixes: tuple[str, ...]
    revision: int
    module: str
    function: str
    encoded: bool = True
    libraries: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    wraps: bool = False

    def parser(self) -> Parser:
        """The parser itself; its module is imported now."""
        return cast(
            Parser, getattr(importlib.import_module(f"{_HERE}.{self.module}"), self.function)
        )

    def parser_id(self, encoding: str) -> str:
        """The name of the parser, its revision, its library and the options that reach it."""
        parts = [f"{self.name}/{self.revision}"]
        parts += [f"{library} {_installed(library)}" for library in self.libraries]
        if self.encoded:
            parts.append(encoding)
        if self.wraps:
            inner = ";".join(one.parser_id(encoding) for one in FORMATS if not one.wraps)
            parts.append(hashlib.sha256(inner.encode()).hexdigest()[:8])
        return ";".join(parts)

    def check_installed(self) -> None:
        """Make sure that the parser's library is there.

        Raises:
            MissingExtraError: it is not.
        """
        for module in self.requires:
            if find_spec(module) is None:
                raise MissingExtraError.of(module, "pipeline")


def _own(name: str, suffixes: str, revision: int, module: str, **options: Any) -> Format:
    """A format that our own code reads; the parser is called after it."""
    return Format(name, tuple(suffixes.split(" ")), revision, module, f"parse_{name}", **options)


def _office(name: str, revision: int) -> Format:
    """A format that xberg reads."""
    return Format(
        name,
        (name,),
        revision,
        "office",
        f"parse_{name}",
        encoded=False,
        libraries=("xberg",),
        requires=("xberg",),
    )


FORMATS = (
    _own("markdown", "md markdown", 3, "text"),
    _own("rst", "rst rest", 2, "rst"),
    _own("text", "txt text ", 2, "text"),
    _own("csv", "csv", 2, "structured"),
    _own("tsv", "tsv", 2, "structured"),
    _own("json", "json", 1, "structured"),
    _own("jsonl", "jsonl ndjson", 1, "structured"),
    _own("notebook", "ipynb", 1, "notebook", encoded=False),
    _own("html", "html htm xhtml", 2, "markup", requires=("lxml",)),
    _own("mail", "eml", 1, "mail", requires=("lxml",)),
    _own("pptx", "pptx", 1, "slides", encoded=False, requires=("lxml",)),
    _own("gzip", "gz", 1, "compressed", wraps=True),
    _office("docx", 2),
    _office("xlsx", 1),
    _office("odt", 1),
    _office("rtf", 1),
    Format(
        "pdf",
        ("pdf",),
        2,
        "pdf",
        "parse_pdf",
        encoded=False,
        libraries=("pypdfium2", "xberg"),
        requires=("pypdfium2", "xberg"),
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
