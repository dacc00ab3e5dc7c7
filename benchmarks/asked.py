"""Queries that were embedded beforehand, and the exact answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.corpora import questions
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.encoders import open_query_encoder
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.history import live_texts
from headwater.storage.store import Store

K = 10
QUERIES = 200
_NOISE = 1e-5


class Answered:
    """An encoder that knows its answers: a search costs what it costs without an embedding."""

    def __init__(self, queries: Sequence[str], vectors: Vectors) -> None:
        self._rows = {query: row for row, query in enumerate(queries)}
        self._vectors = vectors

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        return self._vectors[[self._rows[text] for text in texts]]


@dataclass(frozen=True)
class Asked:
    """Queries, and what a snapshot answers.

    Attributes:
        texts: of the queries, none of them a text of a knowledge base.
        vectors: float32 (q, dim), L2-normalised.
        matrix: of the live texts, float32 (n, dim).
        bars: the cosine of the text that is number `K` for each query: float32 (q,).
    """

    texts: Sequence[str]
    vectors: Vectors
    matrix: Vectors
    bars: np.ndarray

    @property
    def encoder(self) -> Answered:
        """What embeds the queries."""
        return Answered(self.texts, self.vectors)

    def recall(self, scores: Sequence[Sequence[float]]) -> float:
        """The mean share of the `K` best that searches found, by the cosines of what they found."""
        good = [
            sum(score >= bar - _NOISE for score in found)
            for found, bar in zip(scores, self.bars, strict=True)
        ]
        return float(np.mean(good)) / K


def embedded(store: Store, texts: Sequence[str]) -> Vectors:
    """The vectors of queries in the space of what is current, each embedded by itself."""
    encoder = store.resolve(None).encoder
    assert encoder is not None
    model = open_query_encoder(encoder, store.objects)
    return np.concatenate([model.encode([text]) for text in texts])


def asked(store: Store, name: str, vectors: Vectors) -> Asked:
    """The queries of these vectors, and what a snapshot answers."""
    manifest = store.resolve(name)
    encoder = manifest.encoder
    assert encoder is not None
    cache = EmbeddingCache(store.objects, space=encoder.fingerprint, dim=encoder.dim)
    matrix = cache.vectors(sorted(live_texts(store.objects, manifest)))
    bars = [np.partition(matrix @ vector, -K)[-K] for vector in vectors]
    return Asked(questions(len(vectors)), vectors, matrix, np.array(bars))
