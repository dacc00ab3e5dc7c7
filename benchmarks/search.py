"""Search: latency with the real encoder, its two parts, and recall against an exact scan."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.corpora import questions
from benchmarks.figures import Figure
from benchmarks.knowledge import searchable
from headwater.retrieval import Retriever
from headwater.retrieval.encoder import TextEncoder, Vectors
from headwater.retrieval.encoders import open_query_encoder
from headwater.retrieval.normalisation import text_hash
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.history import live_texts
from headwater.storage.store import Store

_QUERIES = 200
_K = 10


class Watched:
    """An encoder that remembers its last vector and what that cost in CPU and wall seconds."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.vectors: Vectors = np.empty((0, 0), dtype=np.float32)
        self.seconds = np.zeros(2)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        began = _clocks()
        self.vectors = self._encoder.encode(texts)
        self.seconds = _clocks() - began
        return self.vectors


def measure(work: Path) -> Iterator[Figure]:
    """Latency and recall@10 over queries that are no text of the knowledge base."""
    what, root = searchable(work)
    store = Store.open(root / "store")
    manifest = store.resolve(None)
    assert manifest.encoder is not None
    hashes, matrix = _matrix(store)
    watched = Watched(open_query_encoder(manifest.encoder, store.objects))
    times = np.empty((_QUERIES, 3, 2))
    queries = np.empty((_QUERIES, manifest.encoder.dim), dtype=np.float32)
    found: list[set[bytes]] = []
    with Retriever.open(root, encoder=watched) as retriever:
        for query in questions(20):
            retriever.search(query, k=_K)
        for row, query in enumerate(questions(_QUERIES)):
            began = _clocks()
            hits = retriever.search(query, k=_K)
            times[row, 0] = _clocks() - began
            times[row, 1] = watched.seconds
            queries[row] = watched.vectors[0]
            found.append({text_hash(hit.text) for hit in hits})
    # Apart from the searches: the threads of numpy's BLAS spin for a while after a product.
    recalls = np.empty(_QUERIES)
    for row, vector in enumerate(queries):
        began = _clocks()
        best = np.argpartition(matrix @ vector, -_K)[-_K:]
        times[row, 2] = _clocks() - began
        recalls[row] = len(found[row] & {hashes[place] for place in best}) / _K
    graph = next((s for s in manifest.segments if s.graph), None)
    segments = f"{len(manifest.segments)} segments, ef {graph.ef if graph else 'none'}"
    note = f"{what}, {segments}; {_QUERIES} unseen queries, k={_K}"
    parts = times[:, 0] - times[:, 1]
    yield from _latency("search, whole", times[:, 0], note)
    yield from _latency("  of it: encode the query", times[:, 1])
    yield from _latency("  of it: find and read the hits", parts)
    yield from _latency("exact scan alone, for comparison", times[:, 2], "numpy, same process")
    yield Figure(
        "recall@10 against exact search",
        float(recalls.mean()),
        least=0.98,
        note=f"mean; worst query {recalls.min():.1f}",
        digits=4,
    )


def _latency(what: str, times: np.ndarray, note: str = "") -> Iterator[Figure]:
    """CPU milliseconds at p50 and p95; wall beside them. times: float64 (n, 2), CPU and wall."""
    for share in (50, 95):
        cpu, wall = np.percentile(times, share, axis=0) * 1000
        wall_note = f"wall {wall:.2f} ms"
        joined = f"{wall_note}; {note}" if note else wall_note
        yield Figure(f"{what}, p{share} CPU", float(cpu), "ms", note=joined)


def _matrix(store: Store) -> tuple[list[bytes], np.ndarray]:
    """The hashes of the live texts, and their vectors from the cache: float32 (n, dim)."""
    manifest = store.resolve(None)
    assert manifest.encoder is not None
    hashes = sorted(live_texts(store.objects, manifest))
    space = manifest.encoder.fingerprint
    cache = EmbeddingCache(store.objects, space=space, dim=manifest.encoder.dim)
    return hashes, cache.vectors(hashes)


def _clocks() -> np.ndarray:
    return np.array([time.process_time(), time.perf_counter()])
