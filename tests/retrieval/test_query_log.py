"""The log of questions: private, whole lines, never in the way; and what is read out of it."""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.cli import main
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.erasure import ErasureRequest, erase
from headwater.flows.refresh import refresh
from headwater.retrieval import Retriever
from headwater.retrieval.query_log import (
    Asked,
    QueryLog,
    clear_log,
    forget_lines,
    prune_log,
    read_log,
)
from headwater.retrieval.query_report import settled, unanswered, volumes
from headwater.serving.knowledge import Knowledge
from headwater.validation.golden import parse_golden

QUESTION = "Where is the harbour of Alice Example?"


def record(log, query=QUESTION, **more):
    """Log a question without hits."""
    told = {"mode": "hybrid", "snapshot": "s", "k": 5, "restricted": False, "past": False}
    log.record(query, [], **{**told, "seconds": 0.001, **more})


@pytest.fixture
def kb(tmp_path):
    """Two notes, published, with a log that keeps words."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "alice.md").write_text("The harbour of Alice is in the north.")
    (tmp_path / "notes" / "ferry.md").write_text("The ferry leaves at nine.")
    (tmp_path / "headwater.yaml").write_text(
        "name: asked\nsources:\n  notes: {kind: documents, root: notes}\n"
        "query_log: {enabled: true, text: true}\n"
    )
    assert refresh(load(tmp_path), encoding=twin_encoding).published
    return tmp_path


def everything(root):
    """All bytes below the folder of the log."""
    return b"".join(p.read_bytes() for p in (root / "queries").rglob("*") if p.is_file())


# --- privacy ----------------------------------------------------------------------------------


def test_no_word_of_a_question_is_kept_unless_that_is_asked_for(tmp_path):
    """Only a keyed hash, by which equal questions are counted; files are their owner's alone."""
    log = QueryLog(tmp_path)
    record(log)
    record(log, f"  {QUESTION} ")
    record(log, "something else")
    assert not re.search(rb"harbour|alice", everything(tmp_path), re.IGNORECASE)
    first, second, third = read_log(tmp_path)
    assert first.query == second.query != third.query and first.text is None
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "queries").iterdir()} == {0o600}
    record(QueryLog(tmp_path, text=True))
    assert [line.text for line in read_log(tmp_path)][-1] == QUESTION


