"""What each strategy reads, lists and finds, on real servers and through a whole refresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from database_servers import execute, postgres_writer, read_keys, run_mysql, source

from headwater.config import DatabaseConfig, KnowledgeBase, load
from headwater.errors import ConfigError, SourceUnreachableError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.report import RefreshReport, SourceReport
from headwater.flows.sources import rows as rows_module
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.protocol import PullRequest, Source

ITEMS = """
DROP TABLE IF EXISTS items;
CREATE TABLE items (id int, part varchar(20), body varchar(200), seen int, PRIMARY KEY (id, part));
INSERT INTO items VALUES (1, 'a/b', 'one', 0), (2, 'A', 'two', 0), (2, 'a', 'three', 0),
  (3, 'x', NULL, 0);
"""


def run_duckdb(path: Path, script: str) -> None:
    """Run a script in a DuckDB file and close it."""
    import duckdb

    with duckdb.connect(str(path)) as connection:
        connection.execute(script)


@pytest.fixture(params=["postgresql", "mariadb", "duckdb"])
def items(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The items in a database that can hash rows: its URL and what runs a statement there."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        server.psql(ITEMS)
        yield server.get_uri(), lambda sql: server.psql(f"{sql};") and None
    elif request.param == "mariadb":
        url = request.getfixturevalue("mariadb")
        run_mysql(url, *(part for part in ITEMS.split(";") if part.strip()))
        yield url, lambda sql: run_mysql(url, sql)
    else:
        path = tmp_path / "items.duckdb"
        run_duckdb(path, ITEMS)
        yield f"duckdb:///{path}", lambda sql: run_duckdb(path, sql)


def by_hash(url: str, **options: Any) -> Any:
    """The items by their hashes."""
    options = {"ignore": "seen", **options}
    return source(
        Path("/"), dsn=url, table="items", key=["id", "part"], strategy="rowhash", **options
    )


def known_of(rows: list[dict[str, Any]]) -> PullRequest:
    """The request of the next pull after these rows were published."""
    return PullRequest(known={row["key"]: row["fingerprint"] for row in rows})


def test_only_rows_with_another_hash_are_read(items: tuple[str, Callable[[str], None]]) -> None:
    """An edit, an insert and a deletion are found without a cursor; what is volatile is no edit."""
    url, run = items
    db = by_hash(url)
    before = pull_rows(db)
    assert [row["state"] for row in before] == ["present"] * 4
    run("UPDATE items SET seen = seen + 1")
    batches, end = pull_all(db, known_of(before))
    assert {s for b in batches for s in b.column("state").to_pylist()} == {"unchanged"}
    assert end.complete
    run("UPDATE items SET body = 'zwei' WHERE id = 2 AND body = 'two'")
    run("UPDATE items SET body = 'none' WHERE id = 3")
    run("DELETE FROM items WHERE id = 1")
    run("INSERT INTO items VALUES (9, 'n', 'nine', 0)")
    rows = {row["key"]: row for row in pull_rows(db, known_of(before))}
    assert {key: row["state"] for key, row in rows.items()} == {
        "2/A": "present",
        "2/a": "unchanged",
        "3/x": "present",
        "9/n": "present",
    }
    assert rows["2/A"]["text"] == "Body: zwei"


def test_many_changed_rows_are_read_in_one_pass(
    items: tuple[str, Callable[[str], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a number of keys the table is read once, and only the wanted rows are passed on."""
    url, run = items
    db = by_hash(url)
    before = pull_rows(db)
    run("UPDATE items SET body = 'new' WHERE id >= 2")
    monkeypatch.setattr(rows_module, "_MOST_KEYS", 1)
    rows = pull_rows(db, known_of(before))
    states = sorted((row["key"], row["state"]) for row in rows)
    assert states == [
        ("1/a%2Fb", "unchanged"),
        ("2/A", "present"),
        ("2/a", "present"),
        ("3/x", "present"),
    ]


def test_another_rendering_gives_other_fingerprints(
    items: tuple[str, Callable[[str], None]],
) -> None:
    """A hash proves that a row is as it was, not that it is rendered as it was."""
    url, _ = items
    before = pull_rows(by_hash(url))
    rows = pull_rows(by_hash(url, template="{body}!"), known_of(before))
    assert [row["state"] for row in rows] == ["present"] * 4


def test_hashes_tell_values_apart_that_look_alike_in_a_row(
    items: tuple[str, Callable[[str], None]],
) -> None:
    """No value can be moved to the next column, and null is not the empty string."""
    url, run = items
    run("ALTER TABLE items ADD COLUMN more varchar(20)")
    db = by_hash(url)
    for pair in ("'ab', 'c'", "'a', 'bc'", "NULL, 'abc'", "'abc', NULL", "'abc', ''", "'2=a', '-'"):
        body, more = pair.split(", ")
        before = known_of(pull_rows(db))
        run(f"UPDATE items SET body = {body}, more = {more} WHERE id = 1")
        assert read_keys(db, before) == ["1/a%2Fb"], pair


