"""What people do to a knowledge base: roll back, hold, backfill, override, ask about the past."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import ConfigError, NotFoundError, PublicationStoppedError, SourceError
from headwater.flows.backfill import backfill, plan_windows
from headwater.flows.encoding import twin_encoding
from headwater.flows.freshness import freshness
from headwater.flows.override import publish_candidate
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.storage.history import diff
from headwater.storage.runlog import RunLog
from headwater.storage.store import new_run_id

SHORT_ENOUGH = {
    "type": "expect_column_values_to_not_match_regex",
    "kwargs": {"column": "text", "regex": "(?i)draft"},
    "severity": "critical",
}


def at(day: int, hour: int = 12) -> datetime:
    """A time in January 2026."""
    return datetime(2026, 1, day, hour, tzinfo=UTC)


def notes(base: Any, **texts: str) -> None:
    """Write documents; the empty text deletes one."""
    for name, text in texts.items():
        if text:
            base.write(f"{name}.md", text)
        else:
            (base.root / "docs" / f"{name}.md").unlink()


# --- the past --------------------------------------------------------------------------------------


def test_as_of_answers_from_what_was_known_then(base: Any) -> None:
    """A time, a number or a name asks the snapshot that was current then, exactly."""
    notes(base, shop="The shop closes at six.")
    first = base.refresh(observed_at=at(1)).snapshot
    notes(base, shop="The shop closes at eight.", hall="The hall is shut.")
    second = base.refresh(observed_at=at(5)).snapshot
    old, new = ["The shop closes at six."], {"The shop closes at eight.", "The hall is shut."}
    for ref in (first, "1", at(1), at(4, 23), "2026-01-01T12:00:00Z", "2026-01-04", first[:12]):
        assert base.found("when does the shop close", as_of=ref) == old, ref
    for ref in (second, "2", at(5), at(20), "2026-01-05", None, "current"):
        assert set(base.found("when does the shop close", as_of=ref)) == new, ref
    for ref in (at(1, 11), "2025-12-31", "7", "00000001-0000000000000000"):
        with pytest.raises(NotFoundError):
            base.found("shop", as_of=ref)


def test_knowledge_time_never_runs_backwards(base: Any) -> None:
    """An observation before the current snapshot's is refused, and nothing is pulled or written."""
    notes(base, shop="The shop closes at six.")
    base.refresh(observed_at=at(5))
    notes(base, shop="The shop closes at eight.")
    before = base.published()
    with pytest.raises(ConfigError, match="never runs backwards"):
        base.refresh(observed_at=at(4))
    base.run("refresh", "--observed-at", "2026-01-04T00:00:00Z", check=2)
    assert base.published() == before
    assert base.refresh(observed_at=at(5)).published


def test_a_rollback_restores_holds_and_releases(base: Any) -> None:
    """A rollback is a new snapshot of the old state; a held source is left alone until released."""
    notes(base, shop="The shop closes at six.")
    first = base.refresh().snapshot
    good = base.live(first)
    notes(base, shop="Rubbish from a bad import.")
    base.refresh()
    written = base.listing("objects")
    shell = base.run("rollback", "1", "--hold", "docs", "--json", check=0)
    assert json.loads(shell.stdout)["restores"] == first
    assert base.listing("objects") == written
    assert base.live() == good
    assert base.found("shop") == ["The shop closes at six."]
    held = base.refresh()
    assert (held.exit_code, held.published) == (0, False)
    assert [s.outcome for s in held.sources] == ["held"]
    assert base.live() == good
    assert freshness(base.kb, base.store)[0].hold
    notes(base, shop="The shop closes at eight.")
    assert not base.refresh().published
    released = base.refresh(release=("docs",))
    assert (released.published, released.embedded) == (True, 1)
    assert base.found("shop") == ["The shop closes at eight."]
    assert not freshness(base.kb, base.store)[0].hold
    assert [m.cause for m in base.store.chain()] == ["refresh", "rollback", "refresh", "refresh"]
    assert base.found("shop", as_of="2") == ["Rubbish from a bad import."]
    assert base.verify().ok


