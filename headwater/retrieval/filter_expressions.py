"""Filters as values: what an expression is, how it reads as text, and which documents it takes.

Logic has two values. A comparison is true where any value of the field passes it, so that a list
matches if one of its elements does, and a document without a value passes none; `!=` is exactly
`not … =`.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from headwater.errors import ConfigError
from headwater.retrieval.document_columns import Scope, place, time_of
from headwater.retrieval.filter_terms import Field, Literal, bound_column, check_kind

MAX_DEPTH: Final = 50
"""How deeply an expression may be nested."""

COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@runtime_checkable
class Expression(Protocol):
    """A condition on documents. Immutable, hashable; its text parses to an equal expression."""

    @property
    def depth(self) -> int:
        """How many levels it has."""
        ...

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true: bool (documents,).

        Raises:
            ConfigError: no visible document has such metadata, or only of another kind.
            CorruptObjectError: a table is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class Compare:
    """A field compared with a value; `op` is one of `COMPARISONS`."""

    field: Field
    op: str
    value: Literal
    position: int = dataclasses.field(default=0, compare=False, repr=False)
    depth: int = dataclasses.field(default=1, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.op not in COMPARISONS:
            raise ConfigError(
                "Unknown comparison in a filter",
                obj=f"{self.op}{place(self.position)}",
                todo=f"there are {' '.join(COMPARISONS)}",
            )
        check_kind(self.field, self.value, self.position)
        if self.value.kind == "boolean" and self.op not in ("=", "!="):
            raise ConfigError(
                "A filter cannot order true and false",
                obj=f"{self}{place(self.position)}",
                todo="use = or !=",
            )

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        column = bound_column(scope, self.field, (self.value,), self.position)
        if self.op == "!=":
            return ~column.matching(_passing("=", self.value))
        return column.matching(_passing(self.op, self.value))

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field} {self.op} {self.value}"


@dataclass(frozen=True)
class In:
    """A field equal to one of some values."""

    field: Field
    values: tuple[Literal, ...]
    position: int = dataclasses.field(default=0, compare=False, repr=False)
    depth: int = dataclasses.field(default=1, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError(
                "A filter's list is empty",
                obj=f"{self.field}{place(self.position)}",
                todo="name at least one value",
            )
        for value in self.values:
            check_kind(self.field, value, self.position)

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        column = bound_column(scope, self.field, self.values, self.position)
        wanted = {(v.kind, v.comparable) for v in self.values}
        dated = any(v.kind == "time" for v in self.values)

        def test(kind: str, value: Any) -> bool:
            if (kind, value) in wanted:
                return True
            return dated and ("time", time_of(kind, value)) in wanted

        return column.matching(test)

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field} in ({', '.join(str(v) for v in self.values)})"


@dataclass(frozen=True)
class Like:
    r"""A text field that has a pattern's form: `%` stands for any text, `\%` and `\\` for themselves."""

    field: Field
    pattern: str
    position: int = dataclasses.field(default=0, compare=False, repr=False)
    depth: int = dataclasses.field(default=1, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_kind(self.field, Literal.of(self.pattern), self.position)

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        column = bound_column(scope, self.field, (Literal.of(self.pattern),), self.position)
        pieces = _pieces(self.pattern)
        return column.matching(lambda kind, value: kind == "text" and _fits(value, pieces))

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field} like {Literal.of(self.pattern)}"


@dataclass(frozen=True)
class IsNull:
    """A field without a value: missing, null, or an empty list."""

    field: Field
    position: int = dataclasses.field(default=0, compare=False, repr=False)
    depth: int = dataclasses.field(default=1, init=False, compare=False, repr=False)

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        return ~scope.column(self.field.name, self.field.path, self.position).filled()

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field} is null"


@dataclass(frozen=True)
class Not:
    """The opposite."""

    operand: Expression
    depth: int = dataclasses.field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _set_depth(self, (self.operand,))

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        return ~self.operand.mask(scope)

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"not {_grouped(self.operand, (And, Or))}"


@dataclass(frozen=True)
class And:
    """True where all of at least two are."""

    operands: tuple[Expression, ...]
    depth: int = dataclasses.field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _set_depth(self, self.operands, least=2)

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        # All are evaluated: what is wrong with one must not depend on the others.
        found: np.ndarray = np.logical_and.reduce([o.mask(scope) for o in self.operands])
        return found

    def __str__(self) -> str:
        """As it is written in a filter."""
        return " and ".join(_grouped(o, (And, Or)) for o in self.operands)


@dataclass(frozen=True)
class Or:
    """True where one of at least two is."""

    operands: tuple[Expression, ...]
    depth: int = dataclasses.field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _set_depth(self, self.operands, least=2)

    def mask(self, scope: Scope) -> np.ndarray:
        """The documents for which it is true."""
        found: np.ndarray = np.logical_or.reduce([o.mask(scope) for o in self.operands])
        return found

    def __str__(self) -> str:
        """As it is written in a filter."""
        return " or ".join(_grouped(o, (Or,)) for o in self.operands)


def too_deep(position: int = 0) -> ConfigError:
    """The error for an expression with more than `MAX_DEPTH` levels."""
    return ConfigError(
        "The filter is nested too deeply",
        obj=f"more than {MAX_DEPTH} levels{place(position)}",
        todo="write it with fewer parentheses; lists of values belong into 'in (…)'",
    )


def _set_depth(node: Not | And | Or, operands: tuple[Expression, ...], *, least: int = 1) -> None:
    if len(operands) < least:
        raise ConfigError(f"'{type(node).__name__.lower()}' needs at least {least} conditions")
    depth = 1 + max(operand.depth for operand in operands)
    if depth > MAX_DEPTH:
        raise too_deep()
    object.__setattr__(node, "depth", depth)


def _passing(op: str, literal: Literal) -> Callable[[str, Any], bool]:
    compare, kind, wanted = COMPARISONS[op], literal.kind, literal.comparable
    if kind != "time":
        return lambda of, value: of == kind and compare(value, wanted)

    def test(of: str, value: Any) -> bool:
        when = time_of(of, value)
        return when is not None and compare(when, wanted)

    return test


def _pieces(pattern: str) -> list[str]:
    """The texts between the `%` of a pattern."""
    pieces = [""]
    for part in re.findall(r"\\[%\\]|%|[^%\\]+|\\", pattern):
        if part == "%":
            pieces.append("")
        else:
            pieces[-1] += part[1:] if part in ("\\%", "\\\\") else part
    return pieces


def _fits(text: str, pieces: list[str]) -> bool:
    """Whether the pieces stand in a text, in order, the first at its start and the last at its end."""
    first, *between = pieces
    if not between:
        return text == first
    last = between.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in between:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _grouped(operand: Expression, kinds: tuple[type, ...]) -> str:
    return f"({operand})" if isinstance(operand, kinds) else str(operand)
