"""SQLite by the standard library: see docs/decisions/018-databases.md for why not by ADBC."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from headwater.flows.sources.engines.messages import refused, timed_out, unreachable
from headwater.flows.sources.engines.session import (
    CONNECT_TIMEOUT_S,
    Column,
    Columns,
    InFlight,
    Session,
    transpose,
)
from headwater.flows.sources.rendering import BATCH_ROWS

_STEPS_PER_LOOK = 100_000
"""Steps of SQLite's machine between two looks at the clock: about a millisecond."""


class _SqliteSession(Session):
    """A read transaction; a text that is no UTF-8 gets through as Python's surrogates."""

    def __init__(self, connection: sqlite3.Connection, dsn: str, limit: timedelta) -> None:
        self._connection = connection
        self._dsn = dsn
        self._limit = limit
        self._deadline = float("inf")
        connection.set_progress_handler(self._is_late, _STEPS_PER_LOOK)

    def begin(self) -> None:
        """Nothing to do: the transaction began when the file was opened."""

    def in_flight(self) -> InFlight | None:
        """Nobody: SQLite lets one transaction write at a time, so none commits behind another."""
        return InFlight()

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        with self._errors():
            cursor = self._connection.execute(f"SELECT * FROM {relation} LIMIT 0")
            names = [item[0] for item in cursor.description]
            declared = self._connection.execute(
                "SELECT name, type FROM pragma_table_info(?)", (table or "",)
            )
            kinds = {name: kind.lower() for name, kind in declared}
        forms = {"bool": "bool", "boolean": "bool", "json": "json"}
        return tuple(
            Column(n, kinds.get(n, ""), forms.get(kinds.get(n, ""), "plain")) for n in names
        )

    def text(self, column: Column) -> str:
        return f"CAST({self.quote(column.name)} AS TEXT)"

    def bound(self, column: Column, index: int) -> str:
        return f"?{index + 1}"

    def parameter(self, index: int) -> str:
        return f"?{index + 1}"

    def instant(self, column: Column) -> str:
        name, shape = self.quote(column.name), "'%Y-%m-%d %H:%M:%f'"
        return (
            f"CASE WHEN typeof({name}) = 'text' THEN strftime({shape}, {name})"
            f" WHEN abs({name}) >= 1e11 THEN strftime({shape}, {name} / 1000.0, 'unixepoch')"
            f" ELSE strftime({shape}, {name}, 'unixepoch') END"
        )

    def moment(self, when: datetime) -> str:
        return (
            when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{when.microsecond // 1000:03}"
        )

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        with self._errors():
            self._deadline = time.monotonic() + self._limit.total_seconds()
            cursor = self._connection.execute(sql, tuple(parameters))
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield transpose(rows)

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if str(error) == "interrupted":
                raise timed_out(self._dsn, self._limit) from error
            busy = "locked" in str(error) or "disk I/O" in str(error)
            raise (unreachable if busy else refused)(self._dsn, error) from error


@contextmanager
def open_sqlite(dsn: str, root: Path, limit: timedelta) -> Iterator[Session]:
    """Open a file read-only, in one transaction; see `open_session`."""
    path = root / unquote(dsn.partition("://")[2].partition("?")[0].removeprefix("/"))
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro",
            uri=True,
            timeout=CONNECT_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise unreachable(dsn, error) from error
    try:
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        connection.execute("BEGIN")
        yield _SqliteSession(connection, dsn, limit)
    finally:
        connection.close()