def test_a_hold_is_lifted_although_nothing_changed(base: Any) -> None:
    """Releasing a source whose documents are as they were publishes that it is released."""
    notes(base, shop="The shop closes at six.")
    base.refresh()
    base.store.rollback("1", run_id=new_run_id(), hold=("docs",))
    report = base.refresh(release=("docs",))
    assert (report.exit_code, report.embedded) == (0, 0)
    assert base.store.current().sources["docs"].hold == ""
    assert [s.outcome for s in base.refresh().sources] == ["verified"]


def test_a_rename_is_recognised(base: Any) -> None:
    """A moved file keeps its content's age, embeds nothing, and diff says where it came from."""
    notes(base, refunds="# Refunds\n\nWithin 30 days.", hours="# Hours\n\nNine to six.")
    base.refresh(observed_at=at(1))
    (base.root / "docs" / "refunds.md").rename(base.root / "docs" / "returns.md")
    report = base.refresh(observed_at=at(9))
    (source,) = report.sources
    assert (source.renamed, source.added, source.removed, source.changed) == (1, 0, 0, 0)
    assert report.embedded == 0
    (change,) = diff(base.store, "1", "2").documents
    assert (change.op, change.key, change.renamed_from) == ("renamed", "returns.md", "refunds.md")
    with Retriever.open(base.root) as retriever:
        hit = next(h for h in retriever.search("refunds 30 days") if h.key == "returns.md")
    assert hit.changed_at == at(1)
    assert hit.verified_at == at(9)


# --- parts of a source -----------------------------------------------------------------------------


def test_a_refresh_of_one_key_touches_nothing_else(base: Any) -> None:
    """`--key` pulls one document: others that changed or vanished stay as they were."""
    notes(base, one="The pump.", two="The valve.", three="The gauge.")
    base.refresh()
    notes(base, one="The new pump.", two="The new valve.", three="")
    report = base.refresh(sources=("docs",), keys=("one.md",))
    assert (report.exit_code, report.embedded) == (0, 1)
    assert report.sources[0].outcome == "partial"
    assert base.live()["docs"] == {
        "one.md": "The new pump.",
        "two.md": "The valve.",
        "three.md": "The gauge.",
    }
    assert base.refresh(sources=("docs",), keys=("three.md",)).sources[0].removed == 1
    assert sorted(base.live()["docs"]) == ["one.md", "two.md"]
    assert base.refresh().sources[0].changed == 1
    assert base.live()["docs"]["two.md"] == "The new valve."


class Table:
    """A knowledge base over a SQLite table."""

    def __init__(self, make_base: Callable[..., Any], **options: Any) -> None:
        config = {"kind": "database", "dsn": "sqlite:///app.db", "table": "articles", "key": "id"}
        self.base = make_base({"db": {**config, "text": "body", **options}})
        self.do("CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT, at TEXT)")

    def do(self, statement: str, *parameters: Any) -> None:
        connection = sqlite3.connect(self.base.root / "app.db")
        with connection:
            connection.execute(statement, parameters)
        connection.close()

    def put(self, number: int, body: str, when: datetime) -> None:
        text = when.strftime("%Y-%m-%d %H:%M:%S")
        self.do("INSERT OR REPLACE INTO articles VALUES (?, ?, ?)", number, body, text)

    def live(self) -> dict[str, str]:
        return self.base.live().get("db", {})


def test_a_cursor_pull_deletes_nothing(make_base: Callable[..., Any]) -> None:
    """A pull of what is new says nothing about what is gone."""
    table = Table(make_base, cursor="at")
    for number in range(1, 5):
        table.put(number, f"row {number}", at(number))
    assert table.base.refresh().sources[0].outcome == "verified"
    table.do("DELETE FROM articles WHERE id = 1")
    table.put(5, "row 5", at(5))
    table.put(2, "row two", at(6))
    report = table.base.refresh()
    (source,) = report.sources
    assert (source.outcome, source.removed, source.withheld) == ("partial", 0, 0)
    assert table.live() == {
        "1": "row 1",
        "2": "row two",
        "3": "row 3",
        "4": "row 4",
        "5": "row 5",
    }


