"""What a database source remembers between two pulls, as one JSON text without a secret."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from headwater.errors import SourceDataError
from headwater.flows.sources.drift import ColumnTypes


@dataclass(frozen=True)
class Mark:
    """A value of the cursor that nothing will fall below any more, under a condition.

    Attributes:
        value: of the cursor; None for below everything.
        at: the condition: no transaction that began before this moment is open. None for no
            condition.
    """

    value: Any = None
    at: datetime | None = None


@dataclass(frozen=True)
class Watermark:
    """Where the next pull starts from.

    Attributes:
        strategy: that wrote it.
        signature: of how rows were rendered; with another one, old rows must be read again.
        columns: that the records were made from.
        marks: oldest first; the next pull starts at the first. Empty: at the beginning.
    """

    strategy: str
    signature: str
    columns: ColumnTypes = ()
    marks: tuple[Mark, ...] = ()


def write_watermark(watermark: Watermark) -> str:
    """The JSON of a watermark.

    Raises:
        SourceDataError: a value of the cursor is of a type that cannot be kept.
    """
    data: dict[str, Any] = {
        "strategy": watermark.strategy,
        "config": watermark.signature,
        "columns": [list(column) for column in watermark.columns],
    }
    if watermark.marks:
        data["marks"] = [_write_mark(mark) for mark in watermark.marks]
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def read_watermark(text: str | None) -> Watermark | None:
    """The watermark; None when there is none, or it cannot be read."""
    try:
        data = json.loads(text or "null")
        return Watermark(
            strategy=data["strategy"],
            signature=data["config"],
            columns=tuple((str(name), str(kind)) for name, kind in data["columns"]),
            marks=tuple(_read_mark(mark) for mark in data.get("marks", ())),
        )
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return None


def _write_mark(mark: Mark) -> dict[str, Any]:
    value, kind = mark.value, "plain"
    if isinstance(value, datetime | date):
        kind = "datetime" if isinstance(value, datetime) else "date"
        value = value.isoformat()
    elif isinstance(value, Decimal):
        kind, value = "decimal", str(value)
    elif not (value is None or isinstance(value, str | int | float)):
        raise SourceDataError(
            "The cursor is of a type that cannot be kept",
            obj=type(value).__name__,
            todo="name a number, a text or a timestamp column as the cursor",
        )
    written = {"value": value, "type": kind}
    return written if mark.at is None else {**written, "at": mark.at.isoformat()}


def _read_mark(data: dict[str, Any]) -> Mark:
    at = data.get("at")
    return Mark(
        value=_KINDS[data["type"]](data["value"]),
        at=None if at is None else datetime.fromisoformat(at),
    )


_KINDS: dict[str, Any] = {
    "plain": lambda value: value,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "decimal": Decimal,
}
