"""Gates: pure decisions on a candidate snapshot, before it may become current."""

from __future__ import annotations

from collections import Counter
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
    limit = ceiling(live, max_count=max_count, max_share=max_share)
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


def ceiling(size: int, *, max_count: int, max_share: float) -> float:
    """How many of `size` records may be concerned: `max_count`, or the share if that is more."""
    # Rounded, because 0.29 * 100 is 28.999999999999996.
    return max(max_count, round(max_share * size, 6))


@dataclass(frozen=True)
class ChangeDecision:
    """Whether changes that look like damage may replace what is served, and why.

    Attributes:
        allowed: whether they may.
        reason: what was seen, as one line.
    """

    allowed: bool
    reason: str


def is_stub(before: int, after: int, *, below: float, min_chars: int) -> bool:
    """Whether a document that had `before` characters and has `after` lost most of its content."""
    return before >= min_chars and after < below * before


def content_shrink(
    *,
    live: int,
    shrunk: int,
    example: str,
    max_count: int,
    max_share: float,
    approved: int,
) -> ChangeDecision:
    """Decide whether documents that shrank to stubs may replace what they were.

    Args:
        live: documents of the source before the refresh.
        shrunk: how many of them an extract replaces by a stub (`is_stub`) or by one same text.
        example: one of them, for the reason.
        max_count: this many may always shrink.
        max_share: or this share of `live`, 0 to 1.
        approved: how many a person approved: a ceiling.
    """
    limit = ceiling(live, max_count=max_count, max_share=max_share)
    why = f"{shrunk} of {live} documents were replaced by stubs"
    if shrunk <= limit:
        return ChangeDecision(True, f"{why}, within {limit:g}")
    return _unless_approved(f"{why} ({example}), more than {limit:g}", shrunk, approved)


@dataclass(frozen=True)
class LostField:
    """A field that changed records had and have no more, as far as a sample tells.

    Attributes:
        name: of the field.
        had: records of the sample that had it before.
        lost: those of them that lack it now.
        sampled: size of the sample.
    """

    name: str
    had: int
    lost: int
    sampled: int

    @property
    def everywhere(self) -> bool:
        """Whether nearly every record had it: a new record is then expected to have it too."""
        return self.had >= _NEARLY_ALL * self.sampled


_NEARLY_ALL = 0.9


def lost_fields(
    pairs: Sequence[tuple[frozenset[str], frozenset[str]]], *, changed: int, limit: float
) -> tuple[LostField, ...]:
    """The fields that more than `limit` of the changed records lost, worst first.

    A field counts when nearly all sampled records that had it lack it now: a rename takes it from
    all of them, whereas an edit takes it from some. Fields that are only new cost nobody anything.

    Args:
        pairs: the fields of each sampled record before and after.
        changed: how many records the sample stands for.
        limit: this many may lose a field.
    """
    had: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for before, after in pairs:
        had.update(before)
        lost.update(before - after)
    found = [LostField(name, had[name], n, len(pairs)) for name, n in lost.items()]
    gone = [
        field
        for field in found
        if field.lost >= _NEARLY_ALL * field.had and field.lost / len(pairs) * changed > limit
    ]
    return tuple(sorted(gone, key=lambda field: (-field.lost, field.name)))


def schema_drift(
    *, concerned: int, lost: Sequence[LostField], gained: Sequence[str], approved: int
) -> ChangeDecision:
    """Decide whether records that lost a field may replace what they were.

    Args:
        concerned: how many of the extract's records lack a field that was lost.
        lost: what `lost_fields` found.
        gained: fields that nearly all of them have now and did not have before.
        approved: how many a person approved: a ceiling.
    """
    if not lost:
        return ChangeDecision(True, "no field was lost")
    names = ", ".join(repr(field.name) for field in lost[:3])
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    now = f"; new: {', '.join(map(repr, gained[:3]))}" if gained else ""
    plural, were = ("fields", "were") if len(lost) > 1 else ("field", "was")
    why = f"{concerned} records lack the {plural} {names}{more} that {were} there before{now}"
    return _unless_approved(why, concerned, approved)


def _unless_approved(why: str, count: int, approved: int) -> ChangeDecision:
    if approved >= count:
        return ChangeDecision(True, f"{why}; {approved} were approved")
    given = f"; the approval for {approved} does not cover them" if approved > 0 else ""
    return ChangeDecision(False, f"{why}{given}")


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