def test_a_watermark_moves_only_with_a_publication(make_base: Callable[..., Any]) -> None:
    """A candidate that failed a gate does not let the cursor pass what it held."""
    table = Table(make_base, cursor="at")
    table.put(1, "row 1", at(1))
    table.base.refresh()
    table.base.suite("db", json.dumps({"table": [at_most(1)]}))
    table.put(2, "row 2", at(2))
    assert table.base.refresh().exit_code == 4
    table.base.suite("db", json.dumps({"table": [at_most(5)]}))
    assert table.base.refresh().exit_code == 0
    assert table.live() == {"1": "row 1", "2": "row 2"}


def test_a_backfill_goes_window_by_window(make_base: Callable[..., Any]) -> None:
    """Each window publishes what it found; a second run finds all of it and writes nothing."""
    table = Table(make_base, updated_at="at")
    for day in range(1, 7):
        table.put(day, f"row {day}", at(day))
    windows = plan_windows(at(1, 0), at(6, 0), timedelta(days=2))
    assert [w.end for w in windows] == [at(3, 0), at(5, 0), at(6, 0)]
    done = list(backfill(table.base.kb, "db", windows, encoding=twin_encoding))
    assert [report.embedded for _, report in done] == [2, 2, 1]
    assert all(report.published and report.exit_code == 0 for _, report in done)
    assert {m.cause for m in table.base.store.chain()} == {"backfill"}
    assert sorted(table.live()) == ["1", "2", "3", "4", "5"]
    before = table.base.published()
    again = list(backfill(table.base.kb, "db", windows, encoding=twin_encoding))
    assert not any(report.published for _, report in again)
    assert table.base.published() == before
    table.do("DELETE FROM articles WHERE id = 1")
    list(backfill(table.base.kb, "db", windows, encoding=twin_encoding))
    assert "1" in table.live()
    shell = table.base.run("backfill", "db", "--from", "2026-01-06", "--to", "2026-01-08", check=0)
    assert "published" in shell.stdout
    assert sorted(table.live()) == ["1", "2", "3", "4", "5", "6"]
    report = table.base.refresh()
    assert (report.embedded, report.sources[0].removed) == (0, 1)


# --- gates -----------------------------------------------------------------------------------------


def at_most(rows: int, severity: str = "critical") -> dict[str, Any]:
    """A table expectation."""
    kwargs = {"min_value": 0, "max_value": rows}
    kind = "expect_table_row_count_to_be_between"
    return {"type": kind, "kwargs": kwargs, "severity": severity}


def test_a_failed_gate_publishes_nothing_until_a_person_overrides(base: Any) -> None:
    """A critical table expectation keeps a candidate that can be searched and, overridden, published."""
    base.suite("docs", json.dumps({"table": [at_most(2)]}))
    notes(base, one="The pump.", two="The valve.")
    assert base.refresh().exit_code == 0
    current = (base.root / "store" / "CURRENT").read_bytes()
    notes(base, three="The gauge.")
    report = base.refresh()
    assert (report.exit_code, report.published) == (4, False)
    assert report.candidate
    (gate,) = [g for g in report.gates if not g.passed]
    assert (gate.severity, gate.source) == ("critical", "docs")
    assert "row_count" in gate.detail and "3" in gate.detail
    assert (base.root / "store" / "CURRENT").read_bytes() == current
    assert "The gauge." not in base.found("gauge")
    assert "The gauge." in base.found("gauge", as_of=report.candidate)
    assert report.candidate in base.store.candidates()
    runs = RunLog(base.store.root).last(["docs"])
    assert runs["docs"].outcome == "stopped"
    with pytest.raises(PublicationStoppedError):
        publish_candidate(base.store, report.candidate, override=False)
    base.run("publish", report.candidate, check=4)
    shell = base.run("publish", report.candidate, "--override", check=0)
    assert report.candidate in shell.stdout
    assert base.store.current_name() == report.candidate
    assert "The gauge." in base.found("gauge")
    run = RunLog(base.store.root).last(["docs"])["docs"]
    assert run.outcome == "overridden" and gate.name in run.note
    assert base.verify().ok


