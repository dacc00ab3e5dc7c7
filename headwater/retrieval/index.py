"""The index of a snapshot, derived from its parent's at a cost that follows what changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import HeadwaterError
from headwater.retrieval.compaction import CompactionPlan, SegmentFacts, plan_compaction
from headwater.retrieval.graphs import Progress, build_graph, graph_problem
from headwater.retrieval.lexical import lexical_problem
from headwater.retrieval.segments import (
    SegmentVectors,
    find,
    hash_array,
    is_ordered,
    open_vectors,
    read_tombstones,
    write_tombstones,
    write_vectors,
)
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectStore

if TYPE_CHECKING:
    from headwater.config import IndexConfig
    from headwater.retrieval.lexical_writing import Words

_UNIT = 1e-3
"""How far from 1 the length of a vector may be."""


@dataclass(frozen=True)
class _Rows:
    """A parent's segment and which of its rows live on: bool (n,)."""

    segment: Segment
    held: SegmentVectors
    alive: np.ndarray


def update_index(
    objects: ObjectStore,
    *,
    parent: tuple[Segment, ...],
    live: Iterable[bytes] | np.ndarray,
    cache: EmbeddingCache,
    config: IndexConfig,
    words: Words | None = None,
    progress: Progress | None = None,
) -> tuple[Segment, ...]:
    """The segments that hold each live text exactly once.

    Args:
        objects: where segments are read and written.
        parent: segments of the snapshot before, in the same embedding space; empty for none.
        live: text hashes, 32 bytes each, in any order, repeats allowed.
        cache: holds the vector of every live text that no parent segment holds.
        config: when to merge, when to build a graph.
        words: writes the words of segments that have none yet; None for segments without any.
        progress: called while a graph is built.

    Returns:
        the segments; `parent` itself, and nothing written, when the live texts are those it serves.

    Raises:
        KeyError: a text has no vector in the cache.
        CorruptObjectError: a parent's segment is damaged.
        StorageUnavailableError: the disk is full or forbidden.
    """
    wanted = np.unique(hash_array(live))
    rows, covered = _mark(objects, parent, wanted)
    return _written(objects, parent, rows, wanted[~covered], cache, config, words, progress)


def advance_index(
    objects: ObjectStore,
    *,
    parent: tuple[Segment, ...],
    added: Iterable[bytes] | np.ndarray,
    removed: Iterable[bytes] | np.ndarray,
    cache: EmbeddingCache,
    config: IndexConfig,
    words: Words | None = None,
    progress: Progress | None = None,
) -> tuple[Segment, ...]:
    """What `update_index` gives, found by looking at what changed alone.

    Only segments that are merged are checked against their names; in the others a few rows are
    looked up, and a wrong answer is noticed by `step_problems`.

    Args:
        objects: where segments are read and written.
        parent: segments of the snapshot before, which serve each of its texts once.
        added: texts that it does not serve and the next one does.
        removed: texts that it serves and the next one does not.
        cache: holds the vector of every added text that no parent segment holds.
        config: when to merge, when to build a graph.
        words: writes the words of segments that have none yet; None for segments without any.
        progress: called while a graph is built.

    Raises:
        KeyError: a text has no vector in the cache.
        CorruptObjectError: a parent's segment is damaged.
        StorageUnavailableError: the disk is full or forbidden.
    """
    fresh, gone = np.unique(hash_array(added)), np.unique(hash_array(removed))
    rows = []
    for segment in parent:
        held = open_vectors(objects, segment.vectors, deep=False)
        alive = alive_rows(objects, segment)
        places = find(held.hashes, gone)
        alive[places[places >= 0]] = False
        # A text that several segments hold lives in the first.
        places = find(held.hashes, fresh)
        alive[places[places >= 0]] = True
        fresh = fresh[places < 0]
        rows.append(_Rows(segment, held, alive))
    return _written(objects, parent, rows, fresh, cache, config, words, progress)


def unheld(
    objects: ObjectStore, segments: Iterable[Segment], texts: Iterable[bytes] | np.ndarray
) -> list[bytes]:
    """Those of `texts`, sorted, that no segment has a row for, dead or alive.

    Raises:
        CorruptObjectError: a segment is missing or holds no such rows.
    """
    left = np.unique(hash_array(texts))
    for segment in segments:
        held = open_vectors(objects, segment.vectors, deep=False).hashes
        left = left[find(held, left) < 0]
    return _names(left)


def _written(
    objects: ObjectStore,
    parent: tuple[Segment, ...],
    rows: Sequence[_Rows],
    fresh: np.ndarray,
    cache: EmbeddingCache,
    config: IndexConfig,
    words: Words | None,
    progress: Progress | None,
) -> tuple[Segment, ...]:
    """Merge what is to be merged and write what differs from the parent."""
    facts = [
        SegmentFacts(len(r.alive), int((~r.alive).sum()), r.segment.graph is not None) for r in rows
    ]
    plan = plan_compaction(facts, new_rows=len(fresh), config=config)
    segments = [_with_words(_with_tombstones(objects, rows[i]), rows[i], words) for i in plan.kept]
    if plan.new_rows:
        merged = [rows[i] for i in plan.merged]
        for part in merged:
            # Its vectors are about to be copied: from now on only the copy would be checked.
            objects.path(part.segment.vectors)
        hashes, vectors = _gather(merged, fresh, cache)
        segment = _write(objects, plan, hashes, vectors, config, progress)
        segments.append(replace(segment, lexical=words.write(hashes)) if words else segment)
    return parent if tuple(segments) == parent else tuple(segments)


