"""The values a check hands back: reasons for records, results for expectations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PASSED: Final = "passed"
FAILED: Final = "failed"
RAISED: Final = "raised"
"""The expectation could not be computed: counted as failed, never as passed."""

_SHOWN = 80
_NULLS = ("nan", "NaT", "<NA>")  # how pandas writes a null


@dataclass(frozen=True)
class Reason:
    """Why one record is refused or remarked on.

    Attributes:
        rule: the built-in rule (`text-empty`) or the expectation's type; stable, for programs.
        detail: one readable sentence.
        severity: `critical` refuses the record; `warning` and `info` only report.
        column: the column or columns concerned; empty for the record as a whole.
        observed: the value that was found, shortened to 80 characters.
    """

    rule: str
    detail: str
    severity: str = "critical"
    column: str = ""
    observed: str = ""


@dataclass(frozen=True)
class CheckResult:
    """How one expectation fared.

    Attributes:
        type: the expectation's type.
        column: the column or columns it reads; empty for the table as a whole.
        severity: `critical`, `warning` or `info`.
        status: `passed`, `failed` or `raised` (which counts as failed).
        level: `rows` or `table`.
        checked: rows looked at.
        failed: rows that do not conform; they may be above 0 although the expectation passed, when
            its `mostly` allows some.
        detail: what was found, or what raised.
    """

    type: str
    column: str
    severity: str
    status: str
    level: str
    checked: int = 0
    failed: int = 0
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was computed and held."""
        return self.status == PASSED

    @property
    def stops(self) -> bool:
        """Whether it must stop the publication of the source.

        A critical row expectation that merely fails does not: its rows go to quarantine.
        """
        hopeless = FAILED if self.level == "table" else RAISED
        return self.severity == "critical" and self.status in (RAISED, hopeless)


@dataclass(frozen=True)
class RowVerdict:
    """What the row expectations say of some records.

    Attributes:
        failures: row index -> every reason, critical or not. A row that is absent is clean.
        results: one per row expectation, in the order of the suite.
        broken: one sentence per critical expectation that could not be computed. When there is one,
            nothing is known about the records, and the source must not be published.
    """

    failures: Mapping[int, tuple[Reason, ...]] = field(default_factory=dict, hash=False)
    results: tuple[CheckResult, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[int, ...]:
        """The rows that go to quarantine, ascending: those with a critical reason."""
        return tuple(
            sorted(
                row
                for row, reasons in self.failures.items()
                if any(reason.severity == "critical" for reason in reasons)
            )
        )


def shown(value: Any) -> str:
    """A value as at most 80 readable characters; a null is `null`."""
    if value is None or (not isinstance(value, str) and str(value) in _NULLS):
        return "null"
    if isinstance(value, tuple | list):
        text = "(" + ", ".join(shown(part) for part in value) + ")"
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        text = str(int(value))
    else:
        text = str(value)
    text = " ".join(text.replace("\x00", "\\0").split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
