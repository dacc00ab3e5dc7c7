"""Database servers that the tests of a session share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from database_servers import ARTICLES, mariadb_server, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL server."""
    with postgres_server() as server:
        server.psql(ARTICLES)
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The URL of a real MariaDB server."""
    with mariadb_server() as url:
        yield url
