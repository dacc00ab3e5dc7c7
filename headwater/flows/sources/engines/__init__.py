"""How one read-only session with a database is held: a registry of engines by URL scheme.

What the engines have in common is in `session`; each has a file of its own. A scheme that is not
registered goes to SQLAlchemy, whose dialects are packages of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

from headwater.flows.sources.engines.any_database import open_any
from headwater.flows.sources.engines.duckdb_file import open_duckdb
from headwater.flows.sources.engines.messages import redact
from headwater.flows.sources.engines.mysql import open_mysql
from headwater.flows.sources.engines.postgresql import open_postgresql
from headwater.flows.sources.engines.session import Columns, InFlight, RowAges, Session
from headwater.flows.sources.engines.sqlite import open_sqlite

__all__ = ["ENGINES", "Columns", "InFlight", "RowAges", "Session", "open_session", "redact"]

Engine = Callable[[str, Path, timedelta], AbstractContextManager[Session]]
"""Given the URL, the folder that relative paths start from and the longest time of a statement."""

ENGINES: dict[str, Engine] = {
    "sqlite": open_sqlite,
    "postgresql": open_postgresql,
    "postgres": open_postgresql,
    "duckdb": open_duckdb,
    "mysql": open_mysql,
    "mysql+pymysql": open_mysql,
    "mariadb": open_mysql,
    "mariadb+pymysql": open_mysql,
}
"""URL scheme -> engine."""


_LONGEST = timedelta(days=24)
"""In milliseconds, about what servers take as a limit."""


def open_session(
    dsn: str, root: Path, *, statement_timeout: timedelta
) -> AbstractContextManager[Session]:
    """Open one read-only session.

    Args:
        dsn: the URL, its secrets filled in.
        root: the folder that a relative path of a file starts from.
        statement_timeout: a statement that takes longer is ended.

    Raises:
        SourceUnreachableError: the database does not answer, or is not there.
        MissingExtraError: the driver is not installed.
    """
    limit = min(statement_timeout, _LONGEST)
    return ENGINES.get(dsn.partition(":")[0], open_any)(dsn, root, limit)