def test_the_hash_of_another_log_is_another(tmp_path):
    """Nobody can test a guess without the key."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        record(QueryLog(tmp_path / name))
    (one,), (other,) = read_log(tmp_path / "a"), read_log(tmp_path / "b")
    assert one.query != other.query
    assert clear_log(tmp_path / "a") == 1 and list((tmp_path / "a" / "queries").iterdir()) == []


def test_an_erasure_takes_out_the_questions_that_name_its_document(kb):
    """By its key, in what was asked or found; the others stay, and the certificate counts them."""
    with Retriever.open(kb, query_log=QueryLog(kb, text=True)) as retriever:
        retriever.search("what is in alice.md")
        retriever.search("when does the ferry leave", k=1)
    assert len(list(read_log(kb))) == 2
    report = erase(load(kb), ErasureRequest(names=(("notes", "alice.md"),), reason="asked to"))
    assert report.removed["questions"] == 1
    assert [line.text for line in read_log(kb)] == ["when does the ferry leave"]
    assert b"alice.md" not in everything(kb)


# --- never in the way -------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_fails_no_search(kb, caplog):
    """One warning, and the hits."""
    (kb / "queries").write_text("a file where the folder should be")
    with Retriever.open(kb, query_log=QueryLog(kb)) as retriever:
        assert [len(retriever.search("ferry")) for _ in range(3)] == [2, 2, 2]
    assert len([r for r in caplog.records if "query log" in r.message]) == 1


@pytest.mark.parametrize("key", ["", "no hex at all", "ab" * 31])
def test_a_damaged_key_hashes_nothing_and_fails_no_search(kb, caplog, key):
    """A question hashed with half a key could be guessed: nothing is logged until it is removed."""
    (kb / "queries").mkdir()
    (kb / "queries" / "key").write_text(key)
    with Retriever.open(kb, query_log=QueryLog(kb)) as retriever:
        assert len(retriever.search("ferry")) == 2
    assert list(read_log(kb)) == [] and "query log" in caplog.text
    clear_log(kb)
    record(QueryLog(kb))
    assert len(list(read_log(kb))) == 1


def _write_many(root, number):
    log = QueryLog(Path(root), text=True)
    threads = [
        threading.Thread(
            target=lambda n=n: [record(log, f"{number} {n} {i} é\n") for i in range(50)]
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lines_of_many_writers_are_whole(tmp_path):
    """Two processes of four threads each; all hash with one key."""
    (tmp_path / "kb").mkdir()
    started = [
        multiprocessing.get_context("spawn").Process(target=_write_many, args=(tmp_path / "kb", n))
        for n in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    lines = list(read_log(tmp_path / "kb"))
    assert len(lines) == len({line.text for line in lines}) == len({line.query for line in lines})
    assert len(lines) == 400


def test_a_torn_line_is_left_out(tmp_path):
    """What a crash left of a line, and what a newer headwater added to one."""
    log = QueryLog(tmp_path)
    record(log)
    (day,) = (tmp_path / "queries").glob("*.jsonl")
    whole = day.read_bytes()
    newer = json.loads(whole) | {"v": 9, "from_the_future": 1}
    day.write_bytes(
        whole[: len(whole) // 2] + b"\n" + whole + json.dumps(newer).encode() + b"\n[]\n"
    )
    assert len(list(read_log(tmp_path))) == 2


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=3000))
def test_any_question_is_one_line(tmp_path_factory, query):
    """Line breaks, NUL, half a surrogate pair."""
    root = tmp_path_factory.mktemp("log")
    record(QueryLog(root, text=True), query)
    (line,) = read_log(root)
    assert len(line.text) <= 1000


def test_what_is_too_old_goes(tmp_path):
    """Day by day."""
    record(QueryLog(tmp_path))
    today = datetime.now(UTC).date()
    (tmp_path / "queries" / "2020-01-01.jsonl").write_text("")
    assert prune_log(tmp_path, keep=timedelta(days=90), today=today) == ["2020-01-01"]
    assert len(list(read_log(tmp_path, since=today))) == 1
    assert list(read_log(tmp_path, until=date(2021, 1, 1))) == []


def test_a_service_that_runs_on_lets_old_days_go(tmp_path, monkeypatch):
    """With the first line of each day, and not only when it starts."""
    log = QueryLog(tmp_path, text=True, keep=timedelta(days=2))
    for day in range(1, 8):
        monkeypatch.setattr("headwater.retrieval.query_log.datetime", _on(day))
        record(log)
        record(log)
    days = sorted(path.stem for path in (tmp_path / "queries").glob("*.jsonl"))
    assert days == ["2026-03-05", "2026-03-06", "2026-03-07"]
    assert len(list(read_log(tmp_path))) == 6


def _on(day):
    """A clock that stands still."""

    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, day, 12, tzinfo=tz)

    return Still


def test_the_service_logs_when_it_is_told_to(kb):
    """Questions of callers, and not its own at the start; off, there is no folder."""
    knowledge = Knowledge(load(kb))
    knowledge.warm()
    knowledge.search("when does the ferry leave", 2, allow=None)
    knowledge.search("when does the ferry leave", 2, allow=frozenset({"x"}))
    knowledge.close()
    free, bound = read_log(kb)
    assert (free.found, free.sources, free.restricted) == (2, {"notes": 2}, False)
    assert bound.restricted and free.query == bound.query and free.ms > 0
    assert free.top[0] == "notes/ferry.md" and free.cosine is not None
    clear_log(kb)
    (kb / "queries").rmdir()
    text = (kb / "headwater.yaml").read_text().replace("enabled: true", "enabled: false")
    (kb / "headwater.yaml").write_text(text)
    knowledge = Knowledge(load(kb))
    knowledge.search("ferry", 2, allow=None)
    knowledge.close()
    assert not (kb / "queries").exists()


# --- what it tells ----------------------------------------------------------------------------


def asked(query, at="2026-11-01T10:00:00Z", cosine=0.7, top=("notes/a",), **more):
    """A line."""
    sources = more.pop("sources", {"notes": 2} if cosine is not None else {})
    found = more.pop("found", 2 if cosine is not None else 0)
    return Asked(
        at, query, "hybrid", "s", 5, found, cosine, sources, top, ms=2.0, text=query, **more
    )


def test_volumes_and_what_is_not_found():
    """Counted by day and source; restricted searches are nobody's evidence of a gap."""
    lines = [
        asked("a"), asked("a", at="2026-11-02T10:00:00Z"), asked("b", cosine=0.2),
        asked("b", cosine=0.1), asked("c", cosine=None, top=()),
        asked("d", cosine=None, top=(), restricted=True),
    ]  # fmt: skip
    found = volumes(lines)
    assert (found.queries, found.distinct, found.without_good_hit) == (6, 4, 4)
    assert found.days == {"2026-11-01": 5, "2026-11-02": 1}
    assert found.sources == {"notes": 4} and found.hits == {"notes": 8}
    assert [(q.query, q.times) for q in unanswered(lines)] == [("b", 2), ("c", 1)]
    assert unanswered([*lines, asked("b", cosine=0.9)])[0].query == "c"
    assert volumes([]).queries == 0


