"""MySQL and MariaDB: SQLAlchemy's stream over PyMySQL, in one consistent, read-only snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from headwater.flows.sources.engines.any_database import SqlalchemySession, connect
from headwater.flows.sources.engines.messages import timed_out, unreachable
from headwater.flows.sources.engines.session import CONNECT_TIMEOUT_S, Column, Session

_BINARY = frozenset(
    ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bit", "geometry")
)
_TIMED_OUT = frozenset((1969, 3024))
"""`ER_STATEMENT_TIMEOUT` of MariaDB, `ER_QUERY_TIMEOUT` of MySQL."""
_LOST = frozenset((1040, 1053, 1152, 1205, 1213, 2006, 2013, 2055, 4031))
"""Too many connections, shutting down, aborted, lock wait, deadlock, and a server that is gone."""


class _MysqlSession(SqlalchemySession):
    """Times are written in UTC, and a key is compared by its bytes, whatever the collation."""

    def __init__(self, connection: Any, dsn: str, limit: timedelta) -> None:
        super().__init__(connection, dsn, limit)
        seconds = max(0.001, limit.total_seconds())
        mariadb = connection.dialect.is_mariadb
        for statement in (
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            "SET SESSION time_zone = '+00:00'",
            f"SET SESSION max_statement_time = {seconds}"
            if mariadb
            else f"SET SESSION max_execution_time = {round(seconds * 1000)}",
        ):
            with self.errors():
                self.execute(statement, ())

    def begin(self) -> None:
        with self.errors():
            self._connection.rollback()
            self.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", ())

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        names = [column.name for column in super().columns(relation, table)]
        kinds = self._kinds(table) if table else {}
        return tuple(Column(name, *kinds.get(name, ())) for name in names)

    def _kinds(self, table: str) -> dict[str, tuple[str, str]]:
        """Column -> type and form, as the catalogue has them."""
        schema, _, name = table.replace("`", "").replace('"', "").rpartition(".")
        sql = (
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_name = :p0 AND table_schema = COALESCE(NULLIF(:p1, ''), DATABASE())"
        )
        with self.errors():
            rows = self.execute(sql, (name, schema)).all()
        return {str(column): (str(kind), _form(str(kind))) for column, kind in rows}

    def parameter(self, index: int) -> str:
        return f"CAST(:p{index} AS BINARY)"

    def same_key(self, column: Column, index: int) -> str:
        # The first condition may use an index, the second tells 'a' from 'A'.
        exact = super().same_key(column, index)
        return f"({self.quote(column.name)} = :p{index} AND {exact})"

    def row_hash(self, columns: Sequence[Column]) -> str | None:
        parts = ", ".join(_measured(self.text(column)) for column in columns)
        return f"LEFT(SHA2(CONCAT({parts}), 256), 32)"

    @contextmanager
    def errors(self) -> Iterator[None]:
        import sqlalchemy as sa

        with super().errors():
            try:
                yield
            except sa.exc.DBAPIError as error:
                number = (getattr(error.orig, "args", None) or (0,))[0]
                if number in _TIMED_OUT:
                    raise timed_out(self._dsn, self._limit) from error
                if number in _LOST:
                    raise unreachable(self._dsn, error) from error
                raise


def _form(kind: str) -> str:
    return "binary" if kind in _BINARY else "json" if kind == "json" else "plain"


def _measured(text: str) -> str:
    """A text behind its length, so that no two rows give the same when put together."""
    return f"COALESCE(CONCAT(CHAR_LENGTH({text}), '=', {text}), '-')"


@contextmanager
def open_mysql(dsn: str, root: Path, limit: timedelta) -> Iterator[Session]:
    """Connect; see `open_session`."""
    scheme, separator, rest = dsn.partition("://")
    driven = scheme if "+" in scheme else f"{scheme}+pymysql"
    url = f"{driven}{separator}{rest}"
    for option in (f"connect_timeout={CONNECT_TIMEOUT_S}", "charset=utf8mb4"):
        if option.partition("=")[0] not in url:
            url += f"{'&' if '?' in url else '?'}{option}"
    with connect(url, shown=dsn, extra="mysql") as connection:
        yield _MysqlSession(connection, dsn, limit)
