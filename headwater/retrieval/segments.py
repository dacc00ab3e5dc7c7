"""The files of a segment: its vectors, which are mapped and never copied, and its tombstones.

A row of the index is a distinct text, named by the SHA-256 of its normalised form. Which documents
hold the text is the tables' business: a rename, a duplicate or a revert touches no segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from headwater.errors import CorruptObjectError
from headwater.storage import files
from headwater.storage.hashes import HASH, find, is_ordered
from headwater.storage.objects import ObjectEntry, ObjectStore

__all__ = [
    "HASH",
    "SegmentVectors",
    "find",
    "hash_array",
    "is_ordered",
    "listed_hashes",
    "open_vectors",
    "read_tombstones",
    "write_tombstones",
    "write_vectors",
]

VECTORS = "vectors.arrow"
TOMBSTONES = "tombstones.u32"


def hash_array(hashes: Iterable[bytes] | np.ndarray) -> np.ndarray:
    """Hashes as one array.

    Args:
        hashes: 32 bytes each, or an array of them already.

    Returns:
        void[32] (n,), which compares, sorts and searches as unsigned bytes.
    """
    if isinstance(hashes, np.ndarray):
        return hashes.view(HASH).reshape(-1)
    return np.frombuffer(b"".join(hashes), dtype=HASH)


@dataclass(frozen=True)
class SegmentVectors:
    """The rows of a segment, mapped from the disk and read-only.

    Attributes:
        hashes: void[32] (n,), sorted, distinct.
        vectors: float32 (n, dim), L2-normalised.
    """

    hashes: np.ndarray
    vectors: np.ndarray


def write_vectors(objects: ObjectStore, hashes: np.ndarray, vectors: np.ndarray) -> ObjectEntry:
    """Store the rows of a segment.

    Args:
        objects: where to.
        hashes: void[32] (n,), sorted, distinct.
        vectors: float32 (n, dim), finite, L2-normalised, in the order of `hashes`.

    Returns:
        the entry; equal rows give equal bytes.

    Raises:
        ValueError: the rows are not sorted and distinct, or a vector is not finite.
        StorageUnavailableError: the disk is full or forbidden.
    """
    rows, dim = vectors.shape
    if len(hashes) != rows or not is_ordered(hashes):
        raise ValueError("the rows of a segment are sorted, distinct hashes with one vector each")
    if not np.isfinite(vectors).all():
        raise ValueError("a vector holds what is not a number")
    flat = pa.py_buffer(np.ascontiguousarray(vectors, dtype=np.float32))
    values = pa.Array.from_buffers(pa.float32(), rows * dim, [None, flat])
    names = pa.py_buffer(np.ascontiguousarray(hashes).view(np.uint8))
    columns = [
        pa.Array.from_buffers(pa.binary(HASH.itemsize), rows, [None, names]),
        pa.FixedSizeListArray.from_arrays(values, dim),
    ]
    batch = pa.record_batch(columns, names=["text_hash", "vector"])
    draft = objects.draft(VECTORS)
    with files.library_write(draft), pa.ipc.new_file(str(draft), batch.schema) as writer:
        writer.write_batch(batch)
    return objects.adopt(draft, VECTORS, rows=rows)


def open_vectors(objects: ObjectStore, entry: ObjectEntry, *, deep: bool = True) -> SegmentVectors:
    """Map the rows of a segment.

    Args:
        objects: where they are.
        entry: of the file.
        deep: check every byte first; otherwise only the size, for a look at a few rows.

    Raises:
        CorruptObjectError: the file is missing or damaged, or holds no such rows.
    """
    if deep:
        path = objects.path(entry)
    else:
        objects.verify(entry, deep=False)
        path = objects.root / entry.name
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            batch = reader.get_batch(0)
        names, vectors = batch.column(0), batch.column(1)
        dim = vectors.type.list_size
        hashes = np.frombuffer(names.buffers()[1], dtype=HASH, count=entry.rows)
        flat = np.frombuffer(vectors.buffers()[-1], dtype=np.float32, count=entry.rows * dim)
    except (pa.ArrowException, OSError, ValueError, AttributeError, IndexError) as error:
        raise _wrong(entry, str(error)) from None
    if batch.num_rows != entry.rows:
        raise _wrong(entry, f"it has {batch.num_rows} rows, the manifest says {entry.rows}")
    return SegmentVectors(hashes, flat.reshape(entry.rows, dim))


def listed_hashes(objects: ObjectStore, entry: ObjectEntry) -> np.ndarray:
    """The hashes in a file that was found by listing, so that nobody says how many: void[32] (n,).

    Raises:
        CorruptObjectError: the file is damaged, or holds no such rows.
    """
    try:
        with pa.ipc.open_file(pa.memory_map(str(objects.path(entry)))) as reader:
            rows = reader.get_batch(0).num_rows
    except pa.ArrowException as error:
        raise _wrong(entry, str(error)) from None
    return open_vectors(objects, replace(entry, rows=rows)).hashes


def write_tombstones(objects: ObjectStore, rows: np.ndarray) -> ObjectEntry | None:
    """Store the row numbers that are no longer live; None when there are none."""
    if not len(rows):
        return None
    return objects.put_bytes(np.sort(rows).astype("<u4").tobytes(), TOMBSTONES, rows=len(rows))


def read_tombstones(objects: ObjectStore, entry: ObjectEntry | None, *, rows: int) -> np.ndarray:
    """The row numbers that are no longer live.

    Args:
        objects: where they are.
        entry: None when every row is live.
        rows: of the segment.

    Returns:
        uint32 (dead,), rising.

    Raises:
        CorruptObjectError: the file is missing or damaged, or names rows that do not exist.
    """
    if entry is None:
        return np.empty(0, dtype=np.uint32)
    data = objects.path(entry).read_bytes()
    if len(data) != 4 * entry.rows:
        raise _wrong(entry, f"it has {len(data)} bytes for {entry.rows} rows")
    dead = np.frombuffer(data, dtype="<u4")
    if len(dead) and (int(dead[-1]) >= rows or (dead[1:] <= dead[:-1]).any()):
        raise _wrong(entry, f"its row numbers do not rise, or exceed the segment's {rows} rows")
    return dead


def _wrong(entry: ObjectEntry, why: str) -> CorruptObjectError:
    return CorruptObjectError(
        f"A segment's file does not hold what its manifest says ({why})",
        obj=f"objects/{entry.name}",
        todo="run 'headwater verify --deep' to see all of it",
    )
