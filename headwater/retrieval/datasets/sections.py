"""What an example is cut from: a live chunk with its names, its body and its judgement."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

_ATX = re.compile(r" {0,3}#{1,6}[ \t]+(\S[^\n]*?)(?:[ \t]+#+)?[ \t]*(?:\n|$)")
_SETEXT = re.compile(r" {0,3}(?!-{3})(\S[^\n]{0,399}?)[ \t]*\n {0,3}(?:={3,}|-{3,})[ \t]*(?:\n|$)")
_FIELD = re.compile(r"^([^\W\d_][^:\n]{0,59}):(?:[ \t]|$)", re.MULTILINE)
_MOST_FIELDS = 8


@dataclass(frozen=True)
class Section:
    """A live chunk.

    Attributes:
        origin: the document's first key, before every rename.
        kind: of the source: `documents`, `database`, `api`, ….
        start, end: the span of `text` in its document, in characters.
        tokens: of the text, by the embedding model's tokenizer.
        labels: of the document.
        since, checks, confirmed_at, why: the judgement; `why` is empty when the chunk
            may be used.
    """

    source: str
    key: str
    origin: str
    version_id: str
    title: str
    kind: str
    licence: str | None
    ordinal: int
    text_hash: bytes
    heading_path: tuple[str, ...]
    start: int
    end: int
    tokens: int
    text: str
    since: datetime
    checks: int
    confirmed_at: datetime
    labels: tuple[str, ...] = ()
    why: str = ""

    @cached_property
    def body_start(self) -> int:
        """Where the text without the headings it opens with begins, within `text`."""
        return self._opening[0]

    @cached_property
    def body(self) -> str:
        """The text without the headings it opens with: a verbatim slice."""
        return self.text[self.body_start :].rstrip()

    @cached_property
    def body_hash(self) -> bytes:
        """Equal for bodies that differ in whitespace only."""
        return hashlib.sha256(" ".join(self.body.split()).encode()).digest()

    @property
    def is_row(self) -> bool:
        """Whether it is the rendering of a row or an API's record."""
        return self.kind in ("database", "api") and not self.headings

    @cached_property
    def headings(self) -> tuple[str, ...]:
        """The heading path, the headings inside the text's opening included, the title not."""
        found: list[str] = []
        before = self.title.casefold()
        for name in (*self.heading_path, *self._opening[1]):
            if name.strip() and name.casefold() != before and name not in found:
                found.append(name.strip())
        return tuple(found)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of the first fields of a rendered row."""
        names = dict.fromkeys(match[1].strip() for match in _FIELD.finditer(self.body))
        return tuple(names)[:_MOST_FIELDS]

    @property
    def name(self) -> str:
        """What its document is called."""
        return self.title.strip() or self.key

    @cached_property
    def label(self) -> str:
        """Title and headings, outermost first, or title and field names."""
        last = (", ".join(self.fields),) if self.is_row and self.fields else self.headings
        return ": ".join(part for part in (self.title.strip(), *last) if part)

    @cached_property
    def _opening(self) -> tuple[int, tuple[str, ...]]:
        at, names = 0, list[str]()
        while True:
            at += len(self.text[at:]) - len(self.text[at:].lstrip("\n\r"))
            match = _ATX.match(self.text, at) or _SETEXT.match(self.text, at)
            if match is None:
                return at, tuple(names)
            names.append(" ".join(match[1].split()))
            at = match.end()
