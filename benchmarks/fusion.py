"""How should two searches become one order? Chosen on one half of the known items, told of the other.

Every way to fuse is given the same candidates: of each search the first ones, exactly as they are
found in an index of nothing else. SciFact is a last look: nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.corpora import ABSENT, SHARED
from benchmarks.exact import DEPTH
from benchmarks.figures import Figure, skipped
from benchmarks.known_items import Judged, known_items, scifact, to_choose_by
from headwater.retrieval.evaluation import NDCG_AT, ndcg, rank_documents
from headwater.retrieval.fusion import K, fused

_KS: Final = (1, 2, 5, 10, 20, 30, 60, 100)
_DEPTHS: Final = (20, 50, 100, 200)
_DEEPEST: Final = max(_DEPTHS)
_WEIGHTS: Final = tuple(n / 20 for n in range(21))
_FLAT: Final = 0.01
"""By how much the default may be below the best of its grid, in nDCG@10."""


@dataclass(frozen=True)
class Candidates:
    """What both searches found for a query.

    Attributes:
        dense, lexical: rows and scores, best first, `_DEEPEST` of each at most.
        cosines: of every row of either.
    """

    dense: Sequence[tuple[int, float]]
    lexical: Sequence[tuple[int, float]]
    cosines: Mapping[int, float]

    def rows(self, depth: int) -> tuple[list[int], list[int]]:
        """The first rows of either search."""
        return [row for row, _ in self.dense[:depth]], [row for row, _ in self.lexical[:depth]]


Fusion = Callable[[Candidates], Mapping[int, float]]
"""Row -> what it is ordered by."""


def by_ranks(k: int, depth: int = DEPTH) -> Fusion:
    """Reciprocal ranks, as headwater sums them."""
    return lambda found: fused(found.rows(depth), k=k)


def by_one(which: str) -> Fusion:
    """Either search alone."""
    return lambda found: dict(found.dense if which == "dense" else found.lexical)


def by_weights(normal: str, weight: float, depth: int = DEPTH) -> Fusion:
    """`weight` times the cosine plus the rest times BM25, both brought to one scale first.

    Args:
        normal: `min-max` of the query's candidates, or `z` (their mean 0, their deviation 1).
        weight: of the cosine, 0 to 1.
        depth: candidates of either search. A row without BM25 has 0.
    """
    scale = _SCALES[normal]

    def fuse(found: Candidates) -> Mapping[int, float]:
        near, worded = found.rows(depth)
        rows = list(dict.fromkeys([*near, *worded]))
        bm25 = dict(found.lexical[:depth])
        cosines = scale(np.array([found.cosines[row] for row in rows]))
        words = scale(np.array([bm25.get(row, 0.0) for row in rows]))
        scores = weight * cosines + (1 - weight) * words
        return dict(zip(rows, scores.tolist(), strict=True))

    return fuse


def _min_max(values: np.ndarray) -> np.ndarray:
    span = float(np.ptp(values))
    return np.asarray((values - values.min()) / span if span else np.zeros_like(values))


def _z(values: np.ndarray) -> np.ndarray:
    deviation = float(values.std())
    return np.asarray((values - values.mean()) / deviation if deviation else np.zeros_like(values))


_SCALES: Final = {"min-max": _min_max, "z": _z}


@dataclass(frozen=True)
class Asked:
    """A set with the candidates of its queries."""

    judged: Judged
    found: Mapping[str, Candidates]

    def score(self, fuse: Fusion, half: bool | None = None) -> float:
        """Mean nDCG@10 over documents. half: to choose by, to report, or None for both."""
        return float(np.mean([self._ndcg(q, fuse) for q in self.queries(half)]))

    def queries(self, half: bool | None = None) -> list[str]:
        """The queries of a half."""
        return [q for q in self.found if half is None or to_choose_by(q) is half]

    def _ndcg(self, query: str, fuse: Fusion) -> float:
        found, passages = self.found[query], self.judged.index.passages
        scores = fuse(found)
        order = sorted(scores, key=lambda row: (-scores[row], -found.cosines[row]))
        hits = ((key, scores[row]) for row in order for key in passages[row].owners)
        return ndcg(rank_documents(hits)[:NDCG_AT], self.judged.relevant[query])


def asked(judged: Judged) -> Asked:
    """Ask all queries of a set, of both searches."""
    found = {}
    for query in judged.relevant:
        vector = judged.encoder.encode([query])[0]
        dense = judged.index.dense(vector, _DEEPEST)
        lexical = judged.index.lexical(query, _DEEPEST)
        rest = [row for row, _ in lexical if row not in dict(dense)]
        cosines = dict(dense) | judged.index.cosines(vector, rest)
        found[query] = Candidates(dense, lexical, cosines)
    return Asked(judged, found)


def measure(work: Path) -> Iterator[Figure]:
    """nDCG@10 of each way to fuse, a mean over the sets, and of SciFact beside it."""
    if not (SHARED / "replay.py").is_file():
        yield skipped("fusion", ABSENT)
        return
    sets = [asked(judged) for judged in known_items(work)]
    held = asked(scifact(work))
    yield from (_figure(f"{one} alone", by_one(one), sets, held) for one in ("dense", "lexical"))
    best = max(_KS, key=lambda k: _mean(by_ranks(k), sets, half=True))
    for k in _KS:
        said = ", ".join(
            w for w, true in (("default", k == K), ("best to choose", k == best)) if true
        )
        yield _figure(f"ranks, K = {k}" + (f" ({said})" if said else ""), by_ranks(k), sets, held)
    yield Figure(
        "the default less the best K",
        _mean(by_ranks(K), sets, half=True) - _mean(by_ranks(best), sets, half=True),
        least=-_FLAT,
        note="the half to choose by",
        digits=4,
    )
    for depth in _DEPTHS:
        yield _figure(f"ranks, K = {K}, depth {depth}", by_ranks(K, depth), sets, held)
    for normal in _SCALES:
        weight = max(_WEIGHTS, key=lambda w: _mean(by_weights(normal, w), sets, half=True))
        what = f"weighted, {normal}, {weight:.2f} of the cosine"
        yield _figure(what, by_weights(normal, weight), sets, held)


def _mean(fuse: Fusion, sets: Sequence[Asked], *, half: bool) -> float:
    return float(np.mean([one.score(fuse, half) for one in sets]))


def _figure(what: str, fuse: Fusion, sets: Sequence[Asked], held: Asked) -> Figure:
    """The half that is reported; in the note the other one, SciFact, and each set."""
    each = ", ".join(f"{one.judged.name} {one.score(fuse, half=False):.3f}" for one in sets)
    chosen = _mean(fuse, sets, half=True)
    return Figure(
        what,
        _mean(fuse, sets, half=False),
        note=f"to choose by {chosen:.4f}; scifact {held.score(fuse):.4f}; {each}",
        digits=4,
    )
