"""The HTML report of a run: from what the refresh knows to the page in `reports/`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from headwater.config import KnowledgeBase
from headwater.errors import StorageUnavailableError
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

_LOG = logging.getLogger(__name__)


def write_report(
    kb: KnowledgeBase,
    report: RefreshReport,
    step: Step,
    draft: Draft,
    judged: Mapping[str, Judged],
) -> str:
    """Write `reports/<run_id>.html`; returns its path, or nothing when it cannot be written.

    By then the snapshot is published, and a missing page takes nothing of it back.
    """
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
    try:
        # Drafted beside its target: the store may be on another disk.
        files.replace(path, render_report(data).encode(), tmp=path.parent)
    except StorageUnavailableError as error:
        _LOG.warning("the report was not written: %s: %s", error.what, error.obj)
        return ""
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