def index_problems(
    objects: ObjectStore, manifest: Manifest, live: Iterable[bytes] | np.ndarray
) -> list[str]:
    """What is wrong with the index of a snapshot; empty when it is whole.

    Args:
        objects: where its segments are.
        manifest: of the snapshot or candidate.
        live: the text hashes its live chunks have.
    """
    wanted = np.unique(hash_array(live))
    times = np.zeros(len(wanted), dtype=np.int64)
    problems: list[str] = []
    strangers = 0
    for segment in manifest.segments:
        try:
            held = open_vectors(objects, segment.vectors)
            alive = alive_rows(objects, segment)
            problems += segment_problems(objects, segment, held, manifest)
        except HeadwaterError as error:
            problems.append(f"{error.what}: {error.obj}")
            continue
        places = find(wanted, held.hashes[alive])
        strangers += int((places < 0).sum())
        np.add.at(times, places[places >= 0], 1)
    for count, what in (
        (int((times == 0).sum()), "live texts are missing from the index"),
        (int((times > 1).sum()), "live texts are in the index more than once"),
        (strangers, "rows of the index belong to no live text"),
    ):
        if count:
            problems.append(f"{count} {what}")
    return problems


def alive_rows(objects: ObjectStore, segment: Segment) -> np.ndarray:
    """Which rows of a segment a snapshot serves: bool (n,).

    Raises:
        CorruptObjectError: the tombstones are missing or damaged.
    """
    alive = np.ones(segment.rows, dtype=bool)
    alive[read_tombstones(objects, segment.tombstones, rows=segment.rows)] = False
    return alive


def _mark(
    objects: ObjectStore, parent: Sequence[Segment], wanted: np.ndarray
) -> tuple[list[_Rows], np.ndarray]:
    """Which rows of the parent live on, and which of `wanted` they cover.

    A text that several segments hold (removed, indexed anew, then resurrected) lives in the first.
    """
    covered = np.zeros(len(wanted), dtype=bool)
    rows = []
    for segment in parent:
        held = open_vectors(objects, segment.vectors)
        places = find(wanted, held.hashes)
        alive = places >= 0
        alive[alive] = ~covered[places[alive]]
        covered[places[alive]] = True
        rows.append(_Rows(segment, held, alive))
    return rows, covered


def _with_tombstones(objects: ObjectStore, rows: _Rows) -> Segment:
    dead = np.flatnonzero(~rows.alive)
    known = read_tombstones(objects, rows.segment.tombstones, rows=rows.segment.rows)
    if np.array_equal(dead, known):
        return rows.segment
    return replace(rows.segment, tombstones=write_tombstones(objects, dead))


def _with_words(segment: Segment, rows: _Rows, words: Words | None) -> Segment:
    if words is None or segment.lexical:
        return segment
    return replace(segment, lexical=words.write(rows.held.hashes))


def _gather(
    merged: Sequence[_Rows], fresh: np.ndarray, cache: EmbeddingCache
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the new segment, sorted by hash."""
    hashes = np.concatenate([fresh, *(r.held.hashes[r.alive] for r in merged)])
    order = np.argsort(hashes, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    vectors = np.empty((len(hashes), cache.dim), dtype=np.float32)
    vectors[place[: len(fresh)]] = cache.vectors(_names(fresh))
    at = len(fresh)
    for rows in merged:
        count = int(rows.alive.sum())
        vectors[place[at : at + count]] = rows.held.vectors[rows.alive]
        at += count
    return hashes[order], vectors


def _write(
    objects: ObjectStore,
    plan: CompactionPlan,
    hashes: np.ndarray,
    vectors: np.ndarray,
    config: IndexConfig,
    progress: Progress | None,
) -> Segment:
    entry = write_vectors(objects, hashes, vectors)
    if not plan.graph:
        return Segment(entry)
    graph, ef = build_graph(objects, vectors, recall=config.recall, progress=progress)
    return Segment(entry, graph, ef)


def _names(hashes: np.ndarray) -> list[bytes]:
    rows = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, hashes.dtype.itemsize)
    return [row.tobytes() for row in rows]


def segment_problems(
    objects: ObjectStore, segment: Segment, held: SegmentVectors, manifest: Manifest
) -> list[str]:
    """What is wrong with the rows of a segment and the graph over them; empty when it is whole."""
    name = f"objects/{segment.vectors.name}"
    problems = []
    if not is_ordered(held.hashes):
        problems.append(f"the rows are not sorted and distinct: {name}")
    dim = held.vectors.shape[1]
    if manifest.encoder and manifest.encoder.dim != dim:
        problems.append(f"the vectors have {dim} numbers, not {manifest.encoder.dim}: {name}")
    lengths = np.linalg.norm(held.vectors, axis=1)
    # Written so that a length that is not a number counts as bad.
    bad = int((~(np.abs(lengths - 1) <= _UNIT)).sum())
    if bad:
        problems.append(f"{bad} vectors are not of length 1: {name}")
    if manifest.lexical and (problem := lexical_problem(segment)):
        problems.append(f"{problem}: {name}")
    if segment.graph:
        problem = graph_problem(objects.path(segment.graph), held.vectors)
        if problem:
            problems.append(f"{problem}: objects/{segment.graph.name}")
    return problems
