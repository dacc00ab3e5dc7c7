"""Which live documents hold which text of the index: the tables of a snapshot as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np

from headwater.retrieval.columns import Texts, micros

_NEVER = np.iinfo(np.int64).min
ALWAYS = np.iinfo(np.int64).max
"""A time that never comes."""


@dataclass(frozen=True)
class Documents:
    """The live documents, ordered by content. Times are microseconds since 1970, UTC.

    Attributes:
        version_row: int64 (d,): rows of the snapshot's version tables, counted through all.
        content: int32 (d,), rising: which of the live contents.
        source: int32 (d,): position in `sources`.
        sources: their names.
        known_at: int64 (d,): when the version became known.
        held_since: int64 (d,): when a newer state went to quarantine; the maximum where none did.
        keys: of each version row.
    """

    version_row: np.ndarray
    content: np.ndarray
    source: np.ndarray
    sources: list[str]
    known_at: np.ndarray
    held_since: np.ndarray
    keys: Texts

    def name(self, document: int) -> tuple[str, str]:
        """Source and key of a live document."""
        return self.sources[self.source[document]], self.keys[int(self.version_row[document])]

    @cached_property
    def starts(self) -> np.ndarray:
        """The first document of each content, and at the end how many there are: int64 (n + 1,)."""
        counts = np.bincount(self.content)
        found: np.ndarray = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return found

    def verified_at(self, last_verified: dict[str, datetime]) -> np.ndarray:
        """When each document was last confirmed: int64 (d,).

        Args:
            last_verified: by source, as the run log has it.
        """
        last = np.array([_last(last_verified, s) for s in self.sources], dtype=np.int64)
        times: np.ndarray = np.minimum(
            np.maximum(last[self.source], self.known_at), self.held_since
        )
        return times

    def one_verified_at(self, document: int, last_verified: dict[str, datetime]) -> int:
        """When one document was last confirmed."""
        last = _last(last_verified, self.sources[self.source[document]])
        return min(max(last, int(self.known_at[document])), int(self.held_since[document]))


@dataclass(frozen=True)
class Chunks:
    """The live chunks, ordered by the row of the index that holds their text.

    Attributes:
        index_row: int64 (c,), rising.
        chunk_row: int64 (c,): rows of the snapshot's chunk tables, counted through all.
        content: int32 (c,): which of the live contents.
    """

    index_row: np.ndarray
    chunk_row: np.ndarray
    content: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """Documents and chunks of a view."""

    documents: Documents
    chunks: Chunks

    def rows_of(self, allowed: np.ndarray | None, *, size: int) -> np.ndarray:
        """The rows of the index whose text a document holds: bool (size,).

        Args:
            allowed: bool (documents,): only these; None for all.
            size: rows of the index.
        """
        mask = np.zeros(size, dtype=bool)
        documents, chunks = self.documents, self.chunks
        if allowed is None:
            mask[chunks.index_row] = True
        elif len(chunks.content):
            contents = np.zeros(int(chunks.content.max()) + 1, dtype=bool)
            held = documents.content[allowed]
            contents[held[held < len(contents)]] = True
            mask[chunks.index_row[contents[chunks.content]]] = True
        return mask

    def occurrences(self, row: int, allowed: np.ndarray | None) -> Iterator[tuple[int, int]]:
        """The (document, chunk row) pairs at which a row's text stands, chunks in order."""
        chunks, starts = self.chunks, self.documents.starts
        for at in range(*chunks.index_row.searchsorted([row, row + 1])):
            content = chunks.content[at]
            for document in range(starts[content], starts[content + 1]):
                if allowed is None or allowed[document]:
                    yield document, int(chunks.chunk_row[at])


def _last(last_verified: dict[str, datetime], source: str) -> int:
    return micros(last_verified[source]) if source in last_verified else _NEVER
