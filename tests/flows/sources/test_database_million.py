"""Rows by the million stream through a source in memory that does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PULL = """
import json, re, resource, sys
from pathlib import Path
from headwater.config import DatabaseConfig
from headwater.flows.sources.database import DatabaseSource
from headwater.flows.sources.protocol import PullRequest
from headwater.validation.rows import built_in_failures
options = {"kind": "database", "dsn": sys.argv[1], "query": sys.argv[2], "key": "id"}
source = DatabaseSource("db", DatabaseConfig.model_validate(options), root=Path("/"))
rows = largest = failed = 0
for batch in source.pull(PullRequest()):
    rows += batch.num_rows
    largest = max(largest, batch.num_rows)
    failed += len(built_in_failures(batch))
status = Path("/proc/self/status")
if status.exists():
    # On Linux the peak that getrusage tells is no less than what the parent had at the fork.
    peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": rows, "largest": largest, "failed": failed, "mb": peak / 1e6}))
"""
ROWS = 1_000_000
"""As many as the promise is about, where rows arrive as Arrow."""
FEWER = 300_000
"""Where they arrive one by one; held at once, they would take 400 MB more."""


def pulled(dsn: str, query: str) -> dict[str, Any]:
    """What a process that pulls, validates and forgets found, and its peak."""
    done = subprocess.run(
        [sys.executable, "-c", PULL, dsn, query], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_streamed(found: dict[str, Any], rows: int, *, most_mb: int) -> None:
    """Every row came, in small batches, and the text did not stay."""
    assert (found["rows"], found["failed"]) == (rows, 0)
    assert found["largest"] <= 10_000
    assert found["mb"] < most_mb, found


@pytest.mark.slow
def test_a_million_rows_of_postgresql(postgres: Any) -> None:
    """Through ADBC, batch by batch."""
    query = f"""SELECT i AS id, repeat(md5(i::text), 9) AS body, i % 7 AS part
        FROM generate_series(1, {ROWS}) i"""
    assert_streamed(pulled(postgres.get_uri(), query), ROWS, most_mb=450)


@pytest.mark.slow
def test_rows_of_mariadb(mariadb: str) -> None:
    """Through an unbuffered cursor: PyMySQL by default fetches everything first."""
    query = f"SELECT seq AS id, REPEAT(MD5(seq), 9) AS body, seq % 7 AS part FROM seq_1_to_{FEWER}"
    assert_streamed(pulled(mariadb, query), FEWER, most_mb=300)


@pytest.mark.slow
def test_rows_of_sqlite_and_duckdb(tmp_path: Path) -> None:
    """From files; DuckDB may use memory of its own beside that of the rows."""
    import duckdb
    from database_servers import sqlite_file

    sqlite_file(tmp_path)
    endless = f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {FEWER})
        SELECT i AS id, hex(zeroblob(140)) || i AS body, i % 7 AS part FROM n"""
    assert_streamed(pulled(f"sqlite:///{tmp_path}/app.db", endless), FEWER, most_mb=300)
    with duckdb.connect(str(tmp_path / "app.duckdb")) as connection:
        connection.execute(
            f"CREATE TABLE t AS SELECT i AS id, repeat(md5(i::VARCHAR), 9) AS body, i % 7 AS part"
            f" FROM range({ROWS}) r(i)"
        )
    found = pulled(f"duckdb:///{tmp_path}/app.duckdb", "SELECT * FROM t")
    assert_streamed(found, ROWS, most_mb=900)
