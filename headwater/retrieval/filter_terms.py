"""The terms of a filter: values, and the fields that they are compared with."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from headwater.errors import ConfigError
from headwater.retrieval.columns import micros
from headwater.retrieval.document_columns import META, Column, Scope, near, place

FIELDS: Final = {
    "source": "text",
    "key": "text",
    "title": "text",
    "url": "text",
    "labels": "text",
    "source_ts": "time",
    "changed_at": "time",
    "known_at": "time",
}
"""The fields that every document has, and the kind of their values."""

ALIASES: Final = {"path": "key", "label": "labels"}
"""Other names of fields."""

_BITS = 128
_PLAIN = re.compile(r"[\w-]+")
_ASKED = {
    "text": "a text such as 'guides/start.md'",
    "time": "a time such as 2026-11-22 or 2026-11-22T10:00:00Z",
}
_ARTICLE = {"text": "a text", "time": "a time", "number": "a number", "boolean": "true or false"}


@dataclass(frozen=True)
class Literal:
    """A value in an expression.

    Attributes:
        kind: text, number, boolean or time.
        value: of that kind; a time is in UTC.
    """

    kind: str
    value: str | int | float | bool | datetime

    @classmethod
    def of(cls, value: str | float | bool | datetime) -> Literal:
        """The literal of a Python value; a time without a zone is UTC.

        Raises:
            ConfigError: it is no number that can be written, or of another type.
        """
        if isinstance(value, bool):
            return cls("boolean", value)
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            try:
                return cls("time", aware.astimezone(UTC))
            except OverflowError:
                raise ConfigError("A filter's time is out of range", obj=str(value)) from None
        if isinstance(value, str):
            return cls("text", value)
        if isinstance(value, float) and math.isfinite(value):
            return cls("number", value)
        if isinstance(value, int) and value.bit_length() <= _BITS:
            return cls("number", value)
        raise ConfigError(
            "A filter compares with texts, numbers, booleans and times",
            obj=type(value).__name__,
            todo="numbers must be finite and below 2 to the power of 128",
        )

    def __str__(self) -> str:
        """As it is written in a filter."""
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        if isinstance(self.value, datetime):
            return self.value.isoformat().replace("+00:00", "Z")
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        return repr(self.value)

    @property
    def comparable(self) -> Any:
        """The value as columns hold it."""
        return micros(self.value) if isinstance(self.value, datetime) else self.value


@dataclass(frozen=True)
class Field:
    """A field of documents.

    Attributes:
        name: one of `FIELDS`, or `meta`.
        path: within the metadata, outermost first; empty for the others.
    """

    name: str
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.name == META) != bool(self.path) or self.name not in {*FIELDS, META}:
            dotted = ".".join((self.name, *self.path))
            raise unknown_field(dotted, 0)

    @property
    def kind(self) -> str | None:
        """Of its values; None where each document decides."""
        return FIELDS.get(self.name)

    def __str__(self) -> str:
        """As it is written in a filter."""
        return ".".join((self.name, *(_quoted(part) for part in self.path)))


def unknown_field(name: str, position: int) -> ConfigError:
    """The error for a name that no document's field has."""
    known = [*FIELDS, *ALIASES]
    return ConfigError(
        "Unknown filter field",
        obj=f"{ascii(name[:100])[1:-1]}{place(position)}",
        todo=f"nearest: {', '.join(near(name, known))}; all: {', '.join(FIELDS)}, "
        "and meta.NAME for a document's own metadata",
    )


def check_kind(at: Field, value: Literal, position: int) -> None:
    """Raise ConfigError unless a field can be compared with a value, as far as its name tells."""
    if at.kind is not None and value.kind != at.kind:
        raise ConfigError(
            f"A filter compares {_ARTICLE[at.kind]} with {_ARTICLE[value.kind]}",
            obj=f"{at}, {str(value)[:60]}{place(position)}",
            todo=f"compare {at} with {_ASKED[at.kind]}",
        )


def bound_column(scope: Scope, at: Field, values: tuple[Literal, ...], position: int) -> Column:
    """The column of a field, once it is known to hold what each value can be compared with.

    Raises:
        ConfigError: no visible document has such metadata, or only of another kind.
        CorruptObjectError: a table is missing or damaged.
    """
    column = scope.column(at.name, at.path, position)
    if at.kind is not None:
        return column
    kinds = column.kinds_in(scope.visible)
    for value in values:
        dated = value.kind == "time" and "text" in kinds and column.has_time(scope.visible)
        if kinds and value.kind not in kinds and not dated:
            held = " and ".join(f"{kind}s" for kind in sorted(kinds))
            inner = "; name a field within, with a dot" if "object" in kinds else ""
            raise ConfigError(
                f"A filter compares {held} with {_ARTICLE[value.kind]}",
                obj=f"{ascii(str(at))[1:-1][:100]}, {ascii(str(value))[1:-1][:60]}{place(position)}",
                todo=f"this metadata holds {held}{inner}",
            )
    return column


def _quoted(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '""') + '"'
