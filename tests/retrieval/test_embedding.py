from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import ModelError
from headwater.retrieval.embedding import (
    CANARY_TEXTS,
    HashEmbedder,
    SentenceTransformersEmbedder,
    agreement,
    canary_vectors,
)
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.tokens import Tokenizer


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=20))
def test_every_text_gets_exactly_one_vector_of_length_one(texts: list[str]) -> None:
    """Also an empty text, and one of nothing but signs."""
    twin = HashEmbedder()
    seen: list[int] = []
    for positions, vectors in twin.embed(texts):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(vectors, twin.encode([texts[i] for i in positions]))
        seen += positions
    assert sorted(seen) == list(range(len(texts)))


def test_embedding_comes_in_groups_that_can_be_committed() -> None:
    """A run that is stopped half-way has lost at most one group."""
    groups = HashEmbedder().embed([f"text {n}" for n in range(1000)])
    first, _ = next(groups)
    assert 0 < len(first) <= 300


def test_texts_that_share_words_are_nearer_than_texts_that_do_not() -> None:
    """The twin ranks as a model would, so a pipeline can be tested on what it finds."""
    question, near, far = HashEmbedder().encode(
        ["restore the database backup", "how to restore a database from backup", "valve pressure"]
    )
    assert question @ near > question @ far


def test_the_twin_depends_on_the_normalised_text_only() -> None:
    """As the cache does."""
    a, b = HashEmbedder().encode(["cafe\u0301  au\nlait", normalise("cafe\u0301  au\nlait")])
    np.testing.assert_array_equal(a, b)
    assert HashEmbedder(16).space.fingerprint != HashEmbedder(32).space.fingerprint


def test_the_twin_brings_its_own_tokenizer() -> None:
    """A token is a word or a run of signs."""
    assert Tokenizer(HashEmbedder().tokenizer).count(["one two, three", ""]) == [4, 0]


def test_agreement_is_the_worst_cosine() -> None:
    """One text that differs is enough; other shapes never agree."""
    vectors = canary_vectors(HashEmbedder())
    assert vectors.shape == (len(CANARY_TEXTS), 32)
    assert agreement(vectors, vectors) == pytest.approx(1)
    other = vectors.copy()
    other[3] = -other[3]
    assert agreement(vectors, other) == pytest.approx(-1)
    assert agreement(vectors, vectors[:-1]) == -1
    assert agreement(vectors[:0], vectors[:0]) == -1


@pytest.mark.slow
def test_a_folder_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    """What the library raises about it is translated."""
    pytest.importorskip("sentence_transformers", reason="the extra pipeline is not installed")
    with pytest.raises(ModelError):
        SentenceTransformersEmbedder(tmp_path, HashEmbedder().space)
