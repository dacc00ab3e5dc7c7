"""Ordering candidates again, by a model that reads the query and a text together."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headwater.errors import MissingExtraError, ModelError
from headwater.retrieval.hits import Hit


class Reranker(Protocol):
    """Judges how well texts answer a query. Asked by several threads at once."""

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """How well each text answers the query: float32 (len(texts),), higher is better."""
        ...


def reranked(hits: Sequence[Hit], scores: np.ndarray) -> list[Hit]:
    """The hits with their new scores, best first; hits of equal score keep their order.

    Args:
        hits: as a search found them.
        scores: float (len(hits),), finite.

    Raises:
        ModelError: there is not one finite score for each hit.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (len(hits),) or not np.isfinite(found).all():
        raise ModelError(
            "The reranker gave no score for each passage",
            obj=f"{found.shape} in place of ({len(hits)},), or not finite",
            todo="search without it, or give another one",
        )
    order = np.argsort(-found, kind="stable")
    return [replace(hits[i], score=float(found[i]), rerank=float(found[i])) for i in order]


class CrossEncoderReranker:
    """Any cross-encoder that sentence-transformers can load; costs about as much as embedding.

    Args:
        model: a folder (absolute, or relative to `root`), or the hub's `owner/name`.
        root: the knowledge base's folder; None for the working folder.
        device: `cpu` or `cuda`; None for a GPU where torch sees one.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ModelError: the model cannot be loaded, or gives more than one score for a pair.
    """

    def __init__(self, model: str, *, root: Path | None = None, device: str | None = None) -> None:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError:
            raise MissingExtraError.of("sentence-transformers", "pipeline") from None
        from headwater.retrieval.embedding import quiet

        folder = (root or Path()) / model
        place = str(folder) if folder.is_dir() else model
        try:
            with quiet():
                self._model: Any = CrossEncoder(place, device=device)
        except Exception as error:  # noqa: BLE001
            # Whatever three libraries and the hub's client say of a model that cannot be had.
            raise ModelError(
                "The reranker cannot be loaded",
                obj=model,
                todo=(str(error).strip().splitlines() or [type(error).__name__])[0],
            ) from None
        if self._model.num_labels != 1:
            raise ModelError(
                "The reranker gives more than one score for a pair",
                obj=f"{model}: {self._model.num_labels}",
                todo="name a cross-encoder for retrieval, such as the MS MARCO ones",
            )
        # Its tokenizer must not be used by two threads at once.
        self._lock = threading.Lock()

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """See `Reranker.scores`."""
        if not texts:
            return np.empty(0, dtype=np.float32)
        pairs = [(query, text) for text in texts]
        with self._lock:
            found = self._model.predict(pairs, batch_size=8, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


class WordOverlapReranker:
    """A model-free twin for tests: the share of the query's words that a text holds."""

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """See `Reranker.scores`."""
        asked = set(re.findall(r"\w+", query.lower()))
        held = (set(re.findall(r"\w+", text.lower())) for text in texts)
        shares = [len(asked & words) / max(1, len(asked)) for words in held]
        return np.array(shares, dtype=np.float32)
