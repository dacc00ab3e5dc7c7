"""One snapshot, opened for searching. A view never changes, so any number of threads may share it."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from headwater.retrieval.cached_index import CachedIndex, CachedIndexes
from headwater.retrieval.columns import RowReader, instant
from headwater.retrieval.document_columns import metadata_of
from headwater.retrieval.hits import Explanation, Hit
from headwater.retrieval.index import alive_rows
from headwater.retrieval.lexical import analyzer_name, open_lexical, parts_of
from headwater.retrieval.live import Live, read_live
from headwater.retrieval.placing import Placed, placed
from headwater.retrieval.ranking import Ranked, ranked
from headwater.retrieval.vector_search import Part, SegmentIndex, cosines, nearest
from headwater.retrieval.visibility import Allowed, Restriction, Visibility
from headwater.retrieval.word_search import WordIndex
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectStore

_CHUNK = ["heading_path", "start", "end", "text"]
_VERSION = ["version_id", "title", "url", "metadata", "labels", "source_ts", "changed_at"]
_NOT_HELD = np.iinfo(np.int64).max
_ALL = Restriction()
_DEPTH = 100
"""Candidates that either half of a hybrid search gives at least."""


class Loaded:
    """What views share: loaded segments, by content, cached vectors, the row groups read last."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.rows = RowReader(objects)
        self._segments: weakref.WeakValueDictionary[tuple[str, str, int], SegmentIndex] = (
            weakref.WeakValueDictionary()
        )
        self._lock = threading.Lock()
        self.cached = CachedIndexes(objects)

    def segment(self, segment: Segment) -> SegmentIndex:
        """The loaded form of a segment: from another view, or from the disk.

        Raises:
            CorruptObjectError: a file of it is missing or damaged.
        """
        key = (segment.vectors.sha256, segment.graph.sha256 if segment.graph else "", segment.ef)
        with self._lock:
            index = self._segments.get(key)
            if index is None:
                index = self._segments[key] = SegmentIndex(self.objects, segment)
            return index


