"""Databases as sources: SQLite, PostgreSQL (a real server) and SQLAlchemy."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from database_servers import ARTICLES, change, keys_of, source, sqlite_file

from headwater.errors import ConfigError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.engines import redact
from headwater.flows.sources.protocol import PullRequest, Source, Window


class TestSqlite(SourceConformance):
    keys = ("1", "2", "3")

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        sqlite_file(tmp_path)

    def make_source(self) -> Source:
        return source(self.folder, ignore="views", cursor="at")


class TestSqlalchemy(SourceConformance):
    keys = ("1/en", "2/en%2Fus", "3/fr")

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = sqlite_file(tmp_path)

    def make_source(self) -> Source:
        dsn = f"sqlite+pysqlite:///file:{self.path}?mode=ro&uri=true"
        query = "SELECT * FROM articles WHERE body <> ':x' -- all"
        return source(self.path.parent, dsn=dsn, query=query, key=["id", "lang"], cursor="at")


class TestPostgres(SourceConformance):
    keys = ("1/en", "2/en%2Fus", "3/fr")

    @pytest.fixture(autouse=True)
    def _server(self, postgres: Any) -> None:
        self.uri = postgres.get_uri()

    def make_source(self) -> Source:
        return source(Path(), dsn=self.uri, key=["id", "lang"], cursor="id")


def test_a_missing_file_is_unreachable_and_not_created(tmp_path: Path) -> None:
    """A wrong path never leaves an empty database behind."""
    with pytest.raises(SourceUnreachableError, match=r"app\.db"):
        pull_all(source(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_a_data_error(tmp_path: Path) -> None:
    """Garbage is refused with the driver's own reason."""
    (tmp_path / "app.db").write_bytes(b"garbage " * 200)
    with pytest.raises(SourceDataError, match="not a database"):
        pull_all(source(tmp_path))


def test_a_missing_column_lists_those_that_exist(tmp_path: Path) -> None:
    """A column that only the configuration knows is named, with the real ones."""
    sqlite_file(tmp_path)
    with pytest.raises(SourceDataError, match=r"titel[\s\S]*id, lang, body, views, at"):
        pull_all(source(tmp_path, title="titel"))


def test_a_missing_table_is_a_data_error(tmp_path: Path) -> None:
    """The database's own words come through."""
    sqlite_file(tmp_path)
    with pytest.raises(SourceDataError, match="no such table: nope"):
        pull_all(source(tmp_path, table="nope"))


def test_a_query_cannot_write(tmp_path: Path) -> None:
    """A statement that is no SELECT is refused and changes nothing."""
    sqlite_file(tmp_path)
    with pytest.raises(SourceDataError):
        pull_all(source(tmp_path, table=None, query="DELETE FROM articles RETURNING *"))
    assert keys_of(source(tmp_path)) == ["1", "2", "3"]


def test_ignored_columns_are_no_change(tmp_path: Path) -> None:
    """A new value in an ignored column leaves text and metadata as they were."""
    path = sqlite_file(tmp_path)
    db = source(tmp_path, ignore=["views"], metadata=["views", "lang"])
    before = pull_rows(db)
    change(path, "UPDATE articles SET views = views + 1")
    assert pull_rows(db) == before
    assert before[0]["text"] == "Body: one\nAt: 2024-01-01 00:00:00"
    assert json.loads(before[0]["metadata"]) == {"lang": "en"}


def test_a_column_may_hold_values_of_several_types(tmp_path: Path) -> None:
    """SQLite types values, not columns: a late text neither fails nor changes the numbers."""
    path = sqlite_file(tmp_path, "CREATE TABLE articles (id INTEGER, v, flag BOOLEAN, j JSON);")
    connection = sqlite3.connect(path)
    with connection:
        rows = [(i, 1 if i < 6000 else "word", 1, '{"b": 1,"a":2}') for i in range(6001)]
        connection.executemany("INSERT INTO articles VALUES (?,?,?,?)", rows)
    connection.close()
    batches, _ = pull_all(source(tmp_path))
    assert [b.num_rows for b in batches] == [5000, 1001]
    texts = [t for b in batches for t in b.column("text").to_pylist()]
    assert texts[0] == 'V: 1\nFlag: true\nJ: {"a":2,"b":1}'
    assert texts[-1] == 'V: word\nFlag: true\nJ: {"a":2,"b":1}'


def test_a_text_that_is_no_utf8_costs_one_row(tmp_path: Path) -> None:
    """Broken bytes make their row unreadable and no other."""
    path = sqlite_file(tmp_path)
    change(path, "UPDATE articles SET body = CAST(x'ff41' AS TEXT) WHERE id = 2")
    states = {row["key"]: row["state"] for row in pull_rows(source(tmp_path))}
    assert states == {"1": "present", "2": "unreadable", "3": "present"}


def test_blobs_are_refused_by_name_until_ignored(tmp_path: Path) -> None:
    """A blob column must be ignored on purpose."""
    sqlite_file(tmp_path, ARTICLES + "UPDATE articles SET lang = x'00ff';")
    with pytest.raises(SourceDataError, match=r"lang[\s\S]*ignore"):
        pull_all(source(tmp_path))
    assert keys_of(source(tmp_path, ignore="lang")) == ["1", "2", "3"]


