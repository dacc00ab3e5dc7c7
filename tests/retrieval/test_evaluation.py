"""The measures of a ranking, against formulas written out slowly, and the reading of BEIR folders."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError
from headwater.retrieval.beir import read_corpus, read_judgements, read_queries
from headwater.retrieval.evaluation import ndcg, rank_documents, recall, reciprocal_rank, score

NAMES = st.sampled_from([f"d{n}" for n in range(12)])
RANKED = st.lists(NAMES, unique=True, max_size=12)
JUDGED = st.dictionaries(NAMES, st.integers(-1, 3), max_size=12)
CUT = st.integers(1, 15)


def slow_dcg(gains: list[int], k: int) -> float:
    """The definition, term by term."""
    total = 0.0
    for position in range(min(k, len(gains))):
        total += gains[position] / math.log2(position + 2)
    return total


def slow_ndcg(ranked: list[str], judged: dict[str, int], k: int) -> float:
    """DCG over the DCG of the best order of everything that is judged."""
    gains = [judged[d] if judged.get(d, 0) > 0 else 0 for d in ranked]
    ideal = slow_dcg(sorted((g for g in judged.values() if g > 0), reverse=True), k)
    return slow_dcg(gains, k) / ideal if ideal else 0.0


@given(RANKED, JUDGED, CUT)
def test_ndcg_is_what_its_definition_says(ranked, judged, k):
    """The vectorised form and the written-out one agree."""
    assert ndcg(ranked, judged, k) == pytest.approx(slow_ndcg(ranked, judged, k), abs=1e-12)


@given(RANKED, JUDGED, CUT)
def test_recall_and_reciprocal_rank_are_what_their_definitions_say(ranked, judged, k):
    """Counted one by one."""
    relevant = [d for d in judged if judged[d] > 0]
    hits = sum(1 for d in relevant if d in ranked and ranked.index(d) < k)
    assert recall(ranked, judged, k) == (hits / len(relevant) if relevant else 0.0)
    places = [ranked.index(d) + 1 for d in relevant if d in ranked and ranked.index(d) < k]
    assert reciprocal_rank(ranked, judged, k) == (1 / min(places) if places else 0.0)


@given(JUDGED, CUT)
def test_the_best_order_scores_one(judged, k):
    """Nothing ranks better than the judgements themselves."""
    best = sorted(judged, key=lambda d: -judged[d])
    relevant = any(rel > 0 for rel in judged.values())
    assert ndcg(best, judged, k) == pytest.approx(1.0 if relevant else 0.0)
    assert reciprocal_rank(best, judged, k) == (1.0 if relevant else 0.0)


@given(st.lists(st.tuples(NAMES, st.sampled_from([0.9, 0.5, 0.1])), max_size=20))
def test_a_document_ranks_where_its_best_passage_does(hits):
    """By its highest score, and among equals by its name, each document once."""
    hits = sorted(hits, key=lambda hit: -hit[1])
    best: dict[str, float] = {}
    for name, value in hits:
        best[name] = max(value, best.get(name, value))
    assert rank_documents(hits) == sorted(best, key=lambda name: (-best[name], name))


def test_a_known_ranking_scores_what_was_computed_by_hand():
    """One relevant document of two at rank 2: 1/log2(3) over 1 + 1/log2(3)."""
    judged = {"a": 1, "b": 1}
    found = score({"q": ["x", "a"]}, {"q": judged, "nothing": {"a": 0}})
    assert found.queries == 1
    assert found.ndcg == pytest.approx(0.6309297535 / 1.6309297535)
    assert (found.recall, found.mrr) == (0.5, 0.5)


def test_the_figures_that_pytrec_eval_publishes_come_out():
    """The example in its README: what the original computes for two small rankings."""
    assert ndcg(["d3", "d1", "d2"], {"d1": 0, "d2": 1, "d3": 0}) == pytest.approx(0.5)
    second = ndcg(["d1", "d3", "d2"], {"d2": 1, "d3": 1})
    assert second == pytest.approx(0.6934264036172708)


def test_a_query_without_an_answer_counts_as_zero():
    """What was judged and not found lowers the mean."""
    found = score({"q": ["a"]}, {"q": {"a": 1}, "missed": {"b": 1}})
    assert (found.ndcg, found.recall, found.mrr, found.queries) == (0.5, 0.5, 0.5, 2)
    assert score({}, {}).queries == 0


# --- folders --------------------------------------------------------------------------------------

CORPUS = '{"_id": "a", "title": "T", "text": "x"}\n\n{"_id": "b", "text": "y"}\n'
QUERIES = '{"_id": "q", "text": "ask"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq\ta\t1\n"


def folder(path: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    """A data set."""
    (path / "qrels").mkdir()
    (path / "corpus.jsonl").write_text(corpus)
    (path / "queries.jsonl").write_text(queries)
    (path / "qrels" / "test.tsv").write_text(qrels)
    return path


def read(path: Path) -> None:
    """All of it."""
    read_corpus(path)
    read_judgements(path, read_queries(path), "test")


def test_a_folder_is_read_as_it_is_written(tmp_path):
    """Titles may be missing, blank lines and a byte order mark are no trouble."""
    path = folder(tmp_path, corpus="\ufeff" + CORPUS, qrels="q\tb\t2\nq\ta\t0\n")
    assert [(d.key, d.title, d.text) for d in read_corpus(path)] == [
        ("a", "T", "x"),
        ("b", "", "y"),
    ]
    assert read_judgements(path, read_queries(path), "test") == {"q": {"b": 2, "a": 0}}


@pytest.mark.parametrize(
    ("part", "text", "where", "said"),
    [
        ("corpus", CORPUS + "{", "corpus.jsonl:4", "not JSON"),
        ("corpus", CORPUS + "[]", "corpus.jsonl:4", "not a JSON object"),
        ("corpus", CORPUS + '{"_id": "a", "text": ""}', "corpus.jsonl:4", "second time"),
        ("corpus", '{"_id": 3, "text": ""}', "corpus.jsonl:1", "'_id' is 3"),
        ("corpus", '{"_id": "a"}', "corpus.jsonl:1", "'text' is missing"),
        ("corpus", '{"_id": "a", "text": "", "title": null}', "corpus.jsonl:1", "'title' is null"),
        ("corpus", "", "corpus.jsonl", "empty"),
        ("queries", '{"_id": "q", "text": " "}', "queries.jsonl:1", "empty"),
        ("queries", QUERIES * 2, "queries.jsonl:2", "second time"),
        ("qrels", "q\ta\n", "test.tsv:1", "2 columns"),
        ("qrels", QRELS + "q\tb\tyes\n", "test.tsv:3", "no whole number"),
        ("qrels", QRELS + "r\tb\t1\n", "test.tsv:3", "no query 'r'"),
        ("qrels", QRELS + "q\ta\t1\n", "test.tsv:3", "a second time"),
        ("qrels", "q\ta\t0\n", "test.tsv", "Nothing is judged relevant"),
    ],
)
def test_a_wrong_folder_is_refused_with_file_and_line(tmp_path, part, text, where, said):
    """Whoever wrote the file finds the place."""
    path = folder(tmp_path, **{part: text})
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert where in str(caught.value)
    assert said in str(caught.value)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    """A file in another encoding is not guessed at."""
    path = folder(tmp_path)
    (path / "corpus.jsonl").write_bytes(
        CORPUS.encode() + json.dumps({"_id": "c"}).encode() + b"\xff"
    )
    with pytest.raises(ConfigError, match=r"not UTF-8") as caught:
        read_corpus(path)
    assert "corpus.jsonl:4" in str(caught.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(tmp_path, name):
    """A folder that is no data set says which file it lacks."""
    path = folder(tmp_path)
    (path / name).unlink()
    with pytest.raises(ConfigError, match="no BEIR data set") as caught:
        read(path)
    assert name in str(caught.value)