def test_a_database_without_hashes_says_what_to_do(tmp_path: Path) -> None:
    """SQLite has no hash function; leaving the strategy out compares here."""
    from database_servers import sqlite_file

    sqlite_file(tmp_path)
    with pytest.raises(ConfigError, match="leave 'strategy' out"):
        pull_all(source(tmp_path, strategy="rowhash"))
    with pytest.raises(ConfigError, match="Only PostgreSQL"):
        pull_all(source(tmp_path, strategy="xmin"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "cursor"}, "both or none"),
        ({"strategy": "rowhash", "cursor": "at"}, "both or none"),
        ({"strategy": "xmin", "table": None, "query": "SELECT 1"}, "needs a 'table'"),
        ({"keyset_every": 3}, "others list all"),
        ({"cursor_lag": "1h"}, "needs a 'cursor'"),
        ({"cursor": "id", "cursor_lag": -1}, "above zero"),
        ({"text": "a", "template": "{a}"}, "only one of"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    """A strategy without what it needs is an error of the configuration."""
    base = {"kind": "database", "dsn": "sqlite:///a", "table": "t", "key": "id"}
    with pytest.raises(ValueError, match=said):
        DatabaseConfig.model_validate(base | options)


class TestByHash(SourceConformance):
    keys = ("1/a%2Fb", "2/A", "2/a", "3/x")

    @pytest.fixture(autouse=True)
    def _items(self, items: tuple[str, Callable[[str], None]]) -> None:
        self.url = items[0]

    def make_source(self) -> Source:
        return by_hash(self.url)


class TestByTransaction(SourceConformance):
    keys = ("1/a%2Fb", "2/A", "2/a", "3/x")

    @pytest.fixture(autouse=True)
    def _items(self, postgres: Any) -> None:
        postgres.psql(ITEMS)
        self.url = postgres.get_uri()

    def make_source(self) -> Source:
        return by_xmin(self.url)


# --- PostgreSQL's transaction ids -----------------------------------------------------------------


def by_xmin(uri: str, **options: Any) -> Any:
    """The items by the transactions that wrote them."""
    return source(Path(), dsn=uri, table="items", key=["id", "part"], strategy="xmin", **options)


def test_xmin_finds_what_transactions_wrote_since(postgres: Any) -> None:
    """Edits and inserts are found without any column; what was open at the last pull as well."""
    postgres.psql(ITEMS)
    uri = postgres.get_uri()
    db = by_xmin(uri)
    with postgres_writer(uri) as late:
        execute(late, "UPDATE items SET body = 'late' WHERE id = 3")
        first = pull_all(db)[1]
        assert first.complete
        postgres.psql("UPDATE items SET body = 'quick' WHERE id = 1;")
        second = pull_all(db, PullRequest(watermark=first.watermark))[1]
        assert not second.complete
        assert read_keys(db, PullRequest(watermark=first.watermark)) == ["1/a%2Fb"]
        late.commit()
    assert "3/x" in read_keys(db, PullRequest(watermark=second.watermark))
    third = pull_all(db, PullRequest(watermark=second.watermark))[1]
    assert read_keys(db, PullRequest(watermark=third.watermark)) == []


def test_xmin_reads_all_where_the_mark_proves_nothing(postgres: Any) -> None:
    """A mark from the future (another server) or from two thousand million ids ago is no mark."""
    postgres.psql(ITEMS)
    db = by_xmin(postgres.get_uri())
    mark = pull_all(db)[1].watermark
    assert mark is not None
    value = mark.partition('"value": "')[2].partition('"')[0]
    ahead = mark.replace(value, str(int(value) + 10**6))
    assert pull_all(db, PullRequest(watermark=ahead))[1].complete


# --- keys every so many runs ----------------------------------------------------------------------


def test_the_keys_of_all_rows_are_listed_when_it_is_time(postgres: Any) -> None:
    """Old rows are only listed, rows that no document has are read, and the extract is complete."""
    postgres.psql(ITEMS)
    options = {"table": "items", "key": ["id", "part"], "cursor": "id", "keyset_every": 3}
    db = source(Path(), dsn=postgres.get_uri(), **options)
    mark = pull_all(db)[1].watermark
    postgres.psql("INSERT INTO items VALUES (0, 'backdated', 'zero', 0);")
    early = pull_all(db, PullRequest(watermark=mark, partial_runs=1))[1]
    assert not early.complete
    assert "in 1 run" in early.note
    current = frozenset(["1/a%2Fb", "2/A", "2/a", "3/x"])
    due = PullRequest(watermark=mark, partial_runs=2, current=current)
    batches, end = pull_all(db, due)
    assert end.complete
    states = {row["key"]: row["state"] for b in batches for row in b.to_pylist()}
    assert states == {
        "0/backdated": "present",
        "1/a%2Fb": "unchanged",
        "2/A": "unchanged",
        "2/a": "unchanged",
        "3/x": "present",
    }


@pytest.fixture
def base(postgres: Any, tmp_path: Path) -> KnowledgeBase:
    """A knowledge base over the items, by cursor, that lists all keys in every third run."""
    postgres.psql(ITEMS)
    (tmp_path / "headwater.yaml").write_text(
        f"""
name: items
sources:
  items:
    kind: database
    dsn: "{postgres.get_uri()}"
    table: items
    key: [id, part]
    cursor: id
    keyset_every: 3
    ignore: seen
    text: [body]
""",
        "utf-8",
    )
    return load(tmp_path)


def run_once(kb: KnowledgeBase, **options: Any) -> tuple[RefreshReport, SourceReport]:
    """Refresh once."""
    report = refresh(kb, RefreshOptions(**options), encoding=twin_encoding)
    return report, report.sources[0]


def test_deleted_rows_are_found_although_nothing_else_changes(
    base: KnowledgeBase, postgres: Any
) -> None:
    """Runs that publish nothing count too; a row that is gone is gone after the third run."""
    postgres.psql("UPDATE items SET body = 'full' WHERE body IS NULL;")
    first, _ = run_once(base)
    assert first.documents == 4
    postgres.psql("DELETE FROM items WHERE id = 1;")
    assert [run_once(base)[1].outcome for _ in range(2)] == ["partial", "partial"]
    third, found = run_once(base)
    assert (found.outcome, found.removed, third.documents) == ("verified", 1, 3)
    assert run_once(base)[1].outcome == "partial"


def test_listing_keys_keeps_what_waits_in_quarantine(base: KnowledgeBase, postgres: Any) -> None:
    """An edit that was refused is not forgiven because its key is still there."""
    postgres.psql("UPDATE items SET body = 'full' WHERE body IS NULL;")
    run_once(base)
    postgres.psql("UPDATE items SET body = '' WHERE id = 3;")
    assert run_once(base)[1].refused == 1
    postgres.psql("INSERT INTO items VALUES (9, 'new', 'nine', 0);")
    run_once(base)
    listed = run_once(base)[1]
    assert (listed.outcome, listed.refused) == ("verified", 1)


def test_withheld_deletions_go_once_they_are_approved(base: KnowledgeBase, postgres: Any) -> None:
    """While deletions wait, every run lists the keys, so that an approval finds them."""
    postgres.psql("UPDATE items SET body = 'full' WHERE body IS NULL;")
    postgres.psql(
        "INSERT INTO items SELECT 10 + i, 'x', 'b ' || i, 0 FROM generate_series(1, 40) i;"
    )
    run_once(base)
    postgres.psql("DELETE FROM items WHERE id BETWEEN 11 AND 45;")
    assert [run_once(base)[1].withheld for _ in range(4)] == [0, 0, 35, 35]
    report, found = run_once(base, approved={"items": 35})
    assert (found.removed, report.documents) == (35, 9)


def test_a_backdated_row_is_found_when_the_keys_are_listed(
    base: KnowledgeBase, postgres: Any
) -> None:
    """A row that appears below the cursor is read by the run that lists the keys."""
    postgres.psql("UPDATE items SET body = 'full' WHERE body IS NULL;")
    run_once(base)
    postgres.psql("INSERT INTO items VALUES (0, 'old', 'zero', 0);")
    assert [run_once(base)[0].documents for _ in range(3)] == [4, 4, 5]


def test_a_plan_says_which_strategy_and_why(base: KnowledgeBase) -> None:
    """`headwater plan` shows what would be read and when the keys are listed."""
    report = refresh(base, dry_run=True, encoding=twin_encoding)
    assert "cursor 'id'" in report.sources[0].note
    assert "every row is read" in report.sources[0].note
    run_once(base)
    again = refresh(base, dry_run=True, encoding=twin_encoding)
    assert "rows from 3" in again.sources[0].note
    assert "all keys are listed in 2 runs" in again.sources[0].note


# --- limits ---------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_ended(
    postgres: Any, mariadb: str, tmp_path: Path
) -> None:
    """The limit holds on every engine, and the message names the option."""
    from database_servers import sqlite_file

    sqlite_file(tmp_path)
    run_duckdb(tmp_path / "a.duckdb", "CREATE TABLE articles (id int)")
    endless = (
        "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 2000000000)"
        " SELECT count(*) AS id FROM n"
    )
    joined = (
        "SELECT count(*) AS id FROM range(1000000) a, range(1000000) b WHERE a.range <> b.range"
    )
    for dsn, query in (
        (postgres.get_uri(), "SELECT pg_sleep(30)::text AS id"),
        (mariadb, "SELECT SLEEP(30) + BENCHMARK(2000000000, SHA1('x')) AS id"),
        ("sqlite:///app.db", endless),
        ("duckdb:///a.duckdb", joined),
    ):
        db = source(tmp_path, dsn=dsn, query=query, statement_timeout="0.3s")
        with pytest.raises(SourceUnreachableError, match="statement_timeout"):
            pull_all(db)
