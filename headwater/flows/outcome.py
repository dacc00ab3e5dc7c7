"""How a run went, source by source: for its report and for the run log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from headwater.errors import BusyError, HeadwaterError
from headwater.flows.intake import Intake
from headwater.flows.judge import Judged
from headwater.flows.report import RefreshReport, SourceReport
from headwater.storage.manifest import Manifest, format_time
from headwater.storage.runlog import SourceRun


@dataclass(frozen=True)
class Pulled:
    """The outcome of one pull: an intake, or why there is none.

    Neither means that the source is on hold and was not asked.
    """

    source: str
    intake: Intake | None = None
    error: HeadwaterError | None = None


def source_reports(
    pulls: Sequence[Pulled], judged: Mapping[str, Judged], current: Manifest | None
) -> tuple[SourceReport, ...]:
    """One report per source that was asked, then those that are no longer configured.

    Args:
        pulls: the outcomes, in the order of the configuration.
        judged: what was decided about each source that answered.
        current: the snapshot that is served after the run.
    """
    asked = {pulled.source for pulled in pulls}
    reports = [
        _judged_report(pulled.intake, judged[pulled.source], _live(current, pulled.source))
        if pulled.intake is not None
        else _silent_report(pulled, current)
        for pulled in pulls
    ]
    return (*reports, *(_removed_report(j) for name, j in judged.items() if name not in asked))


def run_entries(report: RefreshReport, *, finished_at: datetime) -> Iterator[SourceRun]:
    """What the run log keeps of a run; a candidate that failed its gates verified nothing."""
    for entry in report.sources:
        stopped = bool(report.candidate) and entry.outcome in ("verified", "partial")
        yield SourceRun(
            run_id=report.run_id,
            source=entry.source,
            outcome="stopped" if stopped else entry.outcome,
            observed_at=report.observed_at,
            finished_at=format_time(finished_at),
            live=entry.live,
            seen=entry.listed,
            added=entry.added,
            changed=entry.changed + entry.touched,
            renamed=entry.renamed,
            removed=entry.removed,
            refused=entry.refused,
            withheld=entry.withheld,
            snapshot=report.snapshot,
            note=entry.note,
        )


def _live(current: Manifest | None, source: str) -> int:
    state = current.sources.get(source) if current else None
    return state.documents if state else 0


def _silent_report(pulled: Pulled, current: Manifest | None) -> SourceReport:
    live, error = _live(current, pulled.source), pulled.error
    if error is None:
        hold = current.sources[pulled.source].hold if current else ""
        return SourceReport(pulled.source, "held", live=live, note=hold)
    return SourceReport(
        pulled.source,
        "busy" if isinstance(error, BusyError) else "failed",
        live=live,
        note=str(error),
        kind=error.kind,
        exit_code=error.exit_code,
    )


def _judged_report(intake: Intake, found: Judged, live: int) -> SourceReport:
    end, changes = intake.end, found.changes
    # Documents whose deletion or change is withheld were not confirmed by anybody.
    verified = (end.complete or end.unchanged) and not found.withheld and not found.held
    return SourceReport(
        intake.source,
        "verified" if verified else "partial",
        listed=intake.listed,
        live=live,
        added=len(changes.added),
        changed=len(changes.changed),
        touched=len(changes.touched),
        renamed=len(changes.renamed),
        removed=len(changes.removed),
        withheld=found.withheld,
        held=found.held,
        refused=found.refused.num_rows if found.refused is not None else 0,
        note="; ".join(part for part in (found.note, end.note) if part),
    )


def _removed_report(found: Judged) -> SourceReport:
    return SourceReport(
        found.changes.source,
        "removed",
        live=found.withheld,
        removed=len(found.changes.removed),
        withheld=found.withheld,
        note=found.note,
    )