def test_null_and_duplicate_keys_pass_through(tmp_path: Path) -> None:
    """Quarantine decides about them, not the source."""
    sqlite_file(tmp_path)
    query = "SELECT nullif(id, 3) AS id, body FROM articles UNION ALL SELECT 1, 'again'"
    assert keys_of(source(tmp_path, query=query)) == ["1", "1", "2", "None"]


def test_a_hostile_key_is_data(tmp_path: Path) -> None:
    """Keys are bound, never put into the statement."""
    sqlite_file(tmp_path)
    hostile = frozenset({"1' OR '1'='1", "2"} | {f"k{i}" for i in range(300)})
    batches, end = pull_all(source(tmp_path), PullRequest(keys=hostile, watermark="w"))
    assert [k for b in batches for k in b.column("key").to_pylist()] == ["2"]
    assert (end.complete, end.watermark) == (False, "w")


def test_links_titles_labels_and_times_are_filled(tmp_path: Path) -> None:
    """Every part of a record that a column can give is given."""
    sqlite_file(tmp_path)
    db = source(
        tmp_path,
        text="body",
        title="body",
        url="https://x/{lang}/{key}",
        updated_at="at",
        labels=["public"],
    )
    row = next(r for r in pull_rows(db) if r["key"] == "2")
    assert (row["text"], row["title"], row["url"]) == ("two", "two", "https://x/en%2Fus/2")
    assert row["source_ts"] == datetime(2024, 1, 2, tzinfo=UTC)
    assert row["labels"] == ["public"]


def test_a_cursor_pulls_only_what_is_new(tmp_path: Path) -> None:
    """After the first, complete pull come the rows from the watermark on, and null cursors."""
    path = sqlite_file(tmp_path)
    db = source(tmp_path, cursor="at")
    _, first = pull_all(db)
    assert first.complete
    change(path, "INSERT INTO articles VALUES (4, 'en', 'four', 1, '2024-01-04 00:00:00')")
    change(path, "INSERT INTO articles VALUES (5, 'en', 'five', 1, NULL)")
    request = PullRequest(watermark=first.watermark)
    assert keys_of(db, request) == ["3", "4", "5"]
    assert not pull_all(db, request)[1].complete


def test_the_lag_reads_again_what_was_late(tmp_path: Path) -> None:
    """A row that became visible late is found within the lag."""
    path = sqlite_file(tmp_path)
    db = source(tmp_path, cursor="at", cursor_lag="1h")
    watermark = pull_all(db)[1].watermark
    change(path, "INSERT INTO articles VALUES (4, 'en', 'late', 1, '2024-01-02 23:30:00')")
    assert keys_of(db, PullRequest(watermark=watermark)) == ["3", "4"]
    assert keys_of(source(tmp_path, cursor="at"), PullRequest(watermark=watermark)) == ["3"]


def test_a_lag_needs_a_time(tmp_path: Path) -> None:
    """A lag on a number has no unit and is refused."""
    sqlite_file(tmp_path)
    db = source(tmp_path, cursor="id", cursor_lag="1h")
    watermark = pull_all(db)[1].watermark
    with pytest.raises(ConfigError, match="cursor_lag"):
        pull_all(db, PullRequest(watermark=watermark))


def test_another_rendering_reads_everything_again(tmp_path: Path) -> None:
    """A watermark of another configuration proves nothing about old rows."""
    sqlite_file(tmp_path)
    watermark = pull_all(source(tmp_path, cursor="at"))[1].watermark
    batches, end = pull_all(
        source(tmp_path, cursor="at", text="body"), PullRequest(watermark=watermark)
    )
    assert sum(b.num_rows for b in batches) == 3
    assert end.complete


@pytest.mark.parametrize(
    "shift", [lambda t: t, lambda t: t.replace(" ", "T") + "Z", lambda t: _epoch(t)]
)
def test_a_window_is_half_open_whatever_the_shape(
    tmp_path: Path, shift: Callable[[str], Any]
) -> None:
    """Text with and without a zone and epoch seconds fall into the same window."""
    path = sqlite_file(tmp_path)
    for key in (1, 2, 3):
        change(
            path, "UPDATE articles SET at = ? WHERE id = ?", shift(f"2024-01-0{key} 00:00:00"), key
        )
    window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    query = "SELECT id, body, CAST(at AS NUMERIC) AS at FROM articles"
    numeric = isinstance(shift("2024-01-01 00:00:00"), int)
    options = {"query": query, "table": None} if numeric else {}
    db = source(tmp_path, updated_at="at", **options)
    batches, end = pull_all(db, PullRequest(window=window, watermark="w"))
    assert sorted(k for b in batches for k in b.column("key").to_pylist()) == ["1", "2"]
    assert (end.complete, end.watermark) == (False, "w")