class SnapshotView:
    """A snapshot, opened.

    Attributes:
        name: of the snapshot.
        manifest: of the snapshot.
        texts: distinct texts that a search may return.

    Raises:
        CorruptObjectError: an object of the snapshot is missing or damaged.
    """

    def __init__(
        self, loaded: Loaded, manifest: Manifest, name: str, *, before: SnapshotView | None = None
    ) -> None:
        """Open a snapshot.

        Args:
            loaded: what views share.
            manifest: of the snapshot.
            name: of the snapshot.
            before: a view with the same `loaded`, of a snapshot shortly before: what the two have in
                common is not read again. None for none.
        """
        self.name = name
        self.manifest = manifest
        self._objects = loaded.objects
        self._rows = loaded.rows
        self._opening = threading.Lock()
        self._word_index: WordIndex | None = None
        known: Placed | None = before._placed if before else None
        live = read_live(loaded.objects, manifest, known.live if known else None)
        served = _cached(loaded, manifest, live) or _indexed(loaded, manifest.segments)
        self._parts = _parts([index for index, _ in served])
        self._firsts = [part.first for part in self._parts]
        self._placed: Placed = placed(live, self._parts, [alive for _, alive in served], known)
        self._catalogue = self._placed.catalogue()
        self._live = self._catalogue.rows_of(None, size=_size(self._parts))
        self._visibility = Visibility(loaded.objects, manifest, self._catalogue, self._live)
        self.texts = int(np.count_nonzero(self._live))

    def search(
        self,
        vector: np.ndarray | None,
        k: int,
        *,
        last_verified: dict[str, datetime],
        words: str | None = None,
        restriction: Restriction = _ALL,
        explain: bool = False,
    ) -> list[Hit]:
        """The `k` best texts: by meaning, by words, or by both.

        Args:
            vector: of the query, float32 (dim,), L2-normalised; None to ask for words alone.
            k: how many at most; fewer only where fewer are live, allowed and found.
            last_verified: by source, for `Hit.verified_at`.
            words: the query; None to ask for the vector alone.
            restriction: what may be returned at all.
            explain: say of each hit where it came from.

        Raises:
            ConfigError: a filter does not fit the documents.
            NotFoundError: the snapshot has no such source.
            CorruptObjectError: an object is missing or damaged.
        """
        allowed = self._visibility.allowed(restriction, last_verified)
        hits = []
        # BM25 counts words of texts that a caller with labels may not know of: not told.
        told = restriction.allow is None
        for found in self.ranked(vector, words, k, allowed, told=told):
            hit = self._hit(found, allowed.documents, last_verified)
            hits.append(replace(hit, explain=self._explained(found, allowed)) if explain else hit)
        return hits

    def ranked(
        self,
        vector: np.ndarray | None,
        words: str | None,
        k: int,
        allowed: Allowed | None = None,
        *,
        told: bool = True,
    ) -> list[Ranked]:
        """The rows of the hits that `search` would return, before any of them is read.

        Args:
            vector: as for `search`.
            words: as for `search`.
            k: how many at most.
            allowed: what may be returned; None for everything.
            told: whether BM25 may be said.
        """
        rows = allowed.rows if allowed else self._live
        if vector is None:
            return ranked(k, lexical=self._words().search(words or "", k, rows), told=told)
        if words is None:
            return ranked(k, dense=nearest(self._parts, vector, k, rows))
        depth = max(_DEPTH, 2 * k)
        lexical = self._words().search(words, depth, rows)
        dense = nearest(self._parts, vector, depth, rows)
        near = {found.row for found in dense}
        # What only words found is scored too, so that every hit of a reply can be compared.
        rest = [row for row, _ in lexical if row not in near]
        scored = cosines(self._parts, vector, rest)
        return ranked(k, dense=dense, lexical=lexical, cosines=scored, told=told)

    def _words(self) -> WordIndex:
        """The index of words, opened by the first search that needs it."""
        if self._word_index is None:
            with self._opening:
                if self._word_index is None:
                    self._word_index = self._open_words()
        return self._word_index

    def _open_words(self) -> WordIndex:
        manifest, objects = self.manifest, self._objects
        if manifest.lexical and manifest.segments:
            parts, firsts = [], []
            for part, segment in zip(self._parts, manifest.segments, strict=True):
                first = part.first
                for files in parts_of(segment):
                    parts.append(files)
                    firsts.append(first)
                    first += files[0].rows
            return WordIndex(
                open_lexical(objects, parts, name=manifest.lexical), manifest.lexical, firsts
            )
        # It let go of its index, or was published before there were words in it. Imported here
        # because it brings what only a refresh needs, a tenth of a start.
        from headwater.retrieval.lexical_writing import memory_lexical

        name = manifest.lexical or analyzer_name("english")
        rows = np.flatnonzero(self._live)
        hashes = [self._hash(int(row)) for row in rows]
        return WordIndex(memory_lexical(objects, manifest.chunks, hashes, name=name), name, [rows])

    def _hash(self, row: int) -> bytes:
        part = self._part(row)
        found: bytes = part.index.hashes[row - part.first].tobytes()
        return found

    def _part(self, row: int) -> Part:
        return self._parts[bisect_right(self._firsts, row) - 1]

    def open_words(self) -> None:
        """Open the index of words, which is otherwise done by the first search that needs it."""
        self._words()

    def check(self, restriction: Restriction) -> None:
        """Raise what `search` would raise about a restriction."""
        self._visibility.asked(restriction)

    def _explained(self, found: Ranked, allowed: Allowed) -> Explanation:
        return Explanation(
            self.name,
            self._part(found.row).index.name,
            found.by,
            found.score,
            found.cosine,
            found.bm25,
            found.dense_rank,
            found.lexical_rank,
            allowed.selectivity,
        )

    def _hit(
        self, found: Ranked, allowed: np.ndarray | None, last_verified: dict[str, datetime]
    ) -> Hit:
        documents = self._catalogue.documents
        places: dict[tuple[str, str], tuple[int, int]] = {}
        for document, chunk_row in self._catalogue.occurrences(found.row, allowed):
            places.setdefault(documents.name(document), (document, chunk_row))
        (source, key), *others = sorted(places)
        document, chunk_row = places[source, key]
        chunk = self._rows.row(self.manifest.chunks, chunk_row, _CHUNK)
        version = self._rows.row(
            self.manifest.versions, int(documents.version_row[document]), _VERSION
        )
        return Hit(
            text=chunk["text"],
            score=found.score,
            source=source,
            key=key,
            version_id=version["version_id"],
            title=version["title"],
            url=version["url"],
            heading_path=tuple(chunk["heading_path"] or ()),
            start=chunk["start"],
            end=chunk["end"],
            snapshot=self.name,
            changed_at=version["changed_at"] or instant(documents.known_at[document]),
            verified_at=instant(documents.one_verified_at(document, last_verified)),
            source_ts=version["source_ts"],
            labels=tuple(version["labels"] or ()),
            metadata=metadata_of(version["metadata"]),
            held_back=bool(documents.held_since[document] != _NOT_HELD),
            others=tuple(others),
            cosine=found.cosine,
            bm25=found.bm25,
        )


_Served = list[tuple[SegmentIndex | CachedIndex, np.ndarray]]
"""Indexes, and which rows of each a view serves: bool (rows,)."""


def _indexed(loaded: Loaded, segments: Sequence[Segment]) -> _Served:
    return [(loaded.segment(s), alive_rows(loaded.objects, s)) for s in segments]


def _cached(loaded: Loaded, manifest: Manifest, live: Live) -> _Served:
    """The live texts of a snapshot that let go of its index; empty where it has one."""
    if manifest.encoder is None or not manifest.unindexed:
        return []
    served: _Served = []
    for index, rows in loaded.cached.covering(manifest.encoder, live.texts()):
        alive = np.zeros(len(index.hashes), dtype=bool)
        alive[rows] = True
        served.append((index, alive))
    return served


def _parts(indexes: Sequence[SegmentIndex | CachedIndex]) -> list[Part]:
    """Indexes one after the other, as the parts of a view."""
    parts: list[Part] = []
    for index in indexes:
        parts.append(Part(index, _size(parts)))
    return parts


def _size(parts: Sequence[Part]) -> int:
    return parts[-1].rows.stop if parts else 0