def test_only_what_was_answered_steadily_is_suggested():
    """Asked twice, well, and with the same document first each time."""
    lines = [
        asked("steady"), asked("steady"), asked("once"), asked("moves"),
        asked("moves", top=("notes/b",)), asked("bad"), asked("bad", cosine=0.1),
        asked("past", past=True), asked("past", past=True),
    ]  # fmt: skip
    assert [q.text for q in settled(lines)] == ["steady"]
    assert {q.text for q in settled(lines, times=1)} == {"steady", "once"}


def test_suggestions_are_golden_queries(kb, capsys):
    """What is printed is what golden.yaml takes; what it has already is not printed again."""
    with Retriever.open(kb, query_log=QueryLog(kb, text=True)) as retriever:
        for _ in range(2):
            retriever.search('when does the ferry leave: "nine"?')
        retriever.search("quantum chromodynamics")
    words = ["queries", "suggest-golden", "--kb", str(kb), "--min-cosine", "0.3"]
    assert main(words) == 0
    out = capsys.readouterr().out
    (entry,) = yaml.safe_load(out)
    assert entry["expect"] == ["notes/ferry.md"] and 'leave: "nine"' in entry["query"]
    (kb / "golden.yaml").write_text(out)
    assert refresh(load(kb), encoding=twin_encoding).exit_code == 0
    assert main(words) == 0
    assert yaml.safe_load(capsys.readouterr().out) is None
    assert main(["queries", "stats", "--kb", str(kb), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 3


def test_what_callers_wrote_moves_no_terminal_and_breaks_no_golden_file(kb, capsys):
    """Escapes, line breaks and a thousand characters: one short printable line each, valid YAML."""
    hostile = [
        "\x1b[2J\x1b]0;owned\x07 zq",
        "zq\n- {query: x, expect: y}",
        "\x00\x85\u2028 zq",
        "zq " * 300,
    ]
    log = QueryLog(kb, text=True)
    for query in hostile:
        record(log, query)
    with Retriever.open(kb, query_log=log) as retriever:
        for _ in range(2):
            retriever.search("when does \x1b[31m the ferry leave")
    for words in (["suggest-golden", "--min-cosine", "0.3"], ["stats"]):
        assert main(["queries", *words, "--kb", str(kb)]) == 0
        out = capsys.readouterr().out
        assert all(sign.isprintable() or sign == "\n" for sign in out)
        assert max(map(len, out.splitlines())) < 260
        if words[0] == "suggest-golden":
            assert len(out.splitlines()) < 12
            (golden,) = parse_golden(out.encode())
            assert golden.query == "when does \x1b[31m the ferry leave"


def test_without_words_there_is_nothing_to_suggest_and_it_says_so(kb, capsys):
    """With what to switch on."""
    record(QueryLog(kb))
    assert main(["queries", "suggest-golden", "--kb", str(kb)]) == 0
    assert "text: true" in capsys.readouterr().err
    assert main(["queries", "clear", "--yes", "--kb", str(kb)]) == 0
    assert main(["queries", "stats", "--kb", str(kb)]) == 0
    assert "nothing was logged" in capsys.readouterr().out


def test_lines_that_name_somebody_can_be_removed(tmp_path):
    """The others stay."""
    log = QueryLog(tmp_path, text=True)
    record(log)
    record(log, "something else")
    assert forget_lines(tmp_path, re.compile("alice", re.IGNORECASE)) == 1
    assert [line.text for line in read_log(tmp_path)] == ["something else"]
