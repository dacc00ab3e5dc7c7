"""One order from several: reciprocal rank fusion.

A rank says how a search thinks of a text whatever its scores mean, so cosines and BM25 need no
common scale. Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and
individual Rank Learning Methods", SIGIR 2009.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

K: Final = 10
"""How little the first places stand out. The paper has 60; docs/decisions/013 has why not here."""

T = TypeVar("T", bound=Hashable)


def fused(orders: Sequence[Sequence[T]], *, k: int = K) -> dict[T, float]:
    """The score of everything that some order names: the sum of 1 / (k + rank), ranks from 1.

    Args:
        orders: each best first, without repeats.
        k: damps the first places.

    Returns:
        scores above 0, at most `len(orders) / (k + 1)`; not ordered.
    """
    scores: dict[T, float] = {}
    for order in orders:
        for rank, item in enumerate(order, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return scores
