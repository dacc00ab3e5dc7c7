"""The dlt adapter, with the real library: resources are iterated, and the cursor is ours."""

import json
import os
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import pytest

from headwater import config
from headwater.config import PluginConfig
from headwater.errors import ConfigError, SourceDataError
from headwater.flows.backfill import Backfill, run_backfill
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.conformance import conformance_tests, pull_all, pull_rows
from headwater.flows.sources.dlt_resource import DltSource
from headwater.flows.sources.protocol import PullRequest, Window
from headwater.flows.windows import plan_windows
from headwater.storage.store import Store

dlt = pytest.importorskip("dlt")

ROWS = [
    {"id": n, "subject": f"Ticket {n}", "said": f"Words of {n}", "at": f"2026-01-0{n}T00:00:00Z"}
    for n in range(1, 7)
]


def tickets(rows=ROWS):
    @dlt.resource(name="tickets")
    def pages():
        yield rows[:2]
        yield rows[2:]

    return pages()


def source(factory=tickets, **options):
    given = {"key": "id", "title": "subject", "metadata": ["at"], **options}
    return DltSource.of(factory, **given)


TestDlt = conformance_tests(source, {str(n) for n in range(1, 7)})
TestDltWithACursor = conformance_tests(
    lambda: source(cursor="at", cursor_lag="1d"), {str(n) for n in range(1, 7)}
)


def keys(found, request=None):
    return [row["key"] for row in pull_rows(found, request)]


def test_records_become_documents():
    """Fields in the order of their names, nulls left out, title, metadata and time as configured."""
    (first, *_) = pull_rows(source(updated_at="at"))
    assert first["text"] == "Said: Words of 1\nSubject: Ticket 1"
    assert first["title"] == "Ticket 1" and json.loads(first["metadata"])["at"].startswith("2026")
    assert first["source_ts"] == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["text", "time", "number"])
def test_the_cursor_lives_in_the_watermark_and_nowhere_else(kind, tmp_path, monkeypatch):
    """A second pull lists what is new, from any object; the first one again lists everything."""
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    write = {
        "text": lambda text: text,
        "time": lambda text: datetime.fromisoformat(text),
        "number": lambda text: int(datetime.fromisoformat(text).timestamp()),
    }[kind]
    rows = [{**row, "at": write(row["at"])} for row in ROWS]
    _, end = pull_all(source(lambda: tickets(rows[:4]), cursor="at"))
    assert end.complete
    later = source(lambda: tickets(rows), cursor="at")
    batches, second = pull_all(later, PullRequest(watermark=end.watermark))
    listed = [key for batch in batches for key in batch.column("key").to_pylist()]
    assert listed == ["4", "5", "6"] and not second.complete
    assert keys(later, PullRequest(watermark=second.watermark)) == ["6"]
    assert keys(later) == [str(n) for n in range(1, 7)]
    other = source(lambda: tickets(rows), cursor="at", title=None)
    assert len(keys(other, PullRequest(watermark=second.watermark))) == 6, "read in another way"
    assert not (tmp_path / "dlt").exists(), "dlt keeps no state"
    assert os.environ["RUNTIME__DLTHUB_TELEMETRY"] == "false"


def test_a_lag_reads_again_what_may_have_come_late():
    """The lag is subtracted from the watermark, for dlt does not without a state of its own."""
    _, end = pull_all(source(cursor="at", cursor_lag="2d"))
    again = source(cursor="at", cursor_lag="2d")
    assert keys(again, PullRequest(watermark=end.watermark)) == ["4", "5", "6"]
    with pytest.raises(ConfigError, match="timestamp cursor"):
        numbered = [{**row, "at": "no time"} for row in ROWS]
        _, end = pull_all(source(lambda: tickets(numbered), cursor="at", cursor_lag="2d"))
        odd = source(lambda: tickets(numbered), cursor="at", cursor_lag="2d")
        pull_all(odd, PullRequest(watermark=end.watermark))


