"""The embedding cache: every text is embedded once per space, whatever happens to the run.

An embedding object is a root of its own: committed every few hundred texts, kept when the run dies,
and found again by listing, because no manifest needs to name it.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import CorruptObjectError
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore

HASH_BYTES = 32


class EmbeddingCache:
    """The vectors of one embedding space.

    Attributes:
        space: the fingerprint of the space.
        dim: numbers in a vector.
    """

    def __init__(self, objects: ObjectStore, *, space: str, dim: int) -> None:
        self._objects = objects
        self.space = space
        self.dim = dim
        self._keys: dict[bytes, tuple[int, int]] = {}
        self._entries: list[ObjectEntry] = []
        for entry, path in objects.listing():
            if entry.kind == EMBEDDINGS and self._is_ours(str(path)):
                with suppress(CorruptObjectError, FileNotFoundError):
                    self._remember(entry)

    def __contains__(self, text_hash: bytes) -> bool:
        return text_hash in self._keys

    def missing(self, hashes: list[bytes]) -> list[bytes]:
        """Those of `hashes` that have no vector yet, in their order."""
        return [h for h in hashes if h not in self._keys]

    def add(self, hashes: list[bytes], vectors: np.ndarray) -> None:
        """Commit vectors: durable when this returns.

        Args:
            hashes: 32 bytes each, distinct.
            vectors: float32 (n, dim), finite, L2-normalised.

        Raises:
            ValueError: the vectors have another shape or hold what is not a number.
        """
        if vectors.shape != (len(hashes), self.dim) or not np.isfinite(vectors).all():
            raise ValueError(f"expected finite vectors of shape ({len(hashes)}, {self.dim})")
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        flat = pa.array(np.ascontiguousarray(vectors[order], dtype=np.float32).ravel())
        table = pa.table(
            {
                "text_hash": pa.array([hashes[i] for i in order], pa.binary(HASH_BYTES)),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
            }
        ).replace_schema_metadata({"space": self.space})
        self._remember(self._objects.put_table(table, EMBEDDINGS))

    def vectors(self, hashes: list[bytes]) -> np.ndarray:
        """The vectors of texts that are all cached: float32 (n, dim), in the order of `hashes`.

        Raises:
            KeyError: one is not cached.
            CorruptObjectError: an object is damaged.
        """
        out = np.empty((len(hashes), self.dim), dtype=np.float32)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for position, text_hash in enumerate(hashes):
            index, row = self._keys[text_hash]
            wanted.setdefault(index, []).append((position, row))
        for index, places in wanted.items():
            block = self._read(self._entries[index])
            positions, rows = zip(*places, strict=True)
            out[list(positions)] = block[list(rows)]
        return out

    def _read(self, entry: ObjectEntry) -> np.ndarray:
        column = self._objects.read_table(entry, ["vector"])["vector"].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float32).reshape(-1, self.dim)

    def _remember(self, entry: ObjectEntry) -> None:
        hashes = self._objects.read_table(entry, ["text_hash"])["text_hash"].to_pylist()
        self._entries.append(entry)
        for row, text_hash in enumerate(hashes):
            self._keys.setdefault(text_hash, (len(self._entries) - 1, row))

    def _is_ours(self, path: str) -> bool:
        # A damaged footer here would stop every refresh; `verify` names the object, and the texts
        # that only it held are embedded again.
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowInvalid, OSError):
            return False
        return bool(metadata.get(b"space") == self.space.encode())
