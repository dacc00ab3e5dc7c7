"""Small embedding objects become large ones, so that a lookup opens few files.

Objects are merged by size, a tier at a time, as a counter carries: n texts lie in O(log n) objects,
and each text was written as many times. What was merged is not deleted, because another run may be
reading it: the merged object names it in its footer, so that nobody opens it any more, and
`covered_embeddings` tells the vacuum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import BusyError, StorageUnavailableError, StoreError
from headwater.storage import files
from headwater.storage.embeddings import (
    COVERS_KEY,
    SPACE_KEY,
    EmbeddingCache,
    Part,
    read_hashes,
    vector_block,
)
from headwater.storage.hashes import HASH_BYTES
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore

FAN_IN = 16
"""Objects of one tier that are left alone; one more, and they are merged."""
MOST = 64
"""Objects that are merged at once: what bounds memory, with `BLOCK`."""
BLOCK = 2048
"""Rows of a row group of a merged object: so many vectors of each part are in memory."""
_FIRST_TIER = 256


def plan_merges(rows: Sequence[int]) -> list[list[int]]:
    """Which objects to merge with each other, now. Pure.

    Args:
        rows: of each object.

    Returns:
        positions, in groups of 2 to `MOST`; none when no tier holds more than `FAN_IN` objects.
    """
    tiers: dict[int, list[int]] = {}
    for position, count in enumerate(rows):
        tier = 0
        while count > _FIRST_TIER * FAN_IN**tier:
            tier += 1
        tiers.setdefault(tier, []).append(position)
    groups = []
    for positions in tiers.values():
        if len(positions) > FAN_IN:
            groups += [positions[i : i + MOST] for i in range(0, len(positions), MOST)]
    return [group for group in groups if len(group) > 1]


def merge_embeddings(objects: ObjectStore, cache: EmbeddingCache) -> list[ObjectEntry]:
    """Merge what has become too many small objects of a space; returns what was written.

    An object is durable before anything else is done with it, and nothing is deleted: killed at any
    moment, this leaves what was there. A disk without room for it leaves the objects as they are.
    """
    written: list[ObjectEntry] = []
    # The store's refusal costs speed, never the run that has just paid for its vectors.
    with suppress(StorageUnavailableError, BusyError):
        while groups := plan_merges([part.entry.rows for part in cache.parts()]):
            parts = cache.parts()
            for group in groups:
                entry = _merge(objects, cache, [parts[i] for i in group])
                if entry is not None:
                    written.append(entry)
            cache.reread()
    return written


def _merge(objects: ObjectStore, cache: EmbeddingCache, parts: list[Part]) -> ObjectEntry | None:
    """Write one object with all texts of `parts`; None when one of them is damaged."""
    for part in parts:
        try:
            objects.path(part.entry)
        except StoreError:
            cache.forget(part)
            return None
    hashes = [read_hashes(objects, part.entry) for part in parts]
    everything = np.concatenate(hashes)
    order = np.argsort(everything, kind="stable")
    ranked = everything[order]
    first = np.ones(len(ranked), dtype=bool)
    first[1:] = ranked[1:] != ranked[:-1]
    order, ranked = order[first], ranked[first]
    starts = np.cumsum([0, *(len(h) for h in hashes)])
    owner = np.searchsorted(starts, order, side="right") - 1
    rows = order - starts[owner]
    covers = sorted({part.label for part in parts}.union(*(part.covers for part in parts)))
    schema = pa.schema(
        [("text_hash", pa.binary(HASH_BYTES)), ("vector", pa.list_(pa.float32(), cache.dim))],
        metadata={SPACE_KEY: cache.space, COVERS_KEY: " ".join(covers)},
    )
    draft = objects.draft(EMBEDDINGS)
    with (
        files.library_write(draft),
        pq.ParquetWriter(draft, schema, compression="zstd", write_statistics=False) as writer,
    ):
        readers = [_Rising(objects, part, cache.dim) for part in parts]
        for block in range(0, len(ranked), BLOCK):
            stop = block + BLOCK
            vectors = np.empty((len(ranked[block:stop]), cache.dim), dtype=np.float32)
            for number in np.unique(owner[block:stop]).tolist():
                mine = owner[block:stop] == number
                vectors[mine] = readers[number].take(rows[block:stop][mine])
            writer.write_table(_table(ranked[block:stop], vectors, schema))
    return objects.adopt(draft, EMBEDDINGS, rows=len(ranked))


def _table(hashes: np.ndarray, vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    names = pa.py_buffer(np.ascontiguousarray(hashes))
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(schema.field(0).type, len(hashes), [None, names]),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


@dataclass
class _Held:
    start: int
    vectors: np.ndarray


class _Rising:
    """The vectors of one object, asked for by rising rows; one row group is in memory."""

    def __init__(self, objects: ObjectStore, part: Part, dim: int) -> None:
        self._dim = dim
        self._blocks = self._read(objects, part)
        self._held = _Held(0, np.empty((0, dim), dtype=np.float32))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of `rows`, which follow those of the call before."""
        out = np.empty((len(rows), self._dim), dtype=np.float32)
        done = 0
        while done < len(rows):
            held = self._held
            stop = int(np.searchsorted(rows, held.start + len(held.vectors)))
            out[done:stop] = held.vectors[rows[done:stop] - held.start]
            done = stop
            if done < len(rows):
                following = next(self._blocks)
                self._held = _Held(held.start + len(held.vectors), following)
        return out

    def _read(self, objects: ObjectStore, part: Part) -> Iterator[np.ndarray]:
        path = objects.root / part.entry.name
        for group in range(pq.read_metadata(path).num_row_groups):
            with pq.ParquetFile(path) as file:
                column = file.read_row_group(group, columns=["vector"])["vector"]
            yield vector_block(column, self._dim)
