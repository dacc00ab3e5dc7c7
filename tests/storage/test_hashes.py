"""Hashes are found and ordered by their first bytes as by all of them."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headwater.storage.hashes import HASH, find, hash_column, is_ordered, ordered

# Few different first words, so that hashes share them; zero bytes at the end, which numpy's strings
# would drop.
_PART = st.sampled_from([b"\x00" * 8, b"\x00" * 7 + b"\x01", b"\x80" + b"\x00" * 7, b"\xff" * 8])
HASHES = st.lists(st.builds(lambda a, b: a + b"\x00" * 16 + b, _PART, _PART), max_size=30)


def array(hashes: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), dtype=HASH)


def names(hashes: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in hashes]


@given(HASHES, HASHES)
def test_each_hash_is_found_at_its_first_row(held, wanted):
    """What `list.index` finds, and -1 for what is not there."""
    held.sort()
    expected = [held.index(h) if h in held else -1 for h in wanted]
    assert find(array(held), array(wanted)).tolist() == expected


@given(HASHES)
def test_few_hashes_are_found_among_many(wanted):
    """The other way of searching, for a look at a few rows, gives the same answer."""
    held = sorted({n.to_bytes(8, "big") + b"\x00" * 24 for n in range(4000)} | {*wanted[::2]})
    expected = [held.index(h) if h in held else -1 for h in wanted]
    assert find(array(held), array(wanted)).tolist() == expected


@given(HASHES)
def test_hashes_are_ordered_as_bytes(hashes):
    """Sorted with all 32 bytes, repeats kept; and only distinct ones count as ordered."""
    assert names(ordered(array(hashes))) == sorted(hashes)
    assert is_ordered(array(hashes)) == (hashes == sorted(set(hashes)))
    assert is_ordered(array(sorted(set(hashes))))


@given(
    st.lists(HASHES, max_size=4), st.integers(0, 5), st.sampled_from([pa.binary(), pa.binary(32)])
)
def test_a_column_gives_its_hashes_in_order(parts, skipped, kind):
    """In any number of pieces, sliced or not, of fixed size or not."""
    column = pa.chunked_array([pa.array(part, kind) for part in parts], kind).slice(skipped)
    assert names(hash_column(column)) == [h for part in parts for h in part][skipped:]
