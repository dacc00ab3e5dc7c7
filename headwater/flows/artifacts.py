"""What a run leaves in Prefect beside its state: a table, a pointer to the report, an event.

All of it comes after the publication and is only for people and automations, so none of it may fail
a run: what cannot be sent is logged and forgotten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from headwater.config import KnowledgeBase
from headwater.flows.report import RefreshReport

PUBLISHED: Final = "headwater.snapshot.published"
"""The event after a publication; its payload holds `kb` (a path), `snapshot` and `run_id`."""

_COLUMNS = ("source", "outcome", "listed", "live", "added", "changed", "removed", "withheld")
_MORE = ("refused", "note")


def resource_of(name: str) -> str:
    """The id under which events name the knowledge base `name`."""
    return f"headwater.kb.{name}"


def publish_artifacts(kb: KnowledgeBase, report: RefreshReport) -> None:
    """Leave a table of what changed per source, the way to the report, and the event."""
    from prefect.logging import get_logger

    for leave in (_leave_table, _leave_report, _emit_event):
        try:
            leave(kb, report)
        except Exception as error:  # noqa: BLE001 - whatever it is, the snapshot is published
            get_logger("headwater").warning("%s: %s", leave.__name__.strip("_"), error)


def changes_table(report: RefreshReport) -> list[dict[str, Any]]:
    """One row per source, in the columns of the terminal's table."""
    return [
        {column: getattr(entry, column) for column in (*_COLUMNS, *_MORE)}
        for entry in report.sources
    ]


def _leave_table(kb: KnowledgeBase, report: RefreshReport) -> None:
    from prefect.artifacts import create_table_artifact

    create_table_artifact(
        table=changes_table(report),
        key=_key(kb, "sources"),
        description=f"What {report.run_id} found; snapshot {report.snapshot or 'none'}",
    )


def _leave_report(kb: KnowledgeBase, report: RefreshReport) -> None:
    from prefect.artifacts import create_markdown_artifact

    if not report.report:
        return
    page = Path(report.report).resolve()
    create_markdown_artifact(
        markdown=f"[{page.name}]({page.as_uri()})\n\n`{page}`\n",
        key=_key(kb, "report"),
        description=f"The report of {report.run_id}",
    )


def _emit_event(kb: KnowledgeBase, report: RefreshReport) -> None:
    from prefect.events import emit_event

    if not report.published:
        return
    name = kb.config.name
    emit_event(
        event=PUBLISHED,
        resource={"prefect.resource.id": resource_of(name), "prefect.resource.name": name},
        payload={
            "kb": str(kb.root.resolve()),
            "snapshot": report.snapshot,
            "run_id": report.run_id,
        },
    )


def _key(kb: KnowledgeBase, what: str) -> str:
    return f"headwater-{re.sub(r'[^a-z0-9]+', '-', kb.config.name)}-{what}"
