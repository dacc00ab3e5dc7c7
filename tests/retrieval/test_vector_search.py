"""The nearest rows of several segments are those of one scan over all of them."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from headwater.retrieval.segments import hash_array
from headwater.retrieval.vector_search import Part, _products, cosines, nearest


@pytest.mark.parametrize(
    "rows, dim", [(0, 8), (1, 8), (21, 384), (50, 384), (2000, 384), (3, 9000)]
)
def test_a_scan_in_small_pieces_is_the_product(rows, dim):
    """Whatever the shape: none, fewer than a piece, several, and vectors longer than one."""
    chance = np.random.default_rng(rows)
    vectors = chance.standard_normal((rows, dim), dtype=np.float32)
    query = chance.standard_normal(dim, dtype=np.float32)
    found = _products(vectors, query)
    assert found.dtype == np.float32
    assert np.allclose(found, vectors @ query, atol=1e-3)


def parts(vectors: np.ndarray, sizes: list[int]) -> list[Part]:
    """Rows spread over segments without graphs."""
    names = hash_array(
        hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(len(vectors))
    )
    found, first = [], 0
    for size in sizes:
        rows = slice(first, first + size)
        index = SimpleNamespace(hashes=names[rows], vectors=vectors[rows], graph=None)
        found.append(Part(index, first))
        first += size
    return found


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [[300], [1, 299], [200, 40, 60], [0, 300, 0]])
def test_segments_find_what_one_scan_finds(sizes, share):
    """The order too, where rows are equal and stand in different segments."""
    chance = np.random.default_rng(len(sizes))
    vectors = chance.integers(-2, 3, (300, 4)).astype(np.float32)
    vectors[:, 0] += 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[7]
    allowed = chance.random(300) < share
    split = parts(vectors, sizes)
    whole = parts(vectors, [300])
    for k in (1, 10, 100, 400):
        found = nearest(split, query, k, allowed)
        assert found == nearest(whole, query, k, allowed)
        assert len(found) == min(k, np.count_nonzero(allowed))
        order = np.sort((vectors.astype(np.float64) @ query)[allowed])[::-1][:k]
        assert np.allclose([f.score for f in found], order, atol=1e-6)
        assert cosines(split, query, [f.row for f in found]) == {f.row: f.score for f in found}
