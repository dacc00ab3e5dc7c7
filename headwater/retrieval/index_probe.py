"""Asking an index without opening a snapshot: which texts are nearest, before anybody may search it.

A reader also needs to know which documents hold a text, and reads the tables of the whole snapshot
for it. A gate knows the texts that it asks for, so the segments alone will do: one pass over their
vectors for all questions together, a product of two matrices; and their words, opened as one index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater.retrieval.graphs import RECALL_AT, open_graph
from headwater.retrieval.index import alive_rows
from headwater.retrieval.lexical import open_lexical, parts_of
from headwater.retrieval.segments import find, hash_array, open_vectors
from headwater.retrieval.word_search import WordIndex
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectStore

_BLOCK = 8192
_SAMPLE = 64
_NOISE = 1e-6


def nearest_texts(
    objects: ObjectStore,
    segments: Sequence[Segment],
    queries: np.ndarray,
    k: int,
    *,
    allowed: np.ndarray | None = None,
) -> list[list[bytes]]:
    """The hashes of the `k` nearest live texts to each query, best first, by exact scan.

    Args:
        objects: where the segments are.
        segments: of a candidate.
        queries: float32 (q, dim), L2-normalised.
        k: how many; fewer only where fewer are live and allowed.
        allowed: void[32] (n,), sorted: only these texts; None for all.

    Raises:
        CorruptObjectError: a file of a segment is missing or damaged.
    """
    found: list[list[tuple[float, bytes]]] = [[] for _ in queries]
    for segment in segments:
        held = open_vectors(objects, segment.vectors, deep=False)
        mask = alive_rows(objects, segment)
        if allowed is not None:
            mask &= find(allowed, held.hashes) >= 0
        for start in range(0, len(mask), _BLOCK):
            rows = start + np.flatnonzero(mask[start : start + _BLOCK])
            for query, (scores, best) in enumerate(_best(held.vectors, rows, queries, k)):
                names = (held.hashes[row].tobytes() for row in best)
                found[query] += zip((-scores).tolist(), names, strict=True)
    return [[name for _, name in sorted(one)[:k]] for one in found]


def _best(
    vectors: np.ndarray, rows: np.ndarray, queries: np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and rows of the `k` best of `rows` for each query, in no order."""
    if not len(rows):
        return []
    # A slice is read where it is mapped; picking rows of nearly all copies them for nothing.
    first, last = int(rows[0]), int(rows[-1]) + 1
    scores = (queries @ vectors[first:last].T)[:, rows - first]
    keep = min(k, len(rows))
    places = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
    return [(scores[query, at], rows[at]) for query, at in enumerate(places)]


def worded_texts(
    objects: ObjectStore,
    manifest: Manifest,
    queries: Sequence[str],
    k: int,
    *,
    allowed: np.ndarray | None = None,
) -> list[list[bytes]]:
    """The hashes of the `k` live texts that share words with each query, best first by BM25.

    Args:
        objects: where the segments are.
        manifest: of a candidate whose segments have words.
        queries: any texts; one without a word finds nothing.
        k: how many at most.
        allowed: void[32] (n,), sorted: only these texts; None for all.

    Raises:
        CorruptObjectError: a file of a segment is missing or damaged.
    """
    if not manifest.segments or not queries:
        return [[] for _ in queries]
    hashes, masks, parts, firsts = [], [], [], []
    first = 0
    for segment in manifest.segments:
        hashes.append(open_vectors(objects, segment.vectors, deep=False).hashes)
        masks.append(alive_rows(objects, segment))
        for part in parts_of(segment):
            parts.append(part)
            firsts.append(first)
            first += part[0].rows
    names, mask = np.concatenate(hashes), np.concatenate(masks)
    if allowed is not None:
        mask &= find(allowed, names) >= 0
    words = WordIndex(open_lexical(objects, parts, name=manifest.lexical), manifest.lexical, firsts)
    found = (words.search(query, k, mask) for query in queries)
    return [[names[row].tobytes() for row, _ in one] for one in found]


def served_among(
    objects: ObjectStore, segments: Sequence[Segment], texts: Sequence[bytes]
) -> set[bytes]:
    """Those of `texts` that a row which is not dead holds: what a search by their own vector finds.

    Raises:
        CorruptObjectError: a file of a segment is missing or damaged.
    """
    wanted = np.unique(hash_array(texts))
    found: set[bytes] = set()
    for segment in segments:
        places = find(open_vectors(objects, segment.vectors, deep=False).hashes, wanted)
        alive = alive_rows(objects, segment)
        kept = places >= 0
        kept[kept] = alive[places[kept]]
        found.update(name.tobytes() for name in wanted[kept])
    return found


def text_vectors(
    objects: ObjectStore, segments: Sequence[Segment], texts: Sequence[bytes]
) -> dict[bytes, np.ndarray]:
    """The vectors (float32 (dim,)) of those texts that the segments hold, dead ones included.

    Raises:
        CorruptObjectError: a file of a segment is missing or damaged.
    """
    found: dict[bytes, np.ndarray] = {}
    for segment in segments:
        held = open_vectors(objects, segment.vectors, deep=False)
        places = find(held.hashes, hash_array(texts))
        for text, row in zip(texts, places, strict=True):
            if row >= 0:
                found[text] = np.array(held.vectors[row])
    return found


def graph_recall(objects: ObjectStore, segment: Segment, queries: np.ndarray) -> tuple[float, int]:
    """Recall@10 of a segment's graph against the exact scan over the same rows.

    Asked are `queries` (float32 (q, dim), L2-normalised) and some of the segment's own vectors,
    evenly spread.

    Returns:
        the mean, 0 to 1, and the number of questions.

    Raises:
        CorruptObjectError: a file of the segment is missing or damaged.
        ValueError: the segment has no graph.
    """
    if segment.graph is None:
        raise ValueError("the segment has no graph")
    held = open_vectors(objects, segment.vectors).vectors
    rows, dim = held.shape
    graph = open_graph(objects, segment.graph, rows=rows, dim=dim, ef=segment.ef)
    sample = np.unique(np.linspace(0, rows - 1, min(_SAMPLE, rows)).astype(np.int64))
    asked = np.concatenate([queries.reshape(-1, dim), held[sample]])
    k = min(RECALL_AT, rows)
    shares = [_found(graph, held, query, k) for query in asked]
    return float(np.mean(shares)), len(asked)


def _found(graph: Any, vectors: np.ndarray, query: np.ndarray, k: int) -> float:
    scores = vectors @ query
    bar = np.partition(scores, len(scores) - k)[len(scores) - k]
    try:
        labels, _ = graph.knn_query(query, k=k, num_threads=1)
    except RuntimeError:
        # It reached fewer rows than it was asked for.
        return 0.0
    # Counted by score: between equally near rows, any choice is right.
    return float((scores[labels[0].astype(np.int64)] >= bar - _NOISE).mean())
