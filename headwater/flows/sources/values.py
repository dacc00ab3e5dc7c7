"""The text of one value: equal values always give equal text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

from headwater.errors import SourceDataError
from headwater.flows.sources.protocol import canonical_json

_EPOCH_MS_FROM = 1e11
"""Numbers from here on are milliseconds: as seconds they would lie after the year 5000."""


class BinaryValueError(Exception):
    """A binary value met while rendering; the caller knows the column."""


def binary_column(name: str) -> SourceDataError:
    """The error for a column whose binary values cannot be rendered."""
    return SourceDataError(
        "A column holds binary values, which have no text",
        obj=name,
        todo="list it under 'ignore', or name the columns you want under 'text'",
    )


def value_text(value: Any) -> str | None:
    """The text of one value; None for null.

    Numbers keep their digits, times are ISO 8601 (in UTC where they carry a zone), lists are joined
    by commas, mappings are canonical JSON.

    Raises:
        BinaryValueError: the value is binary.
    """
    if value is None or type(value) is str:
        return value
    render = _RENDER.get(type(value)) or next(
        (known for kind, known in _RENDER.items() if isinstance(value, kind)), str
    )
    return render(value)


def value_time(value: Any) -> datetime | None:
    """Read a source's own time as UTC; None where it is no time.

    A time without a zone is taken as UTC; a number is seconds (or milliseconds) since 1970.
    """
    try:
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, date):
            found = datetime(value.year, value.month, value.day)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value / 1000 if abs(value) >= _EPOCH_MS_FROM else value
            found = datetime.fromtimestamp(seconds, UTC)
        elif isinstance(value, str) and value:
            found = _parse_time(value)
        else:
            return None
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def plain_value(value: Any) -> Any:
    """What JSON holds natively stays; the rest becomes its text.

    Raises:
        BinaryValueError: the value is binary.
    """
    if value is None or isinstance(value, str | bool | int | list | dict):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return value_text(value)


def _refuse(value: Any) -> str:
    raise BinaryValueError


def _time_text(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.isoformat(sep=" ")


def _list_text(value: Iterable[Any]) -> str:
    return ", ".join(text for item in value if (text := value_text(item)) is not None)


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


_RENDER: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: repr,
    Decimal: _decimal_text,
    datetime: _time_text,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: str,
    dict: canonical_json,
    list: _list_text,
    tuple: _list_text,
    bytes: _refuse,
    bytearray: _refuse,
    memoryview: _refuse,
}


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)
