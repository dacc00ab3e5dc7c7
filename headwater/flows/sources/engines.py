"""How one read-only session with a database is held: a registry of engines by URL scheme.

PostgreSQL goes through ADBC. SQLite goes through the standard library: its columns have no types,
and a reader that infers one type per column fails, or renders `1` as `1.0`, when a later row holds
another. Every other URL goes through SQLAlchemy.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from headwater.errors import MissingExtraError, SourceDataError, SourceError, SourceUnreachableError
from headwater.flows.sources.rendering import BATCH_ROWS

Columns = list[Sequence[Any]]
"""The values of a batch, one sequence per selected expression."""

_CONNECT_TIMEOUT_S = 15


@dataclass(frozen=True)
class Column:
    """A column of the table or query.

    Attributes:
        name: as the database spells it.
        kind: the database's name of its type; empty where it does not say.
        form: how a fetched value is read: `plain`, `json`, `bool` or `binary`.
    """

    name: str
    kind: str = ""
    form: str = "plain"


class Session(Protocol):
    """One read-only transaction, and how this database spells the few expressions needed."""

    def quote(self, name: str) -> str:
        """The identifier, quoted."""

    def escape(self, query: str) -> str:
        """The user's query, as it must stand inside a statement with parameters."""

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        """The columns of `relation`, in order; `table` is its name when it is a table."""

    def value(self, column: Column) -> str:
        """The expression of a value that is rendered."""

    def text(self, column: Column) -> str:
        """The expression of a value as text, for keys."""

    def cursor(self, column: Column, expression: str) -> str:
        """`expression`, an aggregate of the column, as it is kept in a watermark."""

    def bound(self, column: Column, index: int) -> str:
        """Parameter `index` (from 0) as a value comparable with the column."""

    def parameter(self, index: int) -> str:
        """Parameter `index` (from 0) as text."""

    def instant(self, column: Column) -> str:
        """The column as source time, comparable with `bound` of `moment`."""

    def moment(self, when: datetime) -> Any:
        """A UTC time as a parameter."""

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        """Run a statement and stream its rows by column."""


Engine = Callable[[str, Path], AbstractContextManager[Session]]


def open_session(dsn: str, root: Path) -> AbstractContextManager[Session]:
    """Open one read-only transaction.

    Raises:
        SourceUnreachableError: the database does not answer, or is not there.
        MissingExtraError: the driver is not installed.
    """
    return ENGINES.get(dsn.partition(":")[0], _sqlalchemy)(dsn, root)


def redact(text: str, dsn: str = "") -> str:
    """`text` without the password of `dsn` and of any URL inside it."""
    try:
        password = urlsplit(dsn).password
    except ValueError:
        password = None
    for secret in {password, unquote(password or "")} - {None, ""}:
        text = text.replace(str(secret), "***")
    text = re.sub(r"(://[^:/?#\s]*:)[^\s]*@", r"\1***@", text)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1***", text)


def _unreachable(dsn: str, error: Exception) -> SourceUnreachableError:
    return SourceUnreachableError(
        "The database cannot be reached",
        obj=redact(dsn, dsn),
        todo=f"{_message(error, dsn)}; check that it runs, the address and the credentials",
    )


def _refused(dsn: str, error: Exception) -> SourceDataError:
    return SourceDataError(
        "The database refused the statement",
        obj=redact(dsn, dsn),
        todo=f"{_message(error, dsn)}; check 'table', 'query' and the grants",
    )


def _message(error: Exception, dsn: str) -> str:
    text = str(error).partition("\nQuery was:")[0].partition("\nquery:")[0].partition("\n[SQL:")[0]
    return redact(" ".join(text.split()), dsn)


def _transpose(rows: Sequence[Sequence[Any]]) -> Columns:
    return [list(column) for column in zip(*rows, strict=True)]


# --- SQLite ---------------------------------------------------------------------------------------


class _SqliteSession:
    """A read transaction of the standard library's driver; bytes that are no UTF-8 get through."""

    def __init__(self, connection: sqlite3.Connection, dsn: str) -> None:
        self._connection = connection
        self._dsn = dsn

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def escape(self, query: str) -> str:
        return query

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

    def value(self, column: Column) -> str:
        return self.quote(column.name)

    def text(self, column: Column) -> str:
        return f"CAST({self.quote(column.name)} AS TEXT)"

    def cursor(self, column: Column, expression: str) -> str:
        return expression

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
            cursor = self._connection.execute(sql, tuple(parameters))
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield _transpose(rows)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            busy = "locked" in str(error) or "disk I/O" in str(error)
            raise (_unreachable if busy else _refused)(self._dsn, error) from error


@contextmanager
def _sqlite(dsn: str, root: Path) -> Iterator[Session]:
    path = root / unquote(dsn.partition("://")[2].partition("?")[0].removeprefix("/"))
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro",
            uri=True,
            timeout=_CONNECT_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise _unreachable(dsn, error) from error
    try:
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        connection.execute("BEGIN")
        yield _SqliteSession(connection, dsn)
    finally:
        connection.close()


# --- PostgreSQL -----------------------------------------------------------------------------------

_NATIVE = frozenset(
    ("bool", "int2", "int4", "int8", "float8", "text", "varchar", "bpchar", "name", "json", "jsonb")
)
"""Types that arrive as what they are; the others are cast to text by the server, which knows how
to write an interval, an address or `infinity`."""


