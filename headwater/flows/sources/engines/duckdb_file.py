"""A DuckDB file, read-only: rows arrive as Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from headwater.errors import SourceError, SourceUnreachableError
from headwater.flows.sources.engines.messages import (
    message,
    redact,
    refused,
    timed_out,
    unreachable,
)
from headwater.flows.sources.engines.session import Column, Columns, InFlight, Session
from headwater.flows.sources.rendering import BATCH_ROWS

if TYPE_CHECKING:
    import duckdb

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_NATIVE = frozenset(
    ("BOOLEAN", *_INTEGERS, *(f"U{n}" for n in _INTEGERS), "DOUBLE", "VARCHAR", "JSON")
)
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


class _DuckdbSession(Session):
    """One transaction; DuckDB itself writes the values that are no numbers and no text."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, dsn: str, limit: timedelta) -> None:
        self._connection = connection
        self._dsn = dsn
        self._limit = limit

    def begin(self) -> None:
        """Nothing to do: while the file is open here, nobody can write it."""

    def in_flight(self) -> InFlight | None:
        """Nobody: while the file is open here, no other process can write it."""
        return InFlight()

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        with self._errors():
            found = self._connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        return tuple(Column(name, kind, _form(kind)) for name, kind, *_ in found)

    def value(self, column: Column) -> str:
        name = self.quote(column.name)
        if column.form == "json" and column.kind != "JSON":
            return f"to_json({name})"
        return name if column.kind in _NATIVE else f"CAST({name} AS VARCHAR)"

    def text(self, column: Column) -> str:
        return f"CAST({self.quote(column.name)} AS VARCHAR)"

    def cursor(self, column: Column, expression: str) -> str:
        return f"CAST({expression} AS VARCHAR)"

    def bound(self, column: Column, index: int) -> str:
        return f"CAST(${index + 1} AS {column.kind})"

    def parameter(self, index: int) -> str:
        return f"CAST(${index + 1} AS VARCHAR)"

    def moment(self, when: datetime) -> str:
        return when.astimezone(UTC).isoformat(sep=" ")

    def row_hash(self, columns: Sequence[Column]) -> str | None:
        texts = [self.text(column) for column in columns]
        parts = [f"coalesce(length({t}) || '=' || {t}, '-')" for t in texts]
        return f"left(sha256({' || '.join(parts)}), 32)"

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        late = Timer(self._limit.total_seconds(), self._connection.interrupt)
        late.daemon = True
        late.start()
        try:
            with self._errors():
                # Not `execute`: what that returns, it holds whole.
                found = self._connection.sql(sql, params=list(parameters) or None)
                for batch in found.to_arrow_reader(BATCH_ROWS):
                    yield [_storage(column) for column in batch.columns]
        finally:
            late.cancel()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import duckdb
        import pyarrow as pa

        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in str(error):
                raise timed_out(self._dsn, self._limit) from error
            raise refused(self._dsn, error) from error


def _form(kind: str) -> str:
    if kind in ("BLOB", "BIT"):
        return "binary"
    nested = kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION"))
    return "json" if kind == "JSON" or nested else "plain"


def _storage(column: Any) -> Any:
    """The plain strings of a JSON column; any other column as it is."""
    return getattr(column, "storage", column)


def _not_opened(dsn: str, error: Exception) -> SourceError:
    text = str(error)
    if "lock on file" in text or "different configuration" in text:
        return SourceUnreachableError(
            "The DuckDB file is open for writing, and then nobody else can read it",
            obj=redact(dsn, dsn),
            todo=f"wait until the writer has closed it, or read a copy ({message(error, dsn)})",
        )
    damaged = "not a valid DuckDB" in text
    return refused(dsn, error) if damaged else unreachable(dsn, error)


@contextmanager
def open_duckdb(dsn: str, root: Path, limit: timedelta) -> Iterator[Session]:
    """Open a file read-only; see `open_session`."""
    import duckdb

    path = root / unquote(dsn.partition("://")[2].partition("?")[0].removeprefix("/"))
    try:
        connection = duckdb.connect(str(path), read_only=True, config=_SETTINGS)
    except duckdb.Error as error:
        raise _not_opened(dsn, error) from error
    try:
        connection.execute("SET TimeZone = 'UTC'")
        # It would be drawn on the standard output, where only results belong.
        connection.execute("SET enable_progress_bar = false")
        connection.execute("BEGIN TRANSACTION")
        yield _DuckdbSession(connection, dsn, limit)
    finally:
        connection.close()
