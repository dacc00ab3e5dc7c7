"""From what the searches of a view found to one order, with the share of each in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from headwater.retrieval.fusion import fused
from headwater.retrieval.vector_search import Found

_NOWHERE: Final = (None, None)
"""Rank and score of a row that a search did not find."""


class Ranked(NamedTuple):
    """A row of a view, and what speaks for it.

    Attributes:
        row: of the view.
        score: what it is ordered by.
        by: how it was found: graph, exact, cache, or words.
        cosine, bm25: of either search; None where it has none.
        dense_rank, lexical_rank: its place in either, from 1; None where it had none.
    """

    row: int
    score: float
    by: str
    cosine: float | None
    bm25: float | None
    dense_rank: int | None
    lexical_rank: int | None


def ranked(
    k: int,
    *,
    dense: Sequence[Found] = (),
    lexical: Sequence[tuple[int, float]] = (),
    cosines: Mapping[int, float] | None = None,
    told: bool = True,
) -> list[Ranked]:
    """The `k` best rows: by the one search there is, or by both, fused by reciprocal ranks.

    Rows of equal score are ordered by cosine, then by BM25.

    Args:
        k: how many at most.
        dense: best first; nothing where only words were asked for.
        lexical: rows and BM25 scores, best first.
        cosines: of rows that only `lexical` has; None where only one of the two was asked for.
        told: whether BM25 is said; otherwise reciprocal ranks stand for it.
    """
    near = {found.row: (rank, found) for rank, found in enumerate(dense, 1)}
    worded = {row: (rank, score if told else None) for rank, (row, score) in enumerate(lexical, 1)}
    if cosines is not None or (worded and not told):
        scores = fused([list(near), list(worded)])
    elif near:
        scores = {row: found.score for row, (_, found) in near.items()}
    else:
        scores = dict(lexical)
    extra = cosines or {}

    def order(row: int) -> tuple[float, float, float]:
        found, bm25 = near.get(row, _NOWHERE)[1], worded.get(row, _NOWHERE)[1]
        cosine = found.score if found else extra.get(row)
        return -scores[row], -(cosine or 0.0), -(bm25 or 0.0)

    # Stable: rows of one search keep its order.
    best = sorted(scores, key=order)[:k]
    rows = []
    for row in best:
        dense_rank, found = near.get(row, _NOWHERE)
        lexical_rank, bm25 = worded.get(row, _NOWHERE)
        cosine = found.score if found else extra.get(row)
        by = found.by if found else "words"
        rows.append(Ranked(row, scores[row], by, cosine, bm25, dense_rank, lexical_rank))
    return rows
