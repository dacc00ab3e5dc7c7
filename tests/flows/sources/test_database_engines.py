"""What differs between engines: MariaDB by a server, DuckDB by a file, and how each of them fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from database_servers import ARTICLES, keys_of, mysql_connection, run_mysql, source

from headwater.errors import SourceDataError, SourceError, SourceUnreachableError
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.engines import ENGINES
from headwater.flows.sources.protocol import PullRequest, Source, Window

KEYS = ("1/en", "2/en%2Fus", "3/fr")


class TestMariadb(SourceConformance):
    keys = KEYS

    @pytest.fixture(autouse=True)
    def _server(self, mariadb: str) -> None:
        self.url = mariadb
        script = ARTICLES.replace("lang TEXT", "lang VARCHAR(9)").split(";")
        run_mysql(mariadb, "DROP TABLE IF EXISTS articles", *(s for s in script if s.strip()))

    def make_source(self) -> Source:
        query = "SELECT * FROM articles WHERE body <> ':x' -- all"
        return source(Path(), dsn=self.url, query=query, key=["id", "lang"], cursor="id")


class TestDuckdb(SourceConformance):
    keys = KEYS

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.folder = duckdb_file(tmp_path, ARTICLES.replace(" at TEXT", ' "at" TEXT')).parent

    def make_source(self) -> Source:
        dsn = "duckdb:///app.duckdb"
        return source(self.folder, dsn=dsn, key=["id", "lang"], cursor="at", cursor_lag="36h")


def duckdb_file(folder: Path, script: str) -> Path:
    """A DuckDB file made by `script`."""
    import duckdb

    path = folder / "app.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(script)
    return path


def test_every_engine_is_registered_by_its_schemes() -> None:
    """What is not registered goes to SQLAlchemy."""
    assert {"postgresql", "sqlite", "duckdb", "mysql", "mariadb"} <= set(ENGINES)
    assert "sqlite+pysqlite" not in ENGINES


# --- MariaDB --------------------------------------------------------------------------------------


@pytest.fixture
def types(mariadb: str) -> Iterator[str]:
    """A table of many types, with one row."""
    run_mysql(
        mariadb,
        "DROP TABLE IF EXISTS kinds",
        """CREATE TABLE kinds (id INT PRIMARY KEY, price DECIMAL(10,2), at TIMESTAMP(6) NULL,
        local DATETIME, day DATE, doc JSON, span TIME, tags SET('a','b'), big BIGINT UNSIGNED,
        ratio DOUBLE, photo BLOB)""",
        "SET time_zone = '+02:00'",
        """INSERT INTO kinds VALUES (1, 12.50, '2024-01-02 03:04:05.5', '2024-01-02 03:04:05',
        '2024-01-02', '{"b": 1, "a": [1, 2]}', '26:00:01', 'a,b', 18446744073709551615, 0.1, 'x')""",
    )
    yield mariadb


def test_mariadb_types_become_readable_text(types: str) -> None:
    """Decimals keep their digits, and moments are UTC whatever the server's or the writer's zone."""
    db = source(Path(), dsn=types, table="kinds", ignore="photo", updated_at="at", metadata="at")
    row = pull_rows(db)[0]
    assert row["text"].splitlines() == [
        "Price: 12.50",
        "Local: 2024-01-02 03:04:05",
        "Day: 2024-01-02",
        'Doc: {"b": 1, "a": [1, 2]}',
        "Span: 1 day, 2:00:01",
        "Tags: a,b",
        "Big: 18446744073709551615",
        "Ratio: 0.1",
    ]
    assert row["source_ts"] == datetime(2024, 1, 2, 1, 4, 5, 500_000, tzinfo=UTC)
    assert json.loads(row["metadata"]) == {"at": "2024-01-02 01:04:05.500000"}


def test_mariadb_blobs_are_refused_before_a_row_is_read(types: str) -> None:
    """A blob column is known from the catalogue, and refused by name in a query."""
    with pytest.raises(SourceDataError, match=r"photo[\s\S]*ignore"):
        pull_all(source(Path(), dsn=types, table="kinds"))
    with pytest.raises(SourceDataError, match=r"photo[\s\S]*ignore"):
        pull_all(source(Path(), dsn=types, query="SELECT id, photo FROM kinds"))


def test_mariadb_reads_one_snapshot_and_never_writes(mariadb: str) -> None:
    """The transaction is read-only and does not see what commits while it reads."""
    run_mysql(
        mariadb,
        "DROP TABLE IF EXISTS steady",
        "CREATE TABLE steady (id INT PRIMARY KEY)",
        "INSERT INTO steady SELECT seq FROM seq_1_to_12000",
        "DROP FUNCTION IF EXISTS grow",
        "CREATE FUNCTION grow() RETURNS INT BEGIN INSERT INTO steady VALUES (0); RETURN 1; END",
    )
    with pytest.raises(SourceDataError, match="READ ONLY"):
        pull_all(source(Path(), dsn=mariadb, query="SELECT grow() AS id"))
    pull = source(Path(), dsn=mariadb, table="steady").pull(PullRequest())
    first = next(pull)
    run_mysql(mariadb, "INSERT INTO steady VALUES (20000)", "DELETE FROM steady WHERE id = 11999")
    keys = set(first.column("key").to_pylist())
    keys.update(key for batch in pull for key in batch.column("key").to_pylist())
    assert keys == {str(n) for n in range(1, 12001)}


def test_mariadb_keys_are_compared_by_their_bytes(mariadb: str) -> None:
    """A collation that takes 'a' for 'A' must not answer with another document."""
    run_mysql(
        mariadb,
        "DROP TABLE IF EXISTS loose",
        "CREATE TABLE loose (id VARCHAR(9)) COLLATE utf8mb4_general_ci",
        "INSERT INTO loose VALUES ('a'), ('A'), ('á'), ('a ')",
    )
    db = source(Path(), dsn=mariadb, table="loose")
    assert keys_of(db, PullRequest(keys=frozenset(["A", "' OR 1 = 1 -- "]))) == ["A"]


def test_a_window_on_mariadb_is_half_open(mariadb: str) -> None:
    """A backfill takes the first moment of its window and not the last."""
    run_mysql(
        mariadb,
        "DROP TABLE IF EXISTS ev",
        "CREATE TABLE ev (id INT, at DATETIME)",
        "INSERT INTO ev VALUES (1, '2024-01-01'), (2, '2024-01-02'), (3, '2024-01-03')",
    )
    window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    db = source(Path(), dsn=mariadb, table="ev", updated_at="at")
    assert keys_of(db, PullRequest(window=window)) == ["1", "2"]


def test_a_mariadb_password_never_shows(mariadb: str) -> None:
    """Neither a refused login nor a refused statement gives the password away."""
    url = mariadb.replace("root@", "root:geh%21im@")
    with pytest.raises(SourceUnreachableError) as raised:
        pull_all(source(Path(), dsn=url))
    assert "geh" not in str(raised.value)
    with pytest.raises(SourceDataError, match="doesn't exist"):
        pull_all(source(Path(), dsn=mariadb, table="nope"))


def test_a_lost_mariadb_connection_is_worth_a_retry(mariadb: str) -> None:
    """A connection that is killed is no error of the data."""
    run_mysql(
        mariadb,
        "DROP TABLE IF EXISTS long_one",
        "CREATE TABLE long_one AS SELECT seq AS id, REPEAT('x', 2000) AS body FROM seq_1_to_60000",
    )
    pull = source(Path(), dsn=mariadb, table="long_one").pull(PullRequest())
    next(pull)
    killer = mysql_connection(mariadb)
    with killer.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
            " AND command = 'Query'"
        )
        for (number,) in cursor.fetchall():
            cursor.execute(f"KILL CONNECTION {number}")
    killer.close()
    with pytest.raises(SourceUnreachableError):
        list(pull)


# --- DuckDB ---------------------------------------------------------------------------------------


def test_duckdb_types_become_readable_text(tmp_path: Path) -> None:
    """Decimals, moments, lists, structs and JSON read as a person writes them."""
    duckdb_file(
        tmp_path,
        """CREATE TABLE kinds AS SELECT 1 AS id, 12.50::DECIMAL(10,2) AS price, ['a', 'b'] AS tags,
        {'b': 1, 'a': [1, 2]} AS doc, TIMESTAMPTZ '2024-01-02 03:04:05+02' AS "at", true AS ok,
        DATE '2024-01-02' AS day, 0.1::DOUBLE AS ratio, INTERVAL '1 day' AS span, NULL AS nothing,
        18446744073709551615::UBIGINT AS big, '{"z": 1, "y": 2}'::JSON AS j""",
    )
    db = source(tmp_path, dsn="duckdb:///app.duckdb", table="main.kinds", updated_at="at")
    row = pull_rows(db)[0]
    assert row["text"].splitlines() == [
        "Price: 12.50",
        "Tags: a, b",
        'Doc: {"a":[1,2],"b":1}',
        "Ok: true",
        "Day: 2024-01-02",
        "Ratio: 0.1",
        "Span: 1 day",
        "Big: 18446744073709551615",
        'J: {"y":2,"z":1}',
    ]
    assert row["source_ts"] == datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)


def test_duckdb_blobs_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """A blob is known by its type; a statement that writes is refused."""
    path = duckdb_file(tmp_path, "CREATE TABLE b AS SELECT 1 AS id, 'x'::BLOB AS photo")
    dsn = "duckdb:///app.duckdb"
    with pytest.raises(SourceDataError, match=r"photo[\s\S]*ignore"):
        pull_all(source(tmp_path, dsn=dsn, table="b"))
    before = path.read_bytes()
    with pytest.raises(SourceDataError):
        pull_all(source(tmp_path, dsn=dsn, query="DELETE FROM b RETURNING *"))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["app.duckdb"]


WRITER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_duckdb_file_that_is_being_written_is_a_clear_error(tmp_path: Path) -> None:
    """While another process writes, the message says so; afterwards the file can be read."""
    path = duckdb_file(tmp_path, ARTICLES.replace(" at TEXT", ' "at" TEXT'))
    db = source(tmp_path, dsn="duckdb:///app.duckdb")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline().strip() == b"open"
        with pytest.raises(SourceUnreachableError, match=r"open for writing[\s\S]*wait until"):
            pull_all(db)
    finally:
        writer.communicate()
    assert keys_of(db) == ["1", "2", "3"]


def test_a_duckdb_file_that_is_missing_or_damaged_is_told_apart(tmp_path: Path) -> None:
    """A wrong path creates nothing; garbage is refused."""
    with pytest.raises(SourceUnreachableError, match="does not exist"):
        pull_all(source(tmp_path, dsn="duckdb:///app.duckdb"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "app.duckdb").write_bytes(b"garbage " * 4000)
    with pytest.raises(SourceDataError, match="not a valid DuckDB"):
        pull_all(source(tmp_path, dsn="duckdb:///app.duckdb"))


# --- any other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "sqlite", "duckdb"])
def test_joins_are_written_as_a_query(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A document may be made from several tables, one row for each."""
    script = """
        CREATE TABLE authors (id INT, name VARCHAR(9)); INSERT INTO authors VALUES (1, 'Ada');
        CREATE TABLE books (id INT, author INT, title VARCHAR(9));
        INSERT INTO books VALUES (7, 1, 'Notes'), (8, 1, 'More')"""
    parts = [part for part in script.split(";") if part.strip()]
    drops = ["DROP TABLE IF EXISTS authors", "DROP TABLE IF EXISTS books"]
    made: Any = request.getfixturevalue(engine if engine == "mariadb" else "tmp_path")
    if engine == "postgresql":
        server = request.getfixturevalue("postgres")
        server.psql(";".join([*drops, script]) + ";")
        dsn = server.get_uri()
    elif engine == "mariadb":
        run_mysql(made, *drops, *parts)
        dsn = made
    elif engine == "duckdb":
        duckdb_file(tmp_path, script)
        dsn = "duckdb:///app.duckdb"
    else:
        from database_servers import sqlite_file

        sqlite_file(tmp_path, script + ";")
        dsn = "sqlite:///app.db"
    query = """
        SELECT b.id AS id, b.title AS title, a.name AS author
        FROM books b JOIN authors a ON a.id = b.author -- one row per book
    """
    db = source(tmp_path, dsn=dsn, query=query, title="title", template="{title}, by {author}")
    assert sorted(row["text"] for row in pull_rows(db)) == ["More, by Ada", "Notes, by Ada"]


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyMySQL the message says which extra brings it."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
    from headwater.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"headwater\[mysql\]"):
        pull_all(source(Path(), dsn="mysql://u:geheim@127.0.0.1:1/x"))
    monkeypatch.undo()
    with pytest.raises(SourceError) as raised:
        pull_all(source(Path(), dsn="mysql://u:geheim@127.0.0.1:1/x"))
    assert "geheim" not in str(raised.value)
