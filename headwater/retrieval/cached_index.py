"""Texts without a segment of their own: past snapshots let go of theirs, and are searched exactly."""

from __future__ import annotations

import threading
import weakref

import numpy as np

from headwater.errors import CorruptObjectError
from headwater.retrieval.segments import find
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectStore


class CachedIndex:
    """Texts with their vectors from the embedding cache; views of several snapshots share it.

    Attributes:
        space: fingerprint.
        hashes: void[32] (n,), sorted.
        vectors: float32 (n, dim), in memory.
        graph: none, ever.
        name: what stands for a segment's name.
    """

    graph: None = None
    name = "embedding cache"

    def __init__(self, objects: ObjectStore, encoder: Encoder, hashes: np.ndarray) -> None:
        self.space = encoder.fingerprint
        self.hashes = hashes
        cache = EmbeddingCache(objects, space=encoder.fingerprint, dim=encoder.dim)
        names = np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), -1)
        try:
            self.vectors = cache.vectors([name.tobytes() for name in names])
        except KeyError:
            raise CorruptObjectError(
                "The snapshot let go of its index, and the embedding cache lacks vectors of its texts",
                obj=f"space {encoder.fingerprint[:16]}",
                todo="run 'headwater repair'; 'headwater verify --deep' names the snapshots",
            ) from None


class CachedIndexes:
    """What is loaded already, by its texts: neighbours in time have nearly all of them in common."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._loaded: weakref.WeakSet[CachedIndex] = weakref.WeakSet()
        self._lock = threading.Lock()

    def covering(self, encoder: Encoder, texts: np.ndarray) -> list[tuple[CachedIndex, np.ndarray]]:
        """Indexes that hold some texts, and the rows of each that do: int64 (m,), rising.

        Args:
            encoder: names their space.
            texts: void[32] (n,), sorted, distinct; each is in one of the rows returned.

        Raises:
            CorruptObjectError: a text has no vector in the cache, or an object is damaged.
        """
        found: list[tuple[CachedIndex, np.ndarray]] = []
        with self._lock:
            for index in sorted(self._loaded, key=lambda i: -len(i.hashes)):
                if index.space != encoder.fingerprint:
                    continue
                held = find(texts, index.hashes) >= 0
                # What is mostly of other snapshots would keep their vectors in memory for nothing.
                if 2 * np.count_nonzero(held) > len(held):
                    found.append((index, np.flatnonzero(held)))
                    texts = texts[find(index.hashes, texts) < 0]
            if len(texts):
                index = CachedIndex(self._objects, encoder, texts)
                self._loaded.add(index)
                found.append((index, np.arange(len(texts))))
        return found
