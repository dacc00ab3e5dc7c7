"""Candidates ordered again: by a twin, and by a real cross-encoder with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import bert_files

from headwater.config import load
from headwater.errors import ConfigError, ModelError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval import Retriever
from headwater.retrieval.reranking import CrossEncoderReranker, WordOverlapReranker, reranked

NOTES = {
    "a": "The ferry leaves at nine.",
    "b": "At nine the ferry leaves from the old pier of the town.",
    "c": "The lamp on the pier is broken.",
    "d": "Nobody knows when the ferry comes back.",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Four notes, published."""
    root = tmp_path_factory.mktemp("rerank")
    (root / "notes").mkdir()
    for name, text in NOTES.items():
        (root / "notes" / f"{name}.md").write_text(text)
    (root / "headwater.yaml").write_text(
        "name: rerank\nsources:\n  notes: {kind: documents, root: notes}\n"
    )
    assert refresh(load(root), encoding=twin_encoding).published
    return root


def test_the_reranker_orders_and_its_score_is_the_hits(base):
    """More candidates are asked for than returned; each hit keeps what the search said of it."""
    query = "lamp broken pier"
    with Retriever.open(base, reranker=WordOverlapReranker()) as retriever:
        plain = retriever.search(query, k=4)
        hits = retriever.search(query, k=2, rerank=4)
    assert [hit.key for hit in hits] == ["c.md", "b.md"]
    assert (
        [hit.score for hit in hits] == [hit.rerank for hit in hits] == [1.0, pytest.approx(1 / 3)]
    )
    cosines = {hit.key: hit.cosine for hit in plain}
    assert all(hit.cosine == cosines[hit.key] for hit in hits)
    assert all(hit.rerank is None for hit in plain)


def test_without_a_reranker_or_with_too_few_candidates_it_is_refused(base):
    """Nothing is left out in silence."""
    with Retriever.open(base) as retriever, pytest.raises(ConfigError, match="nothing to rerank"):
        retriever.search("ferry", rerank=10)
    with (
        Retriever.open(base, reranker=WordOverlapReranker()) as retriever,
        pytest.raises(ConfigError, match="Fewer"),
    ):
        retriever.search("ferry", k=5, rerank=4)


@pytest.mark.parametrize("scores", [[1.0], [1.0, float("nan"), 0, 0], [[1.0] * 4]])
def test_a_reranker_that_gives_nonsense_is_refused_and_the_reader_serves_on(base, scores):
    """Too few scores, or what is no number, never becomes an order."""

    class Broken:
        def scores(self, query, texts):
            return np.array(scores)

    with Retriever.open(base, reranker=Broken()) as retriever:
        with pytest.raises(ModelError, match="no score for each"):
            retriever.search("ferry", k=2, rerank=4)
        assert len(retriever.search("ferry", k=2)) == 2


def test_equal_scores_keep_the_order_of_the_search(base):
    """A reranker without an opinion changes nothing."""
    with Retriever.open(base) as retriever:
        hits = retriever.search("ferry", k=4)
    assert [h.key for h in reranked(hits, np.zeros(4))] == [h.key for h in hits]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory) -> Path:
    """A tiny BERT with random weights and one output, saved as any cross-encoder is."""
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("model") / "tiny"
    words = sorted({w.strip(".").lower() for text in NOTES.values() for w in text.split()})
    config = bert_files(folder, words, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_real_cross_encoder_orders_by_its_own_scores(base, cross_encoder):
    """Loaded by sentence-transformers from a folder; the order is that of its scores."""
    model = CrossEncoderReranker(cross_encoder.name, root=cross_encoder.parent, device="cpu")
    with Retriever.open(base, reranker=model) as retriever:
        hits = retriever.search("when does the ferry leave", k=4, rerank=4)
    expected = model.scores("when does the ferry leave", [hit.text for hit in hits])
    assert [hit.score for hit in hits] == pytest.approx(expected.tolist(), abs=1e-5)
    assert sorted(expected.tolist(), reverse=True) == expected.tolist()
    assert model.scores("x", []).shape == (0,)


@pytest.mark.slow
def test_a_model_that_is_not_there_is_refused_in_three_parts(tmp_path):
    """No traceback of three libraries, one sentence."""
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        CrossEncoderReranker("nobody/has-this", root=tmp_path)
    assert caught.value.obj == "nobody/has-this" and caught.value.todo