def test_a_warning_is_told_and_published(base: Any) -> None:
    """An expectation of severity warning stops nothing and is in the report."""
    base.suite("docs", json.dumps({"table": [at_most(1, "warning")]}))
    notes(base, one="The pump.", two="The valve.")
    report = base.refresh()
    assert (report.exit_code, report.published) == (0, True)
    assert len(base.found("pump")) == 2


def test_a_refused_record_keeps_its_last_good_version(base: Any) -> None:
    """The quarantine holds a record back until it heals; what is served says so."""
    base.suite("docs", json.dumps({"rows": [SHORT_ENOUGH]}))
    notes(base, one="The pump is in hall three.", two="The valve.")
    assert base.refresh().exit_code == 0
    notes(base, one="DRAFT: the pump is nowhere.", three="Draft of a new note.")
    report = base.refresh()
    (source,) = report.sources
    assert (report.exit_code, source.refused, report.embedded) == (0, 2, 0)
    assert base.live()["docs"] == {"one.md": "The pump is in hall three.", "two.md": "The valve."}
    with Retriever.open(base.root) as retriever:
        held = {hit.key: hit.held_back for hit in retriever.search("pump valve")}
    assert held == {"one.md": True, "two.md": False}
    rows = json.loads(base.run("quarantine", "list", "--json", check=0).stdout)
    assert {row["key"] for row in rows} == {"one.md", "three.md"}
    shell = base.run("quarantine", "show", "docs", "one.md", check=0)
    assert "nowhere" in shell.stdout
    base.run("quarantine", "show", "docs", "two.md", check=9)
    before = base.published()
    again = base.refresh()
    assert (again.published, again.bytes_written, again.sources[0].refused) == (False, 0, 2)
    assert base.published() == before
    notes(base, one="The pump is in hall four.", three="")
    healed = base.refresh()
    assert (healed.exit_code, healed.embedded, healed.sources[0].refused) == (0, 1, 0)
    with Retriever.open(base.root) as retriever:
        held = {hit.text: hit.held_back for hit in retriever.search("pump valve")}
    assert held == {"The pump is in hall four.": False, "The valve.": False}
    assert base.run("quarantine", "list", check=0).stdout.strip() == "the quarantine is empty"


def test_a_record_that_goes_back_to_its_good_version_is_no_longer_held(base: Any) -> None:
    """Taking a bad edit back clears the quarantine without a new version or an embedding."""
    base.suite("docs", json.dumps({"rows": [SHORT_ENOUGH]}))
    notes(base, one="The pump is in hall three.")
    base.refresh()
    notes(base, one="DRAFT")
    base.refresh()
    notes(base, one="The pump is in hall three.")
    report = base.refresh()
    assert (report.exit_code, report.embedded) == (0, 0)
    with Retriever.open(base.root) as retriever:
        assert [hit.held_back for hit in retriever.search("pump")] == [False]


def test_a_held_record_that_is_deleted_is_gone(base: Any) -> None:
    """Deleting a document ends both its last good version and what waits in quarantine."""
    base.suite("docs", json.dumps({"rows": [SHORT_ENOUGH]}))
    notes(base, one="The pump is in hall three.", two="The valve.")
    base.refresh()
    notes(base, one="DRAFT")
    assert base.refresh().sources[0].refused == 1
    notes(base, one="")
    report = base.refresh()
    (source,) = report.sources
    assert (report.exit_code, source.removed, source.refused) == (0, 1, 0)
    assert base.found("pump") == ["The valve."]
    assert base.store.current().quarantine is None


