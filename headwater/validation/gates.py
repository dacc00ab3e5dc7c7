"""Gates: pure decisions on a candidate snapshot, before it may become current."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headwater.storage.manifest import Gate
from headwater.validation.verdicts import CheckResult


@dataclass(frozen=True)
class DeletionDecision:
    """Whether the missing records of a source may be deleted, and why."""

    allowed: bool
    reason: str


def deletion_guard(
    *,
    live: int,
    missing: int,
    extract_empty: bool,
    max_count: int,
    max_share: float,
    approved: int,
) -> DeletionDecision:
    """Decide whether records that a complete extract no longer lists may be deleted.

    Args:
        live: its live documents before the refresh.
        missing: how many of them the extract lacks, renames already netted out.
        extract_empty: the extract listed nothing at all.
        max_count: this many may always go.
        max_share: or this share of `live`, 0 to 1.
        approved: how many deletions a person approved: a ceiling, so that an approval for 20 does
            not let 2000 go.
    """
    if missing <= 0:
        return DeletionDecision(True, "nothing is missing")
    # Rounded, because 0.29 * 100 is 28.999999999999996.
    limit = max(max_count, round(max_share * live, 6))
    wiped = extract_empty and live > 0
    if not wiped and missing <= limit:
        return DeletionDecision(True, f"{missing} of {live} are missing, within {limit:g}")
    why = (
        f"the extract is empty, and the source had {live}"
        if wiped
        else f"{missing} of {live} are missing, more than {limit:g}"
    )
    if approved >= missing:
        return DeletionDecision(True, f"{why}; {approved} were approved")
    given = f"; the approval for {approved} does not cover them" if approved > 0 else ""
    return DeletionDecision(False, f"{why}{given}")


def critical_tables(results: Iterable[CheckResult], *, source: str = "") -> Gate:
    """Whether no critical table expectation of a source failed or raised."""
    every = [result for result in results if result.level == "table"]
    stopping = [result for result in every if result.stops]
    said = "; ".join(
        f"{result.type}{f' ({result.column})' if result.column else ''} {result.status}"
        f"{f': {result.detail}' if result.detail else ''}"
        for result in stopping
    )
    detail = said or f"{len(every)} table expectations, no critical one failed"
    return Gate("critical-tables", not stopping, "critical", detail, source)


def computable_contract(broken: Sequence[str], *, source: str = "") -> Gate:
    """Whether every critical row expectation could be computed (`RowVerdict.broken` is empty)."""
    detail = "; ".join(broken) or "every critical row expectation was computed"
    return Gate("computable-contract", not broken, "critical", detail, source)