def _epoch(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_a_window_needs_a_time_column(tmp_path: Path) -> None:
    """Without a column of source time there is no backfill."""
    sqlite_file(tmp_path)
    window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))
    with pytest.raises(ConfigError, match="updated_at"):
        pull_all(source(tmp_path), PullRequest(window=window))


def test_an_empty_table_is_a_complete_extract(tmp_path: Path) -> None:
    """Nothing there is an answer, also for a cursor."""
    sqlite_file(tmp_path, "CREATE TABLE articles (id INTEGER, at TEXT);")
    for options in ({}, {"cursor": "at"}):
        batches, end = pull_all(source(tmp_path, **options))
        assert not batches
        assert end.complete


def test_a_password_never_shows() -> None:
    """Neither the DSN of a message nor the driver's words give the password away."""
    dsn = "postgresql://ada:s3cr%40t@127.0.0.1:1/x?connect_timeout=2"
    with pytest.raises(SourceUnreachableError) as raised:
        pull_all(source(Path(), dsn=dsn))
    assert "s3cr" not in str(raised.value)
    assert "ada:***@127.0.0.1" in str(raised.value)
    assert redact("no s3cr@t here", dsn) == "no *** here"
    assert redact("x?user=a&password=pw&b=c") == "x?user=a&password=***&b=c"


def test_an_unknown_driver_is_said_to_be_missing() -> None:
    """A dialect whose package is absent is an environment error, not a traceback."""
    from headwater.errors import HeadwaterError

    for dsn in ("mysql+pymysql://u:p@h/x", "nodialect://u:p@h/x", "nonsense"):
        with pytest.raises(HeadwaterError) as raised:
            pull_all(source(Path(), dsn=dsn))
        assert "u:p@" not in str(raised.value)


def test_postgres_types_become_readable_text(postgres: Any) -> None:
    """Numerics, JSON, times, arrays, intervals and addresses read as a person writes them."""
    query = """
        SELECT 1 AS id, 12.50::numeric(10,2) AS price, '{"b": 1, "a": [1,2]}'::jsonb AS doc,
          '2024-01-02 03:04:05+02'::timestamptz AS at, date '2024-01-01' AS day, true AS ok,
          ARRAY['a','b'] AS tags, interval '1 day 2 hours' AS span, '10.0.0.1'::inet AS ip,
          0.1::real AS ratio, 'infinity'::timestamptz AS till, NULL::text AS none
    """
    row = pull_rows(source(Path(), dsn=postgres.get_uri(), query=query, updated_at="at"))[0]
    assert row["text"].splitlines() == [
        "Price: 12.50",
        'Doc: {"a":[1,2],"b":1}',
        "Day: 2024-01-01",
        "Ok: true",
        "Tags: a, b",
        "Span: 1 day 02:00:00",
        "Ip: 10.0.0.1/32",
        "Ratio: 0.1",
        "Till: infinity",
    ]
    assert row["source_ts"] == datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)


def test_postgres_blobs_are_refused_before_a_row_is_read(postgres: Any) -> None:
    """A bytea column is known by its type."""
    query = "SELECT 1 AS id, 'x'::bytea AS photo"
    with pytest.raises(SourceDataError, match=r"photo[\s\S]*ignore"):
        pull_all(source(Path(), dsn=postgres.get_uri(), query=query))


def test_postgres_reads_one_snapshot_and_never_writes(postgres: Any) -> None:
    """The transaction is repeatable-read and read-only."""
    uri = postgres.get_uri()
    query = """SELECT 1 AS id, current_setting('transaction_isolation') AS level,
        current_setting('transaction_read_only') AS ro"""
    assert pull_rows(source(Path(), dsn=uri, query=query))[0]["text"] == (
        "Level: repeatable read\nRo: on"
    )
    postgres.psql("CREATE SEQUENCE IF NOT EXISTS ticks;")
    with pytest.raises(SourceDataError, match="read-only"):
        pull_all(source(Path(), dsn=uri, query="SELECT nextval('ticks') AS id"))


def test_postgres_cursor_lag_and_window(postgres: Any) -> None:
    """Timestamps with a zone work as cursor, with a lag, and as window."""
    postgres.psql("""
        DROP TABLE IF EXISTS ev; CREATE TABLE ev (id int, at timestamptz);
        INSERT INTO ev SELECT i, timestamptz '2024-01-01 00:00:00.5+00' + i * interval '1 hour'
        FROM generate_series(0, 9) i;""")
    db = source(Path(), dsn=postgres.get_uri(), table="public.ev", cursor="at", cursor_lag="90m")
    _, end = pull_all(db)
    assert end.complete
    assert keys_of(db, PullRequest(watermark=end.watermark)) == ["8", "9"]
    start = datetime(2024, 1, 1, 1, 0, 0, 500_000, tzinfo=UTC)
    window = Window(start, start.replace(hour=3))
    assert keys_of(db, PullRequest(window=window)) == ["1", "2"]


def test_a_missing_postgres_table_is_a_data_error(postgres: Any) -> None:
    """The server's words come through, without the statement."""
    with pytest.raises(SourceDataError, match='relation "nope" does not exist'):
        pull_all(source(Path(), dsn=postgres.get_uri(), table="nope"))