class _PostgresSession:
    """A repeatable-read, read-only transaction over ADBC."""

    def __init__(self, connection: Any, dsn: str) -> None:
        self._connection = connection
        self._dsn = dsn

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def escape(self, query: str) -> str:
        return query

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {relation} LIMIT 0")
            with cursor.fetch_record_batch() as reader:
                fields = list(reader.schema)
        return tuple(_postgres_column(field) for field in fields)

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

    def instant(self, column: Column) -> str:
        return self.quote(column.name)

    def moment(self, when: datetime) -> str:
        return when.astimezone(UTC).isoformat()

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(sql, tuple(parameters) or None)
            with cursor.fetch_record_batch() as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        piece = batch.slice(start, BATCH_ROWS)
                        yield [column.to_pylist() for column in piece.columns]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import adbc_driver_manager
        import pyarrow as pa

        try:
            yield
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            raise _postgres_error(self._dsn, error) from error


def _postgres_column(field: Any) -> Column:
    kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"text").decode()
    form = "json" if kind in ("json", "jsonb") or kind.startswith("_") else "plain"
    return Column(field.name, kind, "binary" if kind == "bytea" else form)


def _postgres_error(dsn: str, error: Exception) -> SourceError:
    text = str(error)
    state = re.search(r"SQLSTATE: (\w{5})", text)
    lost = state is not None and state[1][:2] in ("08", "40", "53", "57")
    lost = lost or "connection to server" in text or "server closed the connection" in text
    return _unreachable(dsn, error) if lost else _refused(dsn, error)


@contextmanager
def _postgres(dsn: str, root: Path) -> Iterator[Session]:
    try:
        import adbc_driver_manager
        import adbc_driver_postgresql.dbapi as driver
    except ImportError:
        raise MissingExtraError.of("adbc-driver-postgresql", "pipeline") from None
    uri = dsn
    if "connect_timeout=" not in dsn:
        uri = f"{dsn}{'&' if '?' in dsn else '?'}connect_timeout={_CONNECT_TIMEOUT_S}"
    try:
        connection = driver.connect(uri)
    except adbc_driver_manager.Error as error:
        raise _unreachable(dsn, error) from error
    with connection:
        session = _PostgresSession(connection, dsn)
        with session._errors(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # The text of a value must not depend on the settings of the server or the role.
            for setting in (
                "TimeZone TO 'UTC'",
                "DateStyle TO 'ISO, YMD'",
                "IntervalStyle TO 'postgres'",
            ):
                cursor.execute(f"SET LOCAL {setting}")
        yield session


# --- every other database -------------------------------------------------------------------------


class _SqlalchemySession:
    """A streaming connection of SQLAlchemy; the isolation is the server's default."""

    def __init__(self, connection: Any, dsn: str) -> None:
        self._connection = connection
        self._dsn = dsn

    def quote(self, name: str) -> str:
        quoted: str = self._connection.dialect.identifier_preparer.quote_identifier(name)
        return quoted.replace(":", "\\:")

    def escape(self, query: str) -> str:
        return re.sub(r"(?<!:):(?!:)", r"\\:", query)

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        with self._errors():
            result = self._execute(f"SELECT * FROM {relation} WHERE 1 = 0", ())
            names = list(result.keys())
            result.close()
        return tuple(Column(name) for name in names)

    def value(self, column: Column) -> str:
        return self.quote(column.name)

    def text(self, column: Column) -> str:
        import sqlalchemy as sa

        # A length, because some dialects cut a VARCHAR without one after 30 characters.
        cast = sa.cast(sa.literal_column(self.quote(column.name)), sa.String(4000))
        return str(cast.compile(dialect=self._connection.dialect))

    def cursor(self, column: Column, expression: str) -> str:
        return expression

    def bound(self, column: Column, index: int) -> str:
        return f":p{index}"

    def parameter(self, index: int) -> str:
        return f":p{index}"

    def instant(self, column: Column) -> str:
        return self.quote(column.name)

    def moment(self, when: datetime) -> datetime:
        return when.astimezone(UTC).replace(tzinfo=None)

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        with self._errors():
            result = self._execute(sql, parameters)
            for rows in result.partitions(BATCH_ROWS):
                yield _transpose(rows)

    def _execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        import sqlalchemy as sa

        named = [sa.bindparam(f"p{i}", value) for i, value in enumerate(parameters)]
        return self._connection.execute(sa.text(sql).bindparams(*named))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import sqlalchemy as sa

        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            lost = getattr(error, "connection_invalidated", False)
            raise (_unreachable if lost else _refused)(self._dsn, error) from error


@contextmanager
def _sqlalchemy(dsn: str, root: Path) -> Iterator[Session]:
    try:
        import sqlalchemy as sa
    except ImportError:
        raise MissingExtraError.of("sqlalchemy", "pipeline") from None
    try:
        engine = sa.create_engine(dsn, poolclass=sa.pool.NullPool)
    except ImportError as error:
        raise MissingExtraError(
            "The driver of this database is not installed",
            obj=redact(dsn, dsn),
            todo=f"pip install the package that provides it ({error})",
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise _unreachable(dsn, error) from error
    try:
        connection = engine.connect().execution_options(stream_results=True)
    except Exception as error:  # each driver has its own family of connection errors
        raise _unreachable(dsn, error) from error
    with connection:
        yield _SqlalchemySession(connection, dsn)


ENGINES: dict[str, Engine] = {"sqlite": _sqlite, "postgresql": _postgres, "postgres": _postgres}
