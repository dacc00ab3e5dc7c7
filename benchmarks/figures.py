"""A figure: what was measured, and what it was meant to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        what: was measured.
        value: None when it could not be measured; `note` says why.
        unit: of the value.
        most: the target is at most this; None for no upper bound.
        least: the target is at least this; None for no lower bound.
        note: how it was measured, or what it consists of.
        digits: shown behind the point.
    """

    what: str
    value: float | None
    unit: str = ""
    most: float | None = None
    least: float | None = None
    note: str = ""
    digits: int = 2

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None where there is none, or nothing was measured."""
        if self.value is None or (self.most is None and self.least is None):
            return None
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    @property
    def measured(self) -> str:
        """The value as text."""
        return "skipped" if self.value is None else self._text(self.value)

    @property
    def target(self) -> str:
        """The bounds as text."""
        if self.most is not None and self.most == self.least:
            return f"= {self._text(self.most)}"
        bounds = [(sign, b) for sign, b in (("≥", self.least), ("≤", self.most)) if b is not None]
        return " and ".join(f"{sign} {self._text(bound)}" for sign, bound in bounds)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "ok": self.ok}

    def _text(self, value: float) -> str:
        return f"{value:,.{self.digits}f} {self.unit}".rstrip()


Measurement = Callable[[Path], Iterator[Figure]]
"""Yields figures as they are found. It is given a folder that is kept between runs."""


def skipped(what: str, why: str) -> Figure:
    """The figure of what could not be measured."""
    return Figure(what, None, note=why)
