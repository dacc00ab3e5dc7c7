"""How the changes of a table are found: one plan per strategy, from what is known before a read.

`full` reads every row and leaves the comparison to the hashes of the records. `rowhash` has the
database hash every row and reads those whose hash is another. `cursor` reads the rows at or above
where the last pull could be sure of everything. `xmin` reads the rows that transactions wrote which
were not finished then. The last two cannot see that a row was deleted: now and then they list the
keys of the rows that they do not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headwater.config import DatabaseConfig
from headwater.config.fields import format_duration
from headwater.errors import ConfigError
from headwater.flows.sources.ceilings import Ceiling, floor, next_marks
from headwater.flows.sources.drift import ColumnTypes
from headwater.flows.sources.engines.session import Column, RowAges, Session
from headwater.flows.sources.rows import Condition
from headwater.flows.sources.watermarks import Mark, Watermark

ALL = Condition()


@dataclass(frozen=True)
class PullPlan:
    """What a pull reads.

    Attributes:
        watermark: of the next pull.
        note: why, on one line.
        rows: the rows that are read; None when they are found by their hash.
        listed: the other rows, of which only the keys are read; None when they are not looked at.
    """

    watermark: Watermark
    note: str
    rows: Condition | None = ALL
    listed: Condition | None = None

    @property
    def complete(self) -> bool:
        """Whether every row is accounted for."""
        return self.rows is None or self.rows == ALL or self.listed is not None


@dataclass(frozen=True)
class Known:
    """What a plan is made from.

    Attributes:
        config: of the source.
        source: its name.
        signature: of how rows are rendered now.
        columns: that records are made from now.
        last: the last watermark that still holds; None for a first pull.
        fingerprints: whether any document of the source has one.
        partial_runs: how many pulls have not listed every key since one did.
    """

    config: DatabaseConfig
    source: str
    signature: str
    columns: ColumnTypes
    last: Watermark | None
    fingerprints: bool
    partial_runs: int

    def watermark(self, marks: tuple[Mark, ...] = ()) -> Watermark:
        """The next watermark, with these marks."""
        return Watermark(self.config.chosen_strategy, self.signature, self.columns, marks)

    @property
    def lists_keys(self) -> bool:
        """Whether it is time to list the keys of all rows."""
        every = self.config.keyset_every
        return every is not None and self.partial_runs + 1 >= every

    @property
    def keys_note(self) -> str:
        """When all keys are listed, for the note."""
        every = self.config.keyset_every
        if every is None:
            return "deleted rows are not looked for (no 'keyset_every')"
        if self.lists_keys:
            return "all keys are listed"
        left = every - self.partial_runs - 1
        return f"all keys are listed in {left} run{'' if left == 1 else 's'}"


# --- each strategy --------------------------------------------------------------------------------


def plan_full(known: Known) -> PullPlan:
    """Every row."""
    return PullPlan(known.watermark(), "full: every row is read and compared by its hash")


def plan_rowhash(known: Known) -> PullPlan:
    """The rows whose hash is not the known one."""
    if not known.fingerprints:
        return PullPlan(known.watermark(), "rowhash: every row is read, no hash is known yet")
    note = "rowhash: the database hashes every row, those with another hash are read"
    return PullPlan(known.watermark(), note, rows=None)


def plan_cursor(known: Known, column: Column, ceiling: Ceiling, session: Session) -> PullPlan:
    """The rows at or above the first mark, less the lag, and those without a value."""
    config = known.config
    before = known.last.marks if known.last else ()
    marks = next_marks(before, ceiling, lag=config.cursor_lag is not None)
    watermark = known.watermark(marks)
    note = f"cursor '{column.name}'{_open_note(ceiling, lag=config.cursor_lag is not None)}"
    if ceiling.highest is None:
        return PullPlan(watermark, f"{note}: every row is read, none has a value of the cursor")
    start = None
    if before:
        where = f"sources.{known.source}.cursor: {column.name}"
        start = floor(before[0], config.cursor_lag, where=where)
    if start is None:
        return PullPlan(watermark, f"{note}: every row is read; {_next_note(marks)}")
    name, bound = session.quote(column.name), session.bound(column, 0)
    rows = Condition(f"{name} >= {bound} OR {name} IS NULL", (start,))
    listed = Condition(f"{name} < {bound}", (start,)) if known.lists_keys else None
    lag = f" ({_lag_text(config)} before the watermark)" if config.cursor_lag else ""
    note = f"{note}: rows from {start}{lag}; {_next_note(marks)}; {known.keys_note}"
    return PullPlan(watermark, note, rows, listed)


def plan_xmin(known: Known, ages: RowAges) -> PullPlan:
    """The rows of transactions that were not finished at the last snapshot."""
    watermark = known.watermark((Mark(ages.mark),))
    since = ages.since(str(known.last.marks[0].value)) if known.last and known.last.marks else None
    if since is None:
        return PullPlan(watermark, f"xmin: every row is read; the next from {ages.mark}")
    where, parameters = since
    listed = Condition(f"NOT ({where})", parameters) if known.lists_keys else None
    assert known.last is not None
    note = f"xmin: rows of transactions from {known.last.marks[0].value}; {known.keys_note}"
    return PullPlan(watermark, note, Condition(where, parameters), listed)


def _lag_text(config: DatabaseConfig) -> str:
    lag = config.cursor_lag
    return str(lag) if lag is None or isinstance(lag, int) else format_duration(lag)


def _next_note(marks: tuple[Mark, ...]) -> str:
    if not marks or marks[0].value is None:
        return "the next pull reads every row again"
    return f"the next from {marks[0].value}"


def _open_note(ceiling: Ceiling, *, lag: bool) -> str:
    """What is known of open transactions, where it matters."""
    seen = ceiling.in_flight
    if seen is None:
        return "" if lag else " (what commits late is lost to it: set 'cursor_lag')"
    if seen.hidden and not lag:
        return (
            f" ({seen.hidden} open transactions do not show when they began, so it stays: grant"
            " pg_read_all_stats, read the primary, or set 'cursor_lag')"
        )
    if seen.oldest is not None:
        return f" ({seen.count} open transactions, the oldest since {seen.oldest:%H:%M:%S}Z)"
    return ""


# --- what each strategy asks the database before it can plan --------------------------------------


@dataclass(frozen=True)
class Asked:
    """A session and the relation a pull is about.

    Attributes:
        columns: name -> column, of the relation.
    """

    session: Session
    relation: str
    columns: Mapping[str, Column]


def _full(known: Known, asked: Asked) -> PullPlan:
    asked.session.begin()
    return plan_full(known)


def _rowhash(known: Known, asked: Asked) -> PullPlan:
    asked.session.begin()
    return plan_rowhash(known)


def _cursor(known: Known, asked: Asked) -> PullPlan:
    session, column = asked.session, asked.columns[known.config.cursor or ""]
    # In this order: what shows, then who is open, then the snapshot. Who is open after that began
    # later, and who had finished before shows.
    clock = session.clock()
    highest = session.cursor(column, f"MAX({session.quote(column.name)})")
    expressions = [highest] if clock is None else [highest, clock]
    listed = ", ".join(f"{e} AS hw_{i}" for i, e in enumerate(expressions))
    row = [c[0] for c in next(session.batches(f"SELECT {listed} FROM {asked.relation}"))]
    values: list[Any] = [v.as_py() if hasattr(v, "as_py") else v for v in row]
    at = None if clock is None else datetime.fromisoformat(values[1]).replace(tzinfo=UTC)
    ceiling = Ceiling(values[0], at, session.in_flight(), clock=column.clock)
    session.begin()
    return plan_cursor(known, column, ceiling, session)


def _xmin(known: Known, asked: Asked) -> PullPlan:
    asked.session.begin()
    ages = asked.session.row_ages()
    if ages is None:
        raise ConfigError(
            "Only PostgreSQL tells which transaction wrote a row",
            obj=f"sources.{known.source}.strategy: xmin",
            todo="use 'cursor' or 'rowhash', or leave 'strategy' out",
        )
    return plan_xmin(known, ages)


STRATEGIES: Mapping[str, Callable[[Known, Asked], PullPlan]] = {
    "full": _full,
    "rowhash": _rowhash,
    "cursor": _cursor,
    "xmin": _xmin,
}
"""Name in the configuration -> asks what it needs, takes the snapshot, and plans."""
