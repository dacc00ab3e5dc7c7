"""PostgreSQL through ADBC: rows arrive as Arrow, in one read-only, repeatable-read transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headwater.errors import MissingExtraError, SourceError
from headwater.flows.sources.engines.messages import refused, timed_out, unreachable
from headwater.flows.sources.engines.session import (
    CONNECT_TIMEOUT_S,
    Column,
    Columns,
    InFlight,
    RowAges,
    Session,
)
from headwater.flows.sources.rendering import BATCH_ROWS

_NATIVE = frozenset(
    ("bool", "int2", "int4", "int8", "float8", "text", "varchar", "bpchar", "name", "json", "jsonb")
)
"""Types that arrive as what they are; the others are cast to text by the server, which knows how
to write an interval, an address or `infinity`."""

_HASH_DIGITS = 32
"""Of the 64 hex digits of a SHA-256: 128 bits, as many as no two rows will share."""

_XIDS = 2**31
"""Ages of 32-bit transaction ids mean something below this."""

# A transaction holds its virtual id as a lock that every role may see; when it began is shown to
# its own role and to `pg_read_all_stats`. One without a user is an autovacuum worker.
_IN_FLIGHT = """
SELECT (min(a.xact_start) AT TIME ZONE 'UTC')::text, count(*)::int8,
  (count(*) FILTER (WHERE a.state IS NULL OR a.state = 'disabled')
   + (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())
   + pg_is_in_recovery()::int)::int8
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.pid <> pg_backend_pid() AND a.datname = current_database() AND a.usesysid IS NOT NULL
"""

_LOST = ("connection to server", "server closed the connection", "terminating connection")
_SETTINGS = ("TimeZone TO 'UTC'", "DateStyle TO 'ISO, YMD'", "IntervalStyle TO 'postgres'")
"""The text of a value must not depend on the settings of the server or the role."""


class _PostgresqlSession(Session):
    """Statements before `begin` are each their own snapshot."""

    def __init__(self, connection: Any, dsn: str, limit: timedelta) -> None:
        self._connection = connection
        self._dsn = dsn
        self._limit = limit
        self._start("READ COMMITTED")

    def begin(self) -> None:
        with self._errors():
            self._connection.commit()
        self._start("REPEATABLE READ")

    def _start(self, isolation: str) -> None:
        milliseconds = max(1, round(self._limit.total_seconds() * 1000))
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}, READ ONLY")
            # Local to the transaction: behind a pool, the next one may have another connection.
            for setting in (*_SETTINGS, f"statement_timeout TO {milliseconds}"):
                cursor.execute(f"SET LOCAL {setting}")

    def in_flight(self) -> InFlight | None:
        ((oldest, count, hidden),) = self._rows(_IN_FLIGHT)
        began = datetime.fromisoformat(oldest).replace(tzinfo=UTC) if oldest else None
        return InFlight(began, count, hidden)

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {relation} LIMIT 0")
            with cursor.fetch_record_batch() as reader:
                fields = list(reader.schema)
        return tuple(_column(field) for field in fields)

    def value(self, column: Column) -> str:
        name = self.quote(column.name)
        if column.kind.startswith("_"):
            return f"to_jsonb({name})"
        return name if column.kind in _NATIVE else f"{name}::text"

    def text(self, column: Column) -> str:
        return f"{self.quote(column.name)}::text"

    def cursor(self, column: Column, expression: str) -> str:
        return f"({expression})::text"

    def bound(self, column: Column, index: int) -> str:
        return f"CAST(${index + 1}::text AS {self.quote(column.kind)})"

    def parameter(self, index: int) -> str:
        return f"${index + 1}::text"

    def same_key(self, column: Column, index: int) -> str:
        # Compared by its own type, so that an index is used.
        return f"{self.quote(column.name)} = {self.bound(column, index)}"

    def clock(self) -> str | None:
        return "(clock_timestamp() AT TIME ZONE 'UTC')::text"

    def moment(self, when: datetime) -> str:
        return when.astimezone(UTC).isoformat()

    def row_hash(self, columns: Sequence[Column]) -> str | None:
        row = f"ROW({', '.join(self.quote(c.name) for c in columns)})::text"
        return f"left(encode(sha256(convert_to({row}, 'UTF8')), 'hex'), {_HASH_DIGITS})"

    def row_ages(self) -> RowAges | None:
        snapshot = "pg_current_snapshot()"
        sql = f"SELECT pg_snapshot_xmin({snapshot})::text, pg_snapshot_xmax({snapshot})::text"
        ((oldest, newest),) = self._rows(sql)

        def since(mark: str) -> tuple[str, tuple[Any, ...]] | None:
            if not mark.isdecimal() or not 0 <= int(newest) - int(mark) < _XIDS // 2:
                return None
            # A row whose id has gone round looks young: it is read once too often, never too rarely.
            return "age(xmin) <= age($1::text::xid)", (str(int(mark) % 2**32),)

        return RowAges(oldest, since)

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(sql, tuple(parameters) or None)
            with cursor.fetch_record_batch() as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        yield [_storage(c) for c in batch.slice(start, BATCH_ROWS).columns]

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import adbc_driver_manager
        import pyarrow as pa

        try:
            yield
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            raise _error(self._dsn, error, self._limit) from error


def _column(field: Any) -> Column:
    kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"text").decode()
    form = "json" if kind in ("json", "jsonb") or kind.startswith("_") else "plain"
    return Column(
        field.name, kind, "binary" if kind == "bytea" else form, clock=kind == "timestamptz"
    )


def _storage(column: Any) -> Any:
    """The plain strings of a JSON column; any other column as it is."""
    return getattr(column, "storage", column)


def _error(dsn: str, error: Exception, limit: timedelta) -> SourceError:
    text = str(error)
    state = re.search(r"SQLSTATE: (\w{5})", text)
    # While rows are streamed, the driver passes on the words alone.
    if "statement timeout" in text:
        return timed_out(dsn, limit)
    lost = state is not None and state[1][:2] in ("08", "40", "53", "57")
    lost = lost or any(words in text for words in _LOST)
    return unreachable(dsn, error) if lost else refused(dsn, error)


@contextmanager
def open_postgresql(dsn: str, root: Path, limit: timedelta) -> Iterator[Session]:
    """Connect; see `open_session`."""
    try:
        import adbc_driver_manager
        import adbc_driver_postgresql.dbapi as driver
    except ImportError:
        raise MissingExtraError.of("adbc-driver-postgresql", "pipeline") from None
    uri = dsn
    if "connect_timeout=" not in dsn:
        uri = f"{dsn}{'&' if '?' in dsn else '?'}connect_timeout={CONNECT_TIMEOUT_S}"
    try:
        connection = driver.connect(uri)
    except adbc_driver_manager.Error as error:
        raise unreachable(dsn, error) from error
    with connection:
        yield _PostgresqlSession(connection, dsn, limit)
