"""Which text does this file hold? One module per family of formats; `formats` is the registry.

Owns parsers and the process that contains the dangerous ones. Never opens a file, never writes one,
and never lets a document take the refresh down with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_TEXT = 20_000_000
"""Characters of text one document may grow to; above it a small file is taken for a bomb."""

MAX_DEPTH = 2
"""Archives that may lie in one another."""


@dataclass(frozen=True)
class ParsedDocument:
    """What a parser found.

    Attributes:
        text: markdown, or plain text.
        title: what the document calls itself, None when it does not say.
        metadata: JSON scalars only.
    """

    text: str
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Parser(Protocol):
    """Turns the bytes of one file into text."""

    def __call__(self, data: bytes, *, name: str, encoding: str) -> ParsedDocument:
        """Read `data`, the file called `name`; `encoding` is the configured one of text files.

        Raises:
            ParseError: the document cannot be turned into text, and why.
        """
        ...
