"""The nearest live rows of several segments: by graph where there is one, else by exact scan.

Every candidate is scored again exactly, so that how rows are spread over segments changes no score,
and equal scores are ordered by text hash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from headwater.retrieval.cached_index import CachedIndex
from headwater.retrieval.graphs import open_graph
from headwater.retrieval.segments import open_vectors
from headwater.storage.manifest import Segment
from headwater.storage.objects import ObjectStore

_EXACT_ROWS = 4000
_EXACT_SHARE = 0.2
_SCANNED_PER_EF = 10
"""Rows that are scanned while a graph looks at one more candidate. Vectors that are all alike need so
wide a search that a scan, which misses nothing, is as quick: of 6,053 rows of tables of releases, a
graph at ef 768 found 94.8 % of the ten nearest."""
_BLOCK = 256
_SINGLE = 8192
"""Numbers in a matrix that BLAS multiplies in the calling thread. To wake others for a scan costs
more than it saves, and where the machine is busy a hundred times the scan."""
_NOISE = 1e-5
"""By how much a float32 product of the same vectors may differ from one summed in another order."""


class SegmentIndex:
    """A loaded segment; views of several snapshots share it.

    Attributes:
        hashes: void[32] (n,), sorted.
        vectors: float32 (n, dim), mapped.
        name: of the segment: the start of its vectors' hash.
        graph: an `hnswlib.Index`; None where there is none, or a scan costs no more.
    """

    def __init__(self, objects: ObjectStore, segment: Segment) -> None:
        held = open_vectors(objects, segment.vectors)
        self.hashes, self.vectors = held.hashes, held.vectors
        self.name = segment.vectors.sha256[:16]
        self.graph: Any = None
        rows, dim = self.vectors.shape
        if segment.graph and rows > _SCANNED_PER_EF * segment.ef:
            self.graph = open_graph(objects, segment.graph, rows=rows, dim=dim, ef=segment.ef)


@dataclass(frozen=True)
class Part:
    """A segment within a view, or texts that have none.

    Attributes:
        index: the loaded segment, or the texts with their vectors.
        first: the view's number of its first row.
    """

    index: SegmentIndex | CachedIndex
    first: int

    @property
    def rows(self) -> slice:
        """Its rows within the view."""
        return slice(self.first, self.first + len(self.index.hashes))


class Found(NamedTuple):
    """A row that a search found.

    Attributes:
        row: of the view.
        score: cosine to the query.
        by: graph, exact, or cache (exact, without a segment).
    """

    row: int
    score: float
    by: str


def search(
    parts: Sequence[Part], query: np.ndarray, k: int, allowed: np.ndarray
) -> list[tuple[int, float]]:
    """The `k` nearest allowed rows, as `nearest` finds them, without how it did."""
    return [(found.row, found.score) for found in nearest(parts, query, k, allowed)]


def nearest(parts: Sequence[Part], query: np.ndarray, k: int, allowed: np.ndarray) -> list[Found]:
    """The `k` nearest allowed rows.

    Args:
        parts: segments of a view.
        query: float32 (dim,), L2-normalised.
        k: how many.
        allowed: bool (rows of all parts,).

    Returns:
        best first; min(k, allowed rows) of them, always.
    """
    pool: list[tuple[Part, np.ndarray, np.ndarray, str]] = []
    bar = -np.inf
    # Graphs first: what they found tells the scans what need not be looked at.
    for part in sorted(parts, key=lambda part: part.index.graph is None):
        rows, by = _candidates(part.index, query, k, allowed[part.rows], bar)
        if len(rows):
            pool.append((part, rows, _scores(part.index.vectors[rows], query), by))
            bar = _bar(np.concatenate([scores for _, _, scores, _ in pool]), k)
    found: list[tuple[float, bytes, int, str]] = []
    for part, rows, scores, by in pool:
        best = scores >= bar
        found += [
            (-score, part.index.hashes[row].tobytes(), part.first + row, by)
            for row, score in zip(rows[best].tolist(), scores[best].tolist(), strict=True)
        ]
    return [Found(row, -score, by) for score, _, row, by in sorted(found)[:k]]


def cosines(parts: Sequence[Part], query: np.ndarray, rows: Sequence[int]) -> dict[int, float]:
    """The cosine of each of some rows, as `nearest` scores them.

    Args:
        parts: segments of a view.
        query: float32 (dim,), L2-normalised.
        rows: of the view.
    """
    left = np.array(sorted(rows), dtype=np.int64)
    found: dict[int, float] = {}
    for part in parts:
        own = left[slice(*left.searchsorted([part.rows.start, part.rows.stop]))]
        if len(own):
            scores = _scores(part.index.vectors[own - part.first], query)
            found.update(zip(own.tolist(), scores.tolist(), strict=True))
    return found


def _candidates(
    index: SegmentIndex | CachedIndex, query: np.ndarray, k: int, mask: np.ndarray, least: float
) -> tuple[np.ndarray, str]:
    """Rows among which the `k` nearest are, as far as they score `least`, and how they were found."""
    count = int(np.count_nonzero(mask))
    exactly = "cache" if isinstance(index, CachedIndex) else "exact"
    small = count <= _EXACT_ROWS or count <= _EXACT_SHARE * len(mask)
    if index.graph is None or small or 4 * k >= count:
        return _exact(index, query, k, mask, count, least), exactly
    ask = math.ceil(k * len(mask) / count * 1.5 + 6)
    for width in (ask, 4 * ask):
        try:
            labels, _ = index.graph.knn_query(query, k=min(width, len(mask)), num_threads=1)
        except RuntimeError:
            # It reached fewer rows than it was asked for.
            break
        rows: np.ndarray = labels[0].astype(np.int64)
        rows = rows[mask[rows]]
        if len(rows) >= k:
            return rows, "graph"
    return _exact(index, query, k, mask, count, least), exactly


def _exact(
    index: SegmentIndex | CachedIndex,
    query: np.ndarray,
    k: int,
    mask: np.ndarray,
    count: int,
    least: float,
) -> np.ndarray:
    if not count:
        return np.empty(0, dtype=np.int64)
    rows: np.ndarray = np.flatnonzero(mask)
    if k >= count:
        return rows
    if count < _EXACT_SHARE * len(mask):
        scores = _gathered(index.vectors, rows, query)
    else:
        scores = _products(index.vectors, query)[rows]
    near = np.flatnonzero(scores >= least - _NOISE)
    if len(near) > k:
        near = near[scores[near] >= _bar(scores[near], k) - _NOISE]
    best: np.ndarray = rows[near]
    return best


def _bar(scores: np.ndarray, k: int) -> float:
    """The score of number `k` from the top, or less where there are no more."""
    place = len(scores) - k
    return float(np.partition(scores, place)[place]) if place > 0 else -np.inf


def _gathered(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The products of some rows, gathered a block at a time: a block stays in the cache."""
    scores = np.empty(len(rows), dtype=np.float32)
    block = np.empty((min(_BLOCK, len(rows)), vectors.shape[1]), dtype=np.float32)
    for first in range(0, len(rows), _BLOCK):
        part = rows[first : first + _BLOCK]
        held = block[: len(part)]
        # Any mode but the default writes into `out` directly; the rows are within bounds.
        np.take(vectors, part, axis=0, out=held, mode="clip")
        scores[first : first + _BLOCK] = _products(held, query)
    return scores


def _products(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The products of all rows, by this thread alone: float32 (n,)."""
    rows, dim = vectors.shape
    few = max(1, _SINGLE // dim)
    whole = rows - rows % few
    scores = np.empty(rows, dtype=np.float32)
    np.matmul(vectors[:whole].reshape(-1, few, dim), query, out=scores[:whole].reshape(-1, few))
    np.matmul(vectors[whole:], query, out=scores[whole:])
    return scores


def _scores(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    # Row by row in float64: a row's score must not depend on its neighbours.
    products = np.multiply(vectors, query, dtype=np.float64)
    scores: np.ndarray = products.sum(axis=1).astype(np.float32)
    return scores