def test_a_looser_suite_lets_held_records_in(base: Any) -> None:
    """When the expectations change, what was held back is judged again."""
    base.suite("docs", json.dumps({"rows": [SHORT_ENOUGH]}))
    notes(base, one="The pump is in hall three.")
    base.refresh()
    notes(base, one="DRAFT of a pump.")
    base.refresh()
    base.suite("docs", json.dumps({"rows": []}))
    report = base.refresh()
    assert (report.exit_code, report.embedded, report.sources[0].refused) == (0, 1, 0)
    assert base.live()["docs"] == {"one.md": "DRAFT of a pump."}


# --- several sources -------------------------------------------------------------------------------


@pytest.fixture
def pair(make_base: Callable[..., Any]) -> Any:
    """Two folders of documents, both published."""
    config = {name: {"kind": "documents", "root": name} for name in ("docs", "wiki")}
    made = make_base(config)
    (made.root / "wiki").mkdir()
    (made.root / "wiki" / "a.md").write_text("The wiki on pumps.")
    notes(made, one="The pump.")
    assert made.refresh().exit_code == 0
    return made


def test_a_source_that_left_the_configuration_waits_for_a_person(pair: Any) -> None:
    """Documents of a removed source are served until approve-deletes says that they may go."""
    pair.configure({"docs": {"kind": "documents", "root": "docs"}})
    before = pair.published()
    report = pair.refresh()
    removed = next(s for s in report.sources if s.source == "wiki")
    assert (report.exit_code, removed.outcome, removed.withheld) == (4, "removed", 1)
    assert pair.published() == before
    assert "The wiki on pumps." in pair.found("wiki")
    pair.run("approve-deletes", "wiki", check=0)
    assert pair.live() == {"docs": {"one.md": "The pump."}}
    assert "wiki" not in pair.store.current().sources
    assert pair.found("wiki") == ["The pump."]
    assert pair.refresh().exit_code == 0
    assert "The wiki on pumps." in pair.found("wiki", as_of="1")


def test_one_of_two_sources_fails(pair: Any) -> None:
    """The other is published, the failed one keeps its last state: exit code 3."""
    (pair.root / "wiki").rename(pair.root / "gone")
    notes(pair, one="The new pump.")
    report = pair.refresh()
    assert (report.exit_code, report.published, report.embedded) == (3, True, 1)
    assert {s.source: s.outcome for s in report.sources} == {"docs": "verified", "wiki": "failed"}
    assert pair.live() == {
        "docs": {"one.md": "The new pump."},
        "wiki": {"a.md": "The wiki on pumps."},
    }
    fresh = {f.source: f for f in freshness(pair.kb, pair.store)}
    assert fresh["docs"].last_verified is not None and fresh["wiki"].last_verified is not None
    assert fresh["docs"].last_verified > fresh["wiki"].last_verified
    (pair.root / "gone").rename(pair.root / "wiki")
    healed = pair.refresh()
    assert (healed.exit_code, healed.published) == (0, False)


def test_on_source_error_stop_publishes_nothing(pair: Any) -> None:
    """With `on_source_error: stop`, one failed source stops the run before anything is written."""
    config = {name: {"kind": "documents", "root": name} for name in ("docs", "wiki")}
    pair.configure(config, on_source_error="stop")
    (pair.root / "wiki").rename(pair.root / "gone")
    notes(pair, one="The new pump.")
    before = pair.published()
    with pytest.raises(SourceError):
        pair.refresh()
    shell = pair.run("refresh", check=8)
    assert "->" in shell.stderr
    assert pair.published() == before
    (pair.root / "gone").rename(pair.root / "wiki")
    assert pair.refresh().published


