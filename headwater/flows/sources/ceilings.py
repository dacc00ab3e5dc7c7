"""Where a cursor may move to, so that a row which is committed late is not passed over. Pure.

A transaction takes the time or the number of its row when it writes, and shows the row when it
commits. Whoever moves the cursor to the highest value that shows, passes over the rows of those
that are still open. So the cursor stops at the ceiling: the least value that an open transaction
may have taken.

A time that the server gave is compared with the start of the oldest open transaction. A number, or
a time without a zone, cannot be: there, each pull leaves a mark (the highest value that showed, and
when), and the cursor stops at the newest mark that is older than every open transaction, for who
began later took a higher value.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from headwater.errors import ConfigError
from headwater.flows.sources.engines.session import InFlight
from headwater.flows.sources.watermarks import Mark

_MARGIN = timedelta(seconds=1)
"""Between the moment a server takes as the start of a transaction and the one at which it shows."""

_MOST_MARKS = 8


@dataclass(frozen=True)
class Ceiling:
    """What was read of a cursor before the snapshot was taken.

    Attributes:
        highest: value that showed; None when nothing carries one.
        at: the server's clock right after (UTC); None where nobody asked.
        in_flight: transactions that were open after that; None where the database does not say.
        clock: whether the cursor is a time that the server's clock can be compared with.
    """

    highest: Any
    at: datetime | None = None
    in_flight: InFlight | None = None
    clock: bool = False


def next_marks(before: tuple[Mark, ...], ceiling: Ceiling, *, lag: bool) -> tuple[Mark, ...]:
    """The marks of the next watermark.

    Args:
        before: those of the last one; empty when everything is read now.
        ceiling: of this pull.
        lag: whether a lag makes up for transactions that do not show when they began.
    """
    if ceiling.highest is None:
        return ()
    if ceiling.in_flight is None or ceiling.at is None:
        return (Mark(ceiling.highest),)
    if ceiling.in_flight.hidden and not lag:
        return _bounded((*(before or (Mark(),)), Mark(ceiling.highest, ceiling.at)))
    bound = min(ceiling.at, ceiling.in_flight.oldest or ceiling.at)
    if ceiling.clock:
        return (Mark(_least(ceiling.highest, min(bound, ceiling.at - _MARGIN))),)
    marks = (*(before or (Mark(),)), Mark(ceiling.highest, ceiling.at))
    settled = [n for n, mark in enumerate(marks) if mark.at is not None and mark.at <= bound]
    return _bounded(marks[settled[-1] :] if settled else marks)


def floor(mark: Mark, lag: timedelta | int | None, *, where: str) -> Any:
    """The value that a pull starts at: the mark's, less the lag.

    Raises:
        ConfigError: the lag does not fit the cursor: a duration is for times, a count for numbers.
    """
    if lag is None or mark.value is None:
        return mark.value
    try:
        return _earlier(mark.value, lag)
    except (ValueError, TypeError, ArithmeticError):
        raise ConfigError(
            "'cursor_lag' does not fit the cursor",
            obj=f"{where} (at {mark.value!r})",
            todo="give a duration (1h) for a timestamp, a count (1000) for a number, or none",
        ) from None


def _bounded(marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    # Any mark but the first may be left out: the cursor then stops at an earlier one.
    return marks if len(marks) <= _MOST_MARKS else (marks[0], *marks[1 - _MOST_MARKS :])


def _least(highest: Any, bound: datetime) -> str:
    """The lesser of the text of a time and `bound`; what is no time a calendar has, is later."""
    try:
        reached = datetime.fromisoformat(str(highest)) <= bound
    except (ValueError, TypeError):
        reached = False
    return str(highest) if reached else bound.astimezone(UTC).isoformat(sep=" ")


def _earlier(value: Any, lag: timedelta | int) -> Any:
    """`value - lag`; a text keeps its shape, cut to whole seconds so that it sorts below.

    Raises:
        ValueError: the text is no time.
        ArithmeticError: the text is no number.
        TypeError: the lag is of another unit.
    """
    if not isinstance(value, str):
        return value - lag
    if isinstance(lag, int):
        return str(Decimal(value) - lag)
    if value.isdecimal():
        raise ValueError("a number, though Python would read it as a date")
    when = datetime.fromisoformat(value) - lag
    if len(value) == len("2000-01-01"):
        return when.date().isoformat()
    if when.tzinfo is not None and when.utcoffset() == timedelta(0):
        when = when.astimezone(UTC)
    return when.replace(tzinfo=None, microsecond=0).isoformat(sep=value[10])
