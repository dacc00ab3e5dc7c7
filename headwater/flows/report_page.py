"""The HTML report of a run: from what the refresh knows to the page in `reports/`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from headwater.config import KnowledgeBase
from headwater.flows.draft import Draft, Step
from headwater.flows.judge import Judged
from headwater.flows.report import RefreshReport, SourceReport
from headwater.storage import files
from headwater.validation.report import (
    RefusedRecord,
    ReportData,
    ReportedSource,
    render_report,
)


def write_report(
    kb: KnowledgeBase,
    report: RefreshReport,
    step: Step,
    draft: Draft,
    judged: Mapping[str, Judged],
) -> str:
    """Write `reports/<run_id>.html`; returns its path."""
    finished = datetime.now(UTC)
    refused: dict[str, list[RefusedRecord]] = {}
    for row in step.quarantine.to_pylist():
        record = RefusedRecord(row["key"], row["rule"], row["reason"], row["since"])
        refused.setdefault(row["source"], []).append(record)
    data = ReportData(
        knowledge_base=kb.config.name,
        run_id=report.run_id,
        started=finished - timedelta(seconds=report.seconds),
        finished=finished,
        snapshot=report.snapshot if report.published else None,
        not_published="" if report.published else f"{report.candidate} did not pass its gates",
        texts_embedded=report.embedded,
        sources=tuple(
            _source(entry, tuple(refused.get(entry.source, ())), draft, judged.get(entry.source))
            for entry in report.sources
        ),
        gates=draft.manifest.gates,
    )
    path = kb.root / "reports" / f"{report.run_id}.html"
    files.replace(path, render_report(data).encode(), tmp=kb.store / "tmp")
    return str(path)


def _source(
    entry: SourceReport,
    refused: tuple[RefusedRecord, ...],
    draft: Draft,
    judged: Judged | None,
) -> ReportedSource:
    return ReportedSource(
        name=entry.source,
        status=entry.outcome,
        note=entry.note,
        pulled=entry.listed,
        added=entry.added,
        changed=entry.changed + entry.touched,
        renamed=entry.renamed,
        removed=entry.removed,
        withheld=entry.withheld,
        withheld_reason=entry.note if entry.withheld else "",
        quarantined=refused,
        checks=(*(judged.results if judged else ()), *draft.checks.get(entry.source, ())),
    )
