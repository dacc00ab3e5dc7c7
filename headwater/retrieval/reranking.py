"""Ordering candidates again, by a model that reads query and text together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from headwater.retrieval.hits import Hit


class Reranker(Protocol):
    """Judges how well texts answer a query."""

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts),), finite; higher is better."""
        ...


def reranked(hits: Sequence[Hit], scores: np.ndarray) -> list[Hit]:
    """The hits, best score first; hits of equal score keep their order."""
    order = np.argsort(-scores, kind="stable")
    return [replace(hits[i], score=float(scores[i]), rerank=float(scores[i])) for i in order]
