"""Which live documents hold which text of the index: the tables of a snapshot as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from headwater.retrieval.columns import codes, fixed, micros, read_columns, value_of
from headwater.retrieval.segments import HASH, find
from headwater.storage.manifest import Manifest, parse_time
from headwater.storage.objects import ObjectStore

_NEVER = np.iinfo(np.int64).min
_ALWAYS = np.iinfo(np.int64).max


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
        names: the tables that hold `source` and `key` of each version row.
    """

    version_row: np.ndarray
    content: np.ndarray
    source: np.ndarray
    sources: list[str]
    known_at: np.ndarray
    held_since: np.ndarray
    names: Sequence[pa.Array]

    def name(self, document: int) -> tuple[str, str]:
        """Source and key of a live document."""
        return self.sources[self.source[document]], _at(self.names, self.version_row[document])

    def verified_at(self, last_verified: dict[str, datetime]) -> np.ndarray:
        """When each document was last confirmed: int64 (d,).

        Args:
            last_verified: by source, as the run log has it.
        """
        known = [micros(last_verified[s]) if s in last_verified else _NEVER for s in self.sources]
        last = np.array(known, dtype=np.int64)[self.source]
        times: np.ndarray = np.minimum(np.maximum(last, self.known_at), self.held_since)
        return times


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
        chunks, contents = self.chunks, self.documents.content
        for at in range(*np.searchsorted(chunks.index_row, [row, row + 1])):
            bounds = np.searchsorted(contents, [chunks.content[at], chunks.content[at] + 1])
            for document in range(*bounds):
                if allowed is None or allowed[document]:
                    yield document, int(chunks.chunk_row[at])


@dataclass(frozen=True)
class Live:
    """What is live in a snapshot, whatever its index is.

    Attributes:
        documents: the live ones.
        chunk_row: int64 (c,): rows of the snapshot's chunk tables, counted through all.
        content: int32 (c,): which of the live contents each chunk is of.
        text: void[32] (c,): its text.
    """

    documents: Documents
    chunk_row: np.ndarray
    content: np.ndarray
    text: np.ndarray

    def texts(self) -> np.ndarray:
        """The distinct texts, sorted: void[32] (t,)."""
        return np.unique(self.text)

    def catalogue(self, hashes: np.ndarray, rows: np.ndarray) -> Catalogue:
        """Which of them hold which text of an index.

        Args:
            hashes: void[32] (t,), sorted: the texts of the index.
            rows: int64 (t,): the index row of each.
        """
        text = find(hashes, self.text)
        held = np.flatnonzero(text >= 0)
        index_row = rows[text[held]]
        order = np.argsort(index_row, kind="stable")
        held = held[order]
        return Catalogue(
            self.documents, Chunks(index_row[order], self.chunk_row[held], self.content[held])
        )


def read_live(objects: ObjectStore, manifest: Manifest) -> Live:
    """Read what is live in a snapshot.

    Raises:
        CorruptObjectError: a table is missing or damaged.
    """
    documents, contents = _documents(objects, manifest)
    tables = read_columns(objects, manifest.chunks, ["content_hash", "text_hash"])
    content = find(contents, fixed(tables, "content_hash", HASH))
    live = np.flatnonzero(content >= 0)
    text = fixed(tables, "text_hash", HASH)[live]
    return Live(documents, live, content[live].astype(np.int32), text)


def _documents(objects: ObjectStore, manifest: Manifest) -> tuple[Documents, np.ndarray]:
    columns = ["version_id", "source", "key", "content_hash", "known_at"]
    tables = read_columns(objects, manifest.versions, columns, encoded=["source"])
    closures = read_columns(objects, manifest.closures, ["version_id"])
    closed = {v for table in closures for v in table["version_id"].to_pylist()}
    ids = (v for table in tables for v in table["version_id"].to_pylist())
    live = np.flatnonzero(np.fromiter((v not in closed for v in ids), dtype=bool))
    hashes = fixed(tables, "content_hash", HASH)[live]
    contents, content = np.unique(hashes, return_inverse=True)
    order = np.argsort(content, kind="stable")
    live = live[order]
    source, sources = codes(tables, "source")
    documents = Documents(
        version_row=live,
        content=content[order].astype(np.int32),
        source=source[live],
        sources=sources,
        known_at=fixed(tables, "known_at", np.int64)[live],
        held_since=np.full(len(live), _ALWAYS, dtype=np.int64),
        names=[piece for table in tables for piece in table["key"].chunks],
    )
    _hold(documents, _held(objects, manifest))
    return documents, contents


def _held(objects: ObjectStore, manifest: Manifest) -> dict[tuple[str, str], int]:
    """Since when each document is held back, by source and key."""
    if manifest.quarantine is None:
        return {}
    (table,) = read_columns(objects, [manifest.quarantine], ["source", "key", "since"])
    held: dict[tuple[str, str], int] = {}
    for source, key, scalar in zip(
        table["source"].to_pylist(), table["key"].to_pylist(), table["since"], strict=True
    ):
        since = value_of(scalar)
        when = micros(parse_time(since) if isinstance(since, str) else since)
        held[source, key] = min(when, held.get((source, key), _ALWAYS))
    return held


def _hold(documents: Documents, held: dict[tuple[str, str], int]) -> None:
    if held:
        for document in range(len(documents.version_row)):
            since = held.get(documents.name(document))
            if since is not None:
                documents.held_since[document] = since


def _at(pieces: Sequence[pa.Array], row: int) -> str:
    for piece in pieces:
        if row < len(piece):
            return str(piece[int(row)].as_py())
        row -= len(piece)
    raise IndexError(row)