def test_a_source_that_fails_half_way_counts_for_nothing(make_base: Callable[..., Any]) -> None:
    """What was yielded before an error is neither published nor taken as the whole."""
    base = make_base({"memory": {"kind": "memory"}})
    records = [Record(key=f"k{n}", text=f"The pump number {n}.") for n in range(6)]
    source = MemorySource.of(records, name="memory", batch_rows=2)
    assert base.refresh(sources_open={"memory": source}).exit_code == 0
    source.records = [Record(key=f"k{n}", text=f"The valve number {n}.") for n in range(6)]
    source.error = SourceError("The connection broke", obj="memory", todo="run again")
    source.fail_after = 4
    before = base.published()
    report = base.refresh(sources_open={"memory": source})
    assert report.exit_code == 8
    assert base.published() == before
    source.error = None
    assert base.refresh(sources_open={"memory": source}).sources[0].changed == 6


# --- readers ---------------------------------------------------------------------------------------


def test_a_plan_writes_nothing(base: Any) -> None:
    """A dry run says what a refresh would do and leaves every published byte alone."""
    notes(base, one="The pump.", two="The valve.")
    base.refresh()
    notes(base, one="The new pump.", two="", three="The gauge.")
    before = base.listing("objects", "snapshots", "CURRENT", "runs", "tmp")
    report = base.refresh(dry_run=True)
    assert (report.dry_run, report.published, report.embedded) == (True, False, 2)
    (source,) = report.sources
    assert (source.added, source.changed, source.removed) == (1, 1, 1)
    assert base.listing("objects", "snapshots", "CURRENT", "runs", "tmp") == before
    assert base.refresh().embedded == 2


def test_a_retriever_writes_nothing(base: Any) -> None:
    """Searching now and in the past, and asking for status, leaves the store byte for byte."""
    notes(base, one="The pump.")
    base.refresh()
    notes(base, one="The new pump.")
    base.refresh()
    store = base.root / "store"
    before, folders = base.listing(), sorted(store.rglob("*"))
    modes = [(path, path.stat().st_mode) for path in (store, *folders)]
    for path, _ in reversed(modes):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with Retriever.open(base.root) as retriever:
            assert [h.text for h in retriever.search("pump")] == ["The new pump."]
            assert [h.text for h in retriever.search("pump", as_of="1")] == ["The pump."]
        with Retriever.open(base.root, as_of="1") as retriever:
            assert [h.text for h in retriever.search("pump")] == ["The pump."]
        for command in (["search", "pump"], ["status"], ["log"], ["diff", "1", "2", "--text"]):
            base.run(*command, check=0)
    finally:
        for path, mode in modes:
            path.chmod(mode)
    assert base.listing() == before
    assert sorted(store.rglob("*")) == folders


def test_an_open_retriever_follows_what_is_published(base: Any) -> None:
    """A reader sees whole snapshots: the old one until the rename, the new one after it."""
    notes(base, one="The pump.")
    base.refresh()
    with Retriever.open(base.root) as retriever, Retriever.open(base.root, as_of="1") as pinned:
        assert [h.text for h in retriever.search("pump")] == ["The pump."]
        notes(base, one="The new pump.")
        base.refresh()
        assert [h.text for h in retriever.search("pump")] == ["The new pump."]
        assert [h.text for h in pinned.search("pump")] == ["The pump."]
        base.store.rollback("1", run_id=new_run_id())
        assert [h.text for h in retriever.search("pump")] == ["The pump."]


def test_runs_of_two_sources_do_not_disturb_each_other(pair: Any, tmp_path: Path) -> None:
    """A refresh that finds CURRENT moved takes the new state as its parent and publishes."""

    class Meddler(MemorySource):
        """Refreshes the other source while this one is being pulled."""

        def pull(self, request: Any) -> Any:
            notes(pair, one="The pump of the other run.")
            assert pair.refresh(sources=("docs",)).published
            return (yield from super().pull(request))

    source = Meddler.of([Record(key="a.md", text="The wiki on valves.")], name="wiki")
    report = pair.refresh(sources=("wiki",), sources_open={"wiki": source})
    assert (report.exit_code, report.published) == (0, True)
    assert pair.live() == {
        "docs": {"one.md": "The pump of the other run."},
        "wiki": {"a.md": "The wiki on valves."},
    }
    assert [m.seq for m in pair.store.chain()] == [3, 2, 1]
    assert pair.verify().ok