def test_windows_are_half_open():
    """A backfill's window takes its first moment and leaves out its last."""
    day = timedelta(days=1)
    start = datetime(2026, 1, 2, tzinfo=UTC)
    window = Window(start, start + 2 * day)
    assert keys(source(cursor="at"), PullRequest(window=window)) == ["2", "3"]
    timed = [{**row, "at": datetime.fromisoformat(row["at"])} for row in ROWS]
    found = source(lambda: tickets(timed), cursor="at", cursor_type="time")
    assert keys(found, PullRequest(window=window)) == ["2", "3"]
    with pytest.raises(ConfigError, match="set 'cursor'"):
        keys(source(), PullRequest(window=window))


def test_tables_sources_and_sql_work_too(tmp_path):
    """Arrow pages, a dlt source with several resources, and dlt's own reader of databases."""
    import pyarrow as pa
    from dlt.sources.sql_database import sql_table

    assert keys(source(lambda: dlt.resource([pa.Table.from_pylist(ROWS)], name="t"))) == [
        str(n) for n in range(1, 7)
    ]

    @dlt.source
    def both():
        return tickets(), dlt.resource([{"id": 9}], name="others")

    assert keys(source(both, select="others", title=None, metadata=[])) == ["9"]
    with pytest.raises(ConfigError, match="it has tickets, others"):
        keys(source(both))
    path = tmp_path / "t.db"
    with sqlite3.connect(path) as db:
        db.execute("create table t (id integer, at text)")
        db.executemany("insert into t values (?, ?)", [(r["id"], r["at"]) for r in ROWS])
    db.close()
    table = source(
        lambda: sql_table(f"sqlite:///{path}", "t", incremental=None), cursor="at", title=None
    )
    _, end = pull_all(table)
    assert keys(table, PullRequest(watermark=end.watermark)) == ["6"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resource": "no.such:thing", "key": "id"}, "cannot be imported"),
        ({"resource": "json:nothing", "key": "id"}, "cannot be imported"),
        ({"resource": "json"}, "options.key"),
        ({"resource": "a:b", "key": "id", "colour": 1}, "options.colour"),
    ],
)
def test_wrong_options_are_told(options, message, tmp_path):
    """By name, and without a traceback."""
    with pytest.raises(ConfigError, match=message):
        keys(DltSource("t", PluginConfig(kind="dlt", options=options), root=tmp_path))


def test_what_is_no_record_is_told():
    """A missing key and a page of something else name what came."""
    with pytest.raises(SourceDataError, match="lacks its key"):
        keys(source(key="number"))
    with pytest.raises(SourceDataError, match="no record"):
        keys(source(lambda: dlt.resource(["a", "b"], name="t")))


def test_a_knowledge_base_over_a_resource(tmp_path, monkeypatch):
    """By its name in headwater.yaml: refreshed, refreshed for nothing, added to, backfilled."""
    module = type(sys)("tickets_of_a_package")
    rows = list(ROWS[:5])
    module.open_tickets = lambda team: tickets([{**row, "team": team} for row in rows])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "headwater.yaml").write_text(
        "name: k\nsources:\n  tickets:\n    kind: dlt\n    options:\n"
        "      resource: tickets_of_a_package:open_tickets\n      arguments: {team: blue}\n"
        "      key: id\n      title: subject\n      updated_at: at\n      cursor: at\n"
    )
    kb = config.load(tmp_path)

    def run():
        return refresh(kb, RefreshOptions(), encoding=twin_encoding)

    assert run().sources[0].added == 5
    assert not run().published
    rows.append(ROWS[5])
    report = run()
    assert (report.sources[0].added, report.sources[0].outcome) == (1, "partial")
    state = Store.open(kb.store).current().sources["tickets"]
    assert "2026-01-06" in state.watermark
    rows[0] = {**rows[0], "said": "Other words"}
    start = datetime(2026, 1, 1, tzinfo=UTC)
    spans = plan_windows(start, start + timedelta(days=2), timedelta(days=1))
    steps = list(run_backfill(kb, Backfill("tickets", spans), encoding=twin_encoding))
    assert [step.report.sources[0].changed for step in steps] == [1, 0]
    assert Store.open(kb.store).current().sources["tickets"].watermark == state.watermark
