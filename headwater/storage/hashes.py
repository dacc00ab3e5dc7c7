"""Columns of SHA-256 as numpy arrays, found and ordered by their first eight bytes.

numpy compares 32 bytes through a call for each pair. Eight of them are a number, which is compared
many times faster and tells two hashes apart nearly always; where it does not, all 32 decide.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

HASH_BYTES = 32
# Not 'S32': numpy strips trailing zero bytes of strings, and one hash in 256 ends with one.
HASH = np.dtype(f"V{HASH_BYTES}")
_FEW = 64
"""For one in so many rows, it costs less to search them as they are than to look at every row."""


def hash_column(column: pa.ChunkedArray) -> np.ndarray:
    """A column of hashes: void[32] (n,), in its order."""
    held = column.cast(pa.binary(HASH_BYTES)).combine_chunks()
    start = held.offset * HASH_BYTES
    return np.frombuffer(held.buffers()[1] or b"", HASH, count=len(held), offset=start)


def first_words(hashes: np.ndarray) -> np.ndarray:
    """The first eight bytes of each hash as a number: uint64 (n,), in the order of the bytes."""
    rows = np.ascontiguousarray(hashes).view(np.dtype(">u8")).reshape(-1, HASH_BYTES // 8)
    words: np.ndarray = rows[:, 0].astype(np.uint64)
    return words


def find(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in `held`.

    Args:
        held: void[32] (n,), sorted.
        wanted: void[32] (m,).

    Returns:
        int64 (m,): the first equal row, -1 where there is none.
    """
    if not len(held):
        return np.full(len(wanted), -1, dtype=np.int64)
    if len(wanted) * _FEW < len(held):
        return _find(held, wanted)
    words, sought = first_words(held), first_words(wanted)
    rows = np.searchsorted(words, sought).astype(np.int64)
    rows[rows == len(held)] = 0
    missed = np.flatnonzero(held[rows] != wanted)
    shared = missed[words[rows[missed]] == sought[missed]]
    rows[missed] = -1
    rows[shared] = _find(held, wanted[shared])
    return rows


def ordered(hashes: np.ndarray) -> np.ndarray:
    """The same hashes, sorted; repeats stay: void[32] (n,)."""
    words = first_words(hashes)
    order = np.argsort(words)
    words, rows = words[order], hashes[order]
    tied = np.flatnonzero(words[1:] == words[:-1])
    # Equal hashes may stand in any order; others that share the first word may not.
    same = bool((rows[tied] == rows[tied + 1]).all())
    found: np.ndarray = rows if same else np.sort(rows)
    return found


def is_ordered(hashes: np.ndarray) -> bool:
    """Whether hashes are sorted and distinct."""
    words = first_words(hashes)
    if (words[1:] < words[:-1]).any():
        return False
    equal = np.flatnonzero(words[1:] == words[:-1]).tolist()
    return all(hashes[row].tobytes() < hashes[row + 1].tobytes() for row in equal)


def _find(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    rows = np.searchsorted(held, wanted).astype(np.int64)
    rows[rows == len(held)] = 0
    rows[held[rows] != wanted] = -1
    return rows
