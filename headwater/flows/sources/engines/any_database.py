"""Any other database: a streaming connection of SQLAlchemy."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headwater.errors import MissingExtraError
from headwater.flows.sources.engines.messages import refused, timed_out, unreachable, without_driver
from headwater.flows.sources.engines.session import Column, Columns, Session, transpose
from headwater.flows.sources.rendering import BATCH_ROWS


class SqlalchemySession(Session):
    """The isolation is the server's default; the transaction is rolled back at the end."""

    def __init__(self, connection: Any, dsn: str, limit: timedelta) -> None:
        self._connection = connection
        self._dsn = dsn
        self._limit = limit

    def begin(self) -> None:
        """Nothing to do: SQLAlchemy has begun with the first statement."""

    def quote(self, name: str) -> str:
        """The identifier as the dialect quotes it, its colons as text."""
        quoted: str = self._connection.dialect.identifier_preparer.quote_identifier(name)
        return quoted.replace(":", "\\:")

    def escape(self, query: str) -> str:
        """The query, its colons as text."""
        return re.sub(r"(?<!:):(?!:)", r"\\:", query)

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        """The names; SQLAlchemy tells no types of a query."""
        with self.errors():
            result = self.execute(f"SELECT * FROM {relation} WHERE 1 = 0", ())
            names = list(result.keys())
            result.close()
        return tuple(Column(name) for name in names)

    def text(self, column: Column) -> str:
        """A cast in the words of the dialect."""
        import sqlalchemy as sa

        # A length, because some dialects cut a VARCHAR without one after 30 characters.
        cast = sa.cast(sa.literal_column(self.quote(column.name)), sa.String(4000))
        return str(cast.compile(dialect=self._connection.dialect))

    def bound(self, column: Column, index: int) -> str:
        """A named parameter; the driver knows the type of its value."""
        return f":p{index}"

    def parameter(self, index: int) -> str:
        """A named parameter."""
        return f":p{index}"

    def moment(self, when: datetime) -> datetime:
        """The time without its zone: few databases keep one."""
        return when.astimezone(UTC).replace(tzinfo=None)

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        """The rows as Python values; the time is looked at between batches."""
        deadline = time.monotonic() + self._limit.total_seconds()
        with self.errors():
            result = self.execute(sql, parameters)
            try:
                for rows in result.partitions(BATCH_ROWS):
                    if time.monotonic() > deadline:
                        raise timed_out(self._dsn, self._limit)
                    yield transpose(rows)
            finally:
                result.close()

    def execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        """Run one statement with the parameters `:p0`, `:p1` and so on."""
        import sqlalchemy as sa

        named = [sa.bindparam(f"p{i}", value) for i, value in enumerate(parameters)]
        return self._connection.execute(sa.text(sql).bindparams(*named))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of SQLAlchemy and its drivers into ours."""
        import sqlalchemy as sa

        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            lost = getattr(error, "connection_invalidated", False)
            raise (unreachable if lost else refused)(self._dsn, error) from error


@contextmanager
def connect(dsn: str, *, shown: str, extra: str = "") -> Iterator[Any]:
    """A connection of SQLAlchemy whose results are streamed.

    Args:
        dsn: what SQLAlchemy is given.
        shown: the URL as configured, for messages.
        extra: of headwater, that brings the driver; empty when none does.

    Raises:
        SourceUnreachableError: the database does not answer.
        MissingExtraError: SQLAlchemy or the driver is not installed.
    """
    try:
        import sqlalchemy as sa
    except ImportError:
        raise MissingExtraError.of("sqlalchemy", "pipeline") from None
    try:
        engine = sa.create_engine(dsn, poolclass=sa.pool.NullPool)
    except ImportError as error:
        raise without_driver(shown, extra, error) from None
    except sa.exc.SQLAlchemyError as error:
        raise unreachable(shown, error) from error
    try:
        connection = engine.connect().execution_options(stream_results=True)
    except Exception as error:  # each driver has its own family of connection errors
        raise unreachable(shown, error) from error
    with connection:
        yield connection


@contextmanager
def open_any(dsn: str, root: Path, limit: timedelta) -> Iterator[Session]:
    """Connect; see `open_session`."""
    with connect(dsn, shown=dsn) as connection:
        yield SqlalchemySession(connection, dsn, limit)
