"""What a session says when a database fails: in one shape, and without a secret."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from headwater.config.fields import format_duration
from headwater.errors import MissingExtraError, SourceDataError, SourceUnreachableError


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


def unreachable(dsn: str, error: Exception) -> SourceUnreachableError:
    """The error of a database that does not answer."""
    return SourceUnreachableError(
        "The database cannot be reached",
        obj=redact(dsn, dsn),
        todo=f"{message(error, dsn)}; check that it runs, the address and the credentials",
    )


def refused(dsn: str, error: Exception) -> SourceDataError:
    """The error of a statement that the database does not accept."""
    return SourceDataError(
        "The database refused the statement",
        obj=redact(dsn, dsn),
        todo=f"{message(error, dsn)}; check 'table', 'query' and the grants",
    )


def timed_out(dsn: str, limit: timedelta) -> SourceUnreachableError:
    """The error of a statement that took too long."""
    return SourceUnreachableError(
        f"A statement took longer than 'statement_timeout', {format_duration(limit)}",
        obj=redact(dsn, dsn),
        todo="raise 'statement_timeout', put an index on the cursor, or narrow the query",
    )


def without_driver(dsn: str, extra: str, error: ImportError) -> MissingExtraError:
    """The error of a driver that is not installed; `extra` provides it, if headwater has one."""
    package = f"'headwater[{extra}]'" if extra else "the package that provides it"
    return MissingExtraError(
        "The driver of this database is not installed",
        obj=redact(dsn, dsn),
        todo=f"pip install {package} ({error})",
    )


def message(error: Exception, dsn: str) -> str:
    """The driver's words on one line, without the statement."""
    text = str(error)
    for end in ("\nQuery was:", "\nquery:", "\n[SQL:", "\n\nLINE ", "\nLINE "):
        text = text.partition(end)[0]
    return redact(" ".join(text.split()), dsn)
