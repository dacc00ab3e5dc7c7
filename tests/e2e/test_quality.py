"""The quality gates and the evaluation, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPUS = {
    "d1": ("Pumps", "A pump lifts water uphill."),
    "d2": ("Gates", "A gate holds water back."),
    "d3": ("", "The gauge reads the pressure of oil."),
    "d4": ("Gauges", "A gauge is read at nine."),
}
ASKED = {"q1": "pump lifts water uphill", "q2": "gate holds water back", "q3": "never judged"}
JUDGED = [("q1", "d1", 1), ("q2", "d2", 2), ("q2", "d4", 0)]


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """A judged data set in the layout of BEIR."""
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": k, "title": title, "text": text} for k, (title, text) in CORPUS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)) + "\n")
    queries = [{"_id": key, "text": text} for key, text in ASKED.items()]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in JUDGED)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return folder


def listing(folder: Path) -> dict[str, int]:
    """Every file below a folder and when it was changed."""
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


# --- golden queries -------------------------------------------------------------------------------


def test_a_failed_golden_query_stops_the_publication_until_a_person_overrides(base: Any) -> None:
    """Exit code 4, a candidate that can be searched and, overridden, published."""
    (base.root / "golden.yaml").write_text(
        "- query: when does the shop close\n  expect: hours.md\n  k: 1\n"
    )
    base.write("hours.md", "The shop does close at six.")
    base.write("refunds.md", "Refunds take thirty days.")
    base.run("refresh", check=0)
    served = base.store.current_name()
    base.write("hours.md", "This page has moved.")
    base.write("refunds.md", "Refunds: when the shop does close, we pay.")
    report = json.loads(base.run("refresh", "--json", check=4).stdout)
    candidate = report["candidate"]
    (gate,) = [g for g in report["gates"] if not g["passed"]]
    assert (gate["name"], gate["severity"]) == ("golden-queries", "critical")
    assert "line 1 (hours.md)" in gate["detail"]
    assert base.store.current_name() == served
    said = base.run("refresh", check=4).stdout
    assert "golden-queries" in said and "not published" in said
    assert "has moved" in base.run("search", "moved page", "--as-of", candidate, check=0).stdout
    base.run("publish", candidate, check=4)
    base.run("publish", candidate, "--override", check=0)
    assert base.store.current_name() == candidate


def test_a_wrong_golden_file_stops_a_refresh_and_a_plan(base: Any) -> None:
    """Exit code 2 with the line; nothing is written."""
    (base.root / "golden.yaml").write_text("- query: x\n  expect: [y]\n  source: dosc\n")
    base.write("a.md", "A text.")
    for command in ("plan", "refresh"):
        shell = base.run(command, check=2)
        assert "golden.yaml:1" in shell.stderr and "dosc" in shell.stderr
    assert not (base.root / "store").exists()


def test_an_unknown_gate_is_refused_with_a_suggestion(make_base: Callable[..., Any]) -> None:
    """A typing error in a threshold never means the default in silence."""
    base = make_base(gates={"golden_shar": 0.5})
    assert "did you mean 'golden_share'" in base.run("refresh", check=2).stderr


# --- eval -----------------------------------------------------------------------------------------


def test_eval_indexes_a_folder_and_scores_the_search(base: Any, data_set: Path) -> None:
    """A table for people, JSON for machines, and the folder is left as it was."""
    before = listing(data_set)
    found = json.loads(base.run("eval", str(data_set), "--json", check=0).stdout)
    assert set(found["scores"]) == {"hybrid", "dense", "lexical"} == set(found["search_seconds"])
    dense = found["scores"]["dense"]
    assert dense == {"ndcg": 1.0, "recall": 1.0, "mrr": 1.0, "queries": 2}
    assert (found["corpus"], found["documents"]) == (4, 4)
    assert found["missing"] == 0 and found["index_seconds"] > 0
    said = base.run("eval", str(data_set), check=0).stdout
    assert all(name in said for name in ("nDCG@10", "Recall@100", "MRR@10", "1.0000"))
    assert listing(data_set) == before
    assert not (base.root / "store").exists()


def test_eval_keeps_its_index_where_it_is_told_to(base: Any, data_set: Path) -> None:
    """The next evaluation goes on from it; a knowledge base is never taken for such a folder."""
    kept = base.root / "kept"
    first = json.loads(base.run("eval", str(data_set), "--keep", str(kept), "--json").stdout)
    again = json.loads(base.run("eval", str(data_set), "--keep", str(kept), "--json").stdout)
    assert first["snapshot"] == again["snapshot"]
    assert "already" in base.run("eval", str(data_set), "--keep", str(base.root), check=2).stderr


def test_eval_scores_a_knowledge_base_as_it_is(base: Any, data_set: Path) -> None:
    """Its keys are the ids of the corpus; what it lacks counts as not found; any snapshot will do."""
    base.configure({"docs": {"kind": "documents", "root": "docs", "glob": "*"}})
    base.write("d1", CORPUS["d1"][1])
    base.run("refresh", check=0)
    found = json.loads(base.run("eval", str(data_set), "--kb", ".", "--json").stdout)
    assert (found["missing"], found["index_seconds"]) == (1, 0.0)
    assert found["scores"]["dense"]["ndcg"] == 0.5
    base.write("d2", CORPUS["d2"][1])
    base.run("refresh", check=0)
    found = json.loads(base.run("eval", str(data_set), "--kb", ".", "-s", "docs", "--json").stdout)
    assert (found["scores"]["dense"]["ndcg"], found["missing"]) == (1.0, 0)
    past = base.run("eval", str(data_set), "--kb", ".", "--as-of", "1", "--json", check=0)
    assert json.loads(past.stdout)["scores"]["dense"]["ndcg"] == 0.5


def test_eval_refuses_a_knowledge_base_of_other_documents(base: Any, data_set: Path) -> None:
    """A score of zero would be taken for a bad search."""
    base.write("other.md", "A pump lifts water.")
    base.run("refresh", check=0)
    shell = base.run("eval", str(data_set), "--kb", ".", check=9)
    assert "ids of the corpus" in shell.stderr


def test_eval_refuses_what_it_cannot_use(base: Any, data_set: Path) -> None:
    """A wrong line, a missing file, options that exclude each other: a message, never a traceback."""
    corpus = data_set / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": 7}\n')
    assert "corpus.jsonl:5" in base.run("eval", str(data_set), check=2).stderr
    assert "qrels/dev.tsv" in base.run("eval", str(data_set), "--split", "dev", check=2).stderr
    base.run("eval", str(data_set), "--kb", ".", "--keep", "x", check=2)
    base.run("eval", str(data_set), "--as-of", "1", check=2)
    base.run("eval", str(base.root / "nowhere"), check=2)


def test_a_document_of_many_passages_is_one_document(base: Any, tmp_path: Path) -> None:
    """Its rank is that of its best passage, and what ranks behind its passages is still reached."""
    folder = tmp_path / "long"
    (folder / "qrels").mkdir(parents=True)
    sections = [f"## Part {n}\n\n" + f"pump water part{n} " * 60 for n in range(250)]
    corpus = [
        {"_id": "long", "text": "\n\n".join(sections)},
        {"_id": "short", "text": "The gauge is read at nine."},
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "pump water"}')
    (folder / "qrels" / "test.tsv").write_text("q\tshort\t1\n")
    found = json.loads(base.run("eval", str(folder), "--json", check=0).stdout)
    dense = found["scores"]["dense"]
    assert found["texts"] > 250 and dense["recall"] == 1.0 and dense["mrr"] == 0.5
