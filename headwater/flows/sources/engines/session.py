"""What the strategies need of a database: one read-only transaction and a few expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

CONNECT_TIMEOUT_S = 15

Columns = list[pa.Array | Sequence[Any]]
"""The values of a batch, one column per selected expression: Arrow's where the engine has them."""


@dataclass(frozen=True)
class Column:
    """A column of the table or query.

    Attributes:
        name: as the database spells it.
        kind: the database's name of its type; empty where it does not say.
        form: how a fetched value is read: `plain`, `json`, `bool` or `binary`.
        clock: whether its values are moments that can be compared with the start of a transaction.
    """

    name: str
    kind: str = ""
    form: str = "plain"
    clock: bool = False


@dataclass(frozen=True)
class InFlight:
    """The transactions of others that were open at one moment.

    Attributes:
        oldest: when the oldest began (UTC); None when no start is known.
        count: how many there were.
        hidden: how many of them do not show when they began.
    """

    oldest: datetime | None = None
    count: int = 0
    hidden: int = 0


@dataclass(frozen=True)
class RowAges:
    """How rows are found that were written since a mark, by the transaction that wrote them.

    Attributes:
        mark: of this transaction's snapshot: all that is not visible in it is at or after it.
        since: a mark -> the condition and its parameters; None when the mark proves nothing.
    """

    mark: str
    since: Callable[[str], tuple[str, tuple[Any, ...]] | None]


class Session(Protocol):
    """A read-only session, and how its database spells the few expressions that are needed.

    What is read before `begin` need not fit together; from `begin` on, all reads see one snapshot.
    """

    def begin(self) -> None:
        """Take the snapshot that everything read from now on belongs to."""

    def in_flight(self) -> InFlight | None:
        """The transactions that are open now; None where the database does not say."""
        return None

    def quote(self, name: str) -> str:
        """The identifier, quoted."""
        return '"' + name.replace('"', '""') + '"'

    def escape(self, query: str) -> str:
        """The user's query, as it must stand inside a statement with parameters."""
        return query

    def columns(self, relation: str, table: str | None) -> tuple[Column, ...]:
        """The columns of `relation`, in order; `table` is its name when it is a table."""
        ...

    def value(self, column: Column) -> str:
        """The expression of a value that is rendered."""
        return self.quote(column.name)

    def text(self, column: Column) -> str:
        """The expression of a value as text, for keys."""
        ...

    def cursor(self, column: Column, expression: str) -> str:
        """`expression`, a value of the column, as it is kept in a watermark."""
        return expression

    def bound(self, column: Column, index: int) -> str:
        """Parameter `index` (from 0) as a value comparable with the column."""
        ...

    def parameter(self, index: int) -> str:
        """Parameter `index` (from 0) as text."""
        ...

    def same_key(self, column: Column, index: int) -> str:
        """Whether the column is parameter `index`, the text of a value that the column has."""
        return f"{self.text(column)} = {self.parameter(index)}"

    def clock(self) -> str | None:
        """The expression of the server's clock as ISO text in UTC; None where nobody asks."""
        return None

    def instant(self, column: Column) -> str:
        """The column as source time, comparable with `bound` of `moment`."""
        return self.quote(column.name)

    def moment(self, when: datetime) -> Any:
        """A UTC time as a parameter."""
        ...

    def row_hash(self, columns: Sequence[Column]) -> str | None:
        """The expression of a hash over these columns, as text; None where there is none."""
        return None

    def row_ages(self) -> RowAges | None:
        """How rows are found by their transaction; None where the database cannot tell."""
        return None

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Columns]:
        """The rows of a statement, at most `BATCH_ROWS` at a time."""
        ...


def transpose(rows: Sequence[Sequence[Any]]) -> Columns:
    """Rows as columns."""
    return [list(column) for column in zip(*rows, strict=True)]
