"""The embedding cache outlives runs and refuses what is no vector."""

import hashlib

import numpy as np
import pytest

from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.objects import ObjectStore


def hashes(count: int, start: int = 0) -> list[bytes]:
    return [hashlib.sha256(bytes([n])).digest() for n in range(start, start + count)]


def vectors(count: int, dim: int = 4) -> np.ndarray:
    rows = np.arange(1, count * dim + 1, dtype=np.float32).reshape(count, dim)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def objects(tmp_path):
    return ObjectStore(tmp_path)


def test_vectors_come_back_in_the_order_they_are_asked_for(objects):
    """Lookups across several objects keep the caller's order."""
    cache = EmbeddingCache(objects, space="a", dim=4)
    cache.add(hashes(5), vectors(10)[:5])
    cache.add(hashes(5, 5), vectors(10)[5:])
    order = [7, 0, 9, 3]
    found = cache.vectors([hashes(10)[i] for i in order])
    assert np.array_equal(found, vectors(10)[order])


def test_a_new_process_finds_what_a_dead_one_committed(objects, tmp_path):
    """No manifest names an embedding object; the cache finds it all the same."""
    EmbeddingCache(objects, space="a", dim=4).add(hashes(3), vectors(3))
    again = EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4)
    assert again.missing(hashes(4)) == hashes(4)[3:]


def test_spaces_do_not_mix(objects):
    """A vector of one model is never served for another."""
    EmbeddingCache(objects, space="a", dim=4).add(hashes(3), vectors(3))
    assert EmbeddingCache(objects, space="b", dim=4).missing(hashes(3)) == hashes(3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(objects, bad):
    """A broken model must not poison the cache."""
    rows = vectors(2)
    rows[1, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        EmbeddingCache(objects, space="a", dim=4).add(hashes(2), rows)


def test_a_damaged_object_is_as_good_as_absent(objects, tmp_path):
    """Texts whose vectors were damaged are embedded again; the refresh goes on."""
    cache = EmbeddingCache(objects, space="a", dim=4)
    cache.add(hashes(3), vectors(3))
    (_, path), *_ = objects.listing()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    fresh = ObjectStore(tmp_path)
    cache = EmbeddingCache(fresh, space="a", dim=4)
    assert cache.missing(hashes(3)) == hashes(3)
    cache.add(hashes(3), vectors(3))
    assert not EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4).missing(hashes(3))