# --- a configuration that changes ------------------------------------------------------------------


def test_a_source_with_another_name_embeds_nothing(base: Any) -> None:
    """The documents of a renamed source begin anew, their vectors do not."""
    notes(base, one="The pump.", two="The valve.")
    base.refresh()
    base.configure({"handbook": {"kind": "documents", "root": "docs"}})
    report = base.refresh()
    assert (report.exit_code, report.embedded) == (4, 0)
    assert sorted(base.live()) == ["docs", "handbook"]
    base.run("approve-deletes", "docs", check=0)
    assert sorted(base.live()) == ["handbook"]
    assert sorted(base.found("pump")) == ["The pump.", "The valve."]


def test_labels_reach_every_document_and_embed_nothing(base: Any) -> None:
    """A label in headwater.yaml is put on documents that did not change otherwise."""
    notes(base, one="The pump.", two="The valve.")
    base.refresh(observed_at=at(1))
    source = {"kind": "documents", "root": "docs", "labels": ["public"], "licence": "CC0-1.0"}
    base.configure({"docs": source})
    report = base.refresh(observed_at=at(2))
    assert (report.exit_code, report.published, report.embedded) == (0, True, 0)
    assert report.sources[0].touched == 2
    with Retriever.open(base.root) as retriever:
        hits = retriever.search("pump valve")
        past = retriever.search("pump valve", as_of="1")
    assert [(hit.labels, hit.changed_at) for hit in hits] == [(("public",), at(1))] * 2
    assert [hit.labels for hit in past] == [()] * 2
    assert not base.refresh(observed_at=at(3)).published


def test_new_labels_hold_once_every_document_has_them(base: Any) -> None:
    """A refresh of one key after a change of labels does not hide the others from the next one."""
    notes(base, one="The pump.", two="The valve.")
    base.refresh()
    base.configure({"docs": {"kind": "documents", "root": "docs", "labels": ["public"]}})
    assert base.refresh(sources=("docs",), keys=("one.md",)).sources[0].touched == 1
    assert base.refresh().sources[0].touched == 1
    with Retriever.open(base.root) as retriever:
        assert {hit.labels for hit in retriever.search("pump valve")} == {("public",)}


def test_another_chunk_size_cuts_everything_anew(base: Any) -> None:
    """A changed chunk size takes hold of every document; the past keeps its own chunks."""
    one = " ".join(f"word{number} of the pump." for number in range(120))
    notes(base, one=one, two="The valve.")
    base.refresh()
    before = base.found("pump")
    source = {"docs": {"kind": "documents", "root": "docs"}}
    base.configure(source, chunking={"max_tokens": 64, "min_tokens": 16})
    notes(base, two="The new valve.")
    planned = base.refresh(dry_run=True).embedded
    report = base.refresh()
    assert report.exit_code == 0
    after = base.found("pump")
    assert len(after) > len(before)
    assert words(*after) == words(one, "The new valve.")
    assert sorted(base.found("pump", as_of="1")) == sorted(before)
    assert base.verify().ok
    assert planned == report.embedded
    base.configure(source)
    notes(base, two="The valve.")
    assert base.refresh().embedded == 0
    assert sorted(base.found("pump")) == sorted(before)
    assert base.verify().ok


def words(*texts: str) -> list[str]:
    """Every word of some texts, in alphabetical order."""
    return sorted(word for text in texts for word in text.split())


def test_a_change_of_chunk_size_alone_takes_hold(base: Any) -> None:
    """Although no document changed, the next refresh cuts and publishes."""
    notes(base, one=" ".join(f"word{number} of the pump." for number in range(120)))
    base.refresh()
    before = len(base.found("pump"))
    source = {"docs": {"kind": "documents", "root": "docs"}}
    base.configure(source, chunking={"max_tokens": 64, "min_tokens": 16})
    assert base.refresh().published
    assert len(base.found("pump")) > before
