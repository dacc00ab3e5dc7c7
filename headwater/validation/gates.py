"""Gates: pure decisions on a candidate snapshot, before it may become current."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headwater.storage.manifest import Gate
from headwater.validation.verdicts import CheckResult

CANARY_MIN_COSINE: Final = 0.9999
_NAMED = 5


GateResult = Gate
"""What a gate said: the very value that the snapshot's manifest keeps."""


@dataclass(frozen=True)
class DeletionDecision:
    """Whether the missing records of a source may be deleted, and why."""

    allowed: bool
    reason: str


def stops(gate: GateResult) -> bool:
    """Whether a gate must stop the publication; others are reported."""
    return not gate.passed and gate.severity == "critical"


def deletion_guard(
    *,
    source: str,
    live: int,
    missing: int,
    extract_empty: bool,
    max_count: int,
    max_share: float,
    approved: int,
) -> DeletionDecision:
    """Decide whether records that a complete extract no longer lists may be deleted.

    Args:
        source: the source's name, for the message.
        live: its live documents before the refresh.
        missing: how many of them the extract lacks, renames already netted out.
        extract_empty: the extract listed nothing at all.
        max_count: this many may always go.
        max_share: or this share of `live`, 0 to 1.
        approved: how many deletions a person approved: a ceiling, so that an approval for 20 does
            not let 2000 go.
    """
    if missing <= 0:
        return DeletionDecision(True, f"{source}: nothing is missing")
    # Rounded, because 0.29 * 100 is 28.999999999999996.
    limit = max(max_count, round(max_share * live, 6))
    wiped = extract_empty and live > 0
    if not wiped and missing <= limit:
        return DeletionDecision(
            True, f"{source}: {missing} of {live} are missing, within {limit:g}"
        )
    why = (
        f"the extract is empty, and the source had {live}"
        if wiped
        else f"{missing} of {live} are missing, more than {limit:g}"
    )
    if approved >= missing:
        return DeletionDecision(True, f"{source}: {why}; {approved} were approved")
    given = f"; the approval for {approved} does not cover them" if approved > 0 else ""
    return DeletionDecision(False, f"{source}: {why}{given}")


def index_complete(live_texts: int, indexed_texts: int, missing: Sequence[str]) -> GateResult:
    """Whether the index holds every live text, and nothing besides.

    Args:
        live_texts: distinct texts of the candidate's live chunks.
        indexed_texts: distinct live texts the index answers from.
        missing: ids of live texts that the index lacks.
    """
    passed = not missing and live_texts == indexed_texts
    detail = f"{indexed_texts} of {live_texts} live texts are indexed"
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        detail += f"; missing: {', '.join(missing[:_NAMED])}{more}"
    elif indexed_texts > live_texts:
        detail += ": the index would answer from texts that are gone"
    return GateResult("index-complete", passed, "critical", detail)


def canary(cosine: float) -> GateResult:
    """Whether the model still embeds the canary texts as it did when the store was built.

    Args:
        cosine: the lowest cosine similarity over the canary texts; not a number fails.
    """
    passed = math.isfinite(cosine) and cosine >= CANARY_MIN_COSINE
    relation = "at least" if passed else "below"
    detail = f"the lowest canary cosine is {cosine:.6f}, {relation} {CANARY_MIN_COSINE}"
    return GateResult("embedding-canary", passed, "critical", detail)


def critical_tables(results: Iterable[CheckResult], *, source: str = "") -> GateResult:
    """Whether no critical table expectation of a source failed or raised."""
    every = [result for result in results if result.level == "table"]
    stopping = [result for result in every if result.stops]
    said = "; ".join(
        f"{result.type}{f' ({result.column})' if result.column else ''} {result.status}"
        f"{f': {result.detail}' if result.detail else ''}"
        for result in stopping
    )
    detail = said or f"{len(every)} table expectations, no critical one failed"
    return GateResult("critical-tables", not stopping, "critical", detail, source)


def computable_contract(broken: Sequence[str], *, source: str = "") -> GateResult:
    """Whether every critical row expectation could be computed (`RowVerdict.broken` is empty)."""
    detail = "; ".join(broken) or "every critical row expectation was computed"
    return GateResult("computable-contract", not broken, "critical", detail, source)
