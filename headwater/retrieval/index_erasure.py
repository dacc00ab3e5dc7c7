"""Segments without the rows of some texts: vectors are cut out, graphs built anew over the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa

from headwater.retrieval.graphs import build_graph
from headwater.retrieval.index import alive_rows
from headwater.retrieval.lexical_writing import Words
from headwater.retrieval.segments import (
    find,
    hash_array,
    listed_hashes,
    open_vectors,
    write_tombstones,
    write_vectors,
)
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import open_tables, query

_GRAPH_ROWS = 2


def holds_any(objects: ObjectStore, vectors: ObjectEntry, texts: Collection[bytes]) -> int:
    """How many rows of a segment belong to one of `texts`, live or not.

    Raises:
        CorruptObjectError: the segment is damaged.
    """
    return int(_doomed(objects, vectors, texts).sum())


def without_texts(
    objects: ObjectStore,
    segment: Segment,
    texts: Collection[bytes],
    *,
    recall: float,
    words: Words | None = None,
) -> Segment | None:
    """A segment that never held these texts; None where no row is left.

    Rows keep their order, so the tombstones are those of the rows that are left. A tombstone would
    not do for the erased: it hides a row, and the vector stays in the file.

    Args:
        objects: where it is, and where the new one goes.
        segment: of a snapshot.
        texts: text hashes, 32 bytes each.
        recall: what the new graph is calibrated to.
        words: writes the words of the rows that are left; None for a segment without any.

    Raises:
        CorruptObjectError: a file of it is damaged.
        StorageUnavailableError: the disk is full or read-only.
    """
    doomed = _doomed(objects, segment.vectors, texts)
    if not doomed.any():
        return segment
    if doomed.all():
        return None
    held, alive = open_vectors(objects, segment.vectors), alive_rows(objects, segment)
    vectors = np.ascontiguousarray(held.vectors[~doomed])
    entry = write_vectors(objects, held.hashes[~doomed], vectors)
    dead = write_tombstones(objects, np.flatnonzero(~alive[~doomed]))
    lexical = words.write(held.hashes[~doomed]) if words and segment.lexical else ()
    if segment.graph is None or len(vectors) < _GRAPH_ROWS:
        return Segment(entry, tombstones=dead, lexical=lexical)
    graph, ef = build_graph(objects, vectors, recall=recall)
    return Segment(entry, graph, ef, dead, lexical)


def without_strangers(
    objects: ObjectStore, manifest: Manifest, texts: Collection[bytes]
) -> tuple[Segment, ...]:
    """The segments of a snapshot, serving none of `texts` that no live document of it holds.

    A text that an erased document held may stay for another one, which held it at another time.

    Raises:
        CorruptObjectError: an object of the snapshot is damaged.
    """
    if not texts:
        return manifest.segments
    live = np.unique(hash_array(_live_among(objects, manifest, texts)))
    wanted = np.unique(hash_array(texts))
    segments = []
    for segment in manifest.segments:
        hashes, alive = open_vectors(objects, segment.vectors).hashes, alive_rows(objects, segment)
        stranger = alive & (find(wanted, hashes) >= 0) & (find(live, hashes) < 0)
        if stranger.any():
            dead = write_tombstones(objects, np.flatnonzero(~alive | stranger))
            segment = replace(segment, tombstones=dead)
        segments.append(segment)
    return tuple(segments)


def _live_among(objects: ObjectStore, manifest: Manifest, texts: Collection[bytes]) -> list[bytes]:
    with open_tables(objects, manifest) as connection:
        connection.register("asked", pa.table({"text_hash": pa.array(texts, pa.binary(32))}))
        found = query(
            connection,
            "select distinct text_hash from live_chunks "
            "where text_hash in (select text_hash from asked)",
        )
    hashes: list[bytes] = found["text_hash"].to_pylist()
    return hashes


def _doomed(objects: ObjectStore, vectors: ObjectEntry, texts: Collection[bytes]) -> np.ndarray:
    """Which rows go: bool (n,)."""
    wanted = np.unique(hash_array(texts))
    rows: np.ndarray = find(wanted, listed_hashes(objects, vectors)) >= 0
    return rows
