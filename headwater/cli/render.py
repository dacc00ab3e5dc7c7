"""Values as text for people. Tables by rich; colour only where the terminal has it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from headwater.flows.freshness import SourceFreshness
    from headwater.flows.repair import Repair
    from headwater.flows.report import RefreshReport
    from headwater.retrieval import Hit
    from headwater.retrieval.datasets.emission import Emission
    from headwater.retrieval.datasets.status import DatasetStatus
    from headwater.storage.history import Diff, LogEntry
    from headwater.storage.store import Store
    from headwater.storage.verify import Verification

_COUNTS = ("listed", "added", "changed", "touched", "renamed", "removed", "withheld", "refused")
_FOLDING = ("key", "reason", "cause", "state")
_GOOD, _BAD, _DIM = "green", "bold red", "dim"


def _out() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    # A pipe has no width: tables that wrap at 80 columns there cannot be read or grepped.
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in right
        # A name or a time that is broken in two cannot be read or copied; a reason may fold.
        table.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric or column not in _FOLDING,
        )
    return table


def _when(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}Z" if value else "never"


def show_refresh(report: RefreshReport) -> None:
    """What a refresh did, or would do."""
    out = _out()
    shown = [n for n in _COUNTS if n == "listed" or any(getattr(e, n) for e in report.sources)]
    table = _table("source", "outcome", *shown, "live", right=(*shown, "live"))
    for entry in report.sources:
        style = _BAD if entry.outcome in ("failed", "busy") or entry.withheld else ""
        counts = [str(getattr(entry, name) or "·") for name in shown]
        table.add_row(entry.source, entry.outcome, *counts, str(entry.live), style=style)
    out.print(table)
    for entry in report.sources:
        if entry.note:
            out.print(f"{entry.source}: {escape(entry.note)}", style=_DIM)
        if entry.withheld:
            out.print(
                f"{entry.source}: {entry.withheld} deletions wait for you: "
                f"headwater approve-deletes {entry.source}",
                style=_BAD,
            )
    for gate in report.gates:
        if not gate.passed:
            where = f"{gate.source}: " if gate.source else ""
            style = _BAD if gate.severity == "critical" else "yellow"
            out.print(f"{where}{gate.severity}: {gate.name}: {escape(gate.detail)}", style=style)
    out.print(_conclusion(report))
    if report.report:
        out.print(f"report: {report.report}", style=_DIM)


def _conclusion(report: RefreshReport) -> str:
    cost = f"{report.embedded} texts embedded of {report.texts}, {report.seconds:.1f} s"
    if report.dry_run:
        return f"plan: {report.embedded} texts to embed; nothing was written"
    if report.published:
        return f"[{_GOOD}]published {report.snapshot}[/]: {report.documents} documents, {cost}"
    if report.candidate:
        return (
            f"[{_BAD}]not published[/]: {report.candidate} failed a gate; look at it with "
            f"'headwater search … --as-of {report.candidate}'; {report.snapshot or 'nothing'} is served"
        )
    return f"nothing new; {report.snapshot or 'nothing'} is served ({report.seconds:.1f} s)"


def show_hits(hits: Sequence[Hit]) -> None:
    """Search results, best first."""
    out = _out()
    if not hits:
        out.print("nothing found")
    for rank, hit in enumerate(hits, 1):
        path = " > ".join(hit.heading_path)
        title = hit.title or hit.key
        out.print(f"[bold]{rank}. {escape(title)}[/]  [{_DIM}]{hit.score:.3f}[/]")
        if path and path != title:
            out.print(f"   {escape(path)}", style="cyan")
        body = textwrap.shorten(" ".join(hit.text.split()), 320, placeholder=" …")
        out.print(textwrap.indent(textwrap.fill(escape(body), 96), "   "))
        more = f", also in {len(hit.others)} more" if hit.others else ""
        out.print(f"   {escape(hit.cite())}{more}", style=_DIM)
        if hit.held_back:
            out.print("   a newer version failed validation and is in quarantine", style="yellow")


def show_status(store: Store, found: Sequence[SourceFreshness]) -> None:
    """Freshness per source."""
    from headwater.config import format_duration

    out = _out()
    table = _table(
        *("source", "documents", "last verified", "last change", "objective", "state"),
        right=("documents",),
    )
    for entry in found:
        state = "fresh" if entry.fresh else "STALE"
        state += f", on hold ({entry.hold})" if entry.hold else ""
        table.add_row(
            entry.source,
            str(entry.documents),
            _when(entry.last_verified),
            _when(entry.last_change),
            format_duration(entry.objective),
            state,
            style="" if entry.fresh else _BAD,
        )
    out.print(table)
    for entry in found:
        if entry.last_outcome not in ("verified", "partial"):
            out.print(f"{entry.source}: last run {entry.last_outcome}: {escape(entry.last_note)}")
        if entry.quarantined:
            out.print(
                f"{entry.source}: {entry.quarantined} in quarantine: headwater quarantine list"
            )
        if entry.withheld:
            out.print(
                f"{entry.source}: {entry.withheld} deletions wait: "
                f"headwater approve-deletes {entry.source}"
            )
    out.print(f"snapshot {store.current_name() or '(none)'}", style=_DIM)
    if candidates := store.candidates():
        out.print(f"candidates that were not published: {', '.join(candidates)}", style=_DIM)


def show_log(entries: Sequence[LogEntry]) -> None:
    """Snapshots, newest first."""
    counts = ("documents", "chunks", "texts", "quarantined")
    table = _table("snapshot", "observed at", "cause", *counts, right=counts)
    for entry in entries:
        cause = f"{entry.cause} to {entry.restores}" if entry.restores else entry.cause
        numbers = [str(getattr(entry, name)) for name in counts]
        table.add_row(entry.name, _when(entry.observed_at), cause, *numbers)
    _out().print(table)


def show_diff(found: Diff) -> None:
    """The documents that differ."""
    out = _out()
    marks = {"added": "+", "removed": "-", "changed": "~", "metadata": "m", "renamed": ">"}
    for change in found.documents:
        origin = f"  (was {change.renamed_from})" if change.renamed_from else ""
        out.print(f"{marks[change.op]} {change.source}/{escape(change.key)}{escape(origin)}")
    out.print(
        f"{found.before} to {found.after}: {len(found.documents)} documents; "
        f"{found.chunks_added} chunk texts added, {found.chunks_removed} removed",
        style=_DIM,
    )


def show_quarantine(rows: Sequence[dict[str, Any]]) -> None:
    """What is held back."""
    table = _table("source", "key", "rule", "reason", "since")
    for row in rows:
        table.add_row(
            *(escape(str(row[name])) for name in ("source", "key", "rule", "reason")),
            _when(row["since"]),
        )
    _out().print(table if rows else "the quarantine is empty")


def show_refused(rows: Sequence[dict[str, Any]]) -> None:
    """One record in quarantine, whole."""
    out = _out()
    for row in rows:
        out.print(
            f"[bold]{escape(row['source'])}/{escape(row['key'])}[/] since {_when(row['since'])}"
        )
        out.print(f"{row['severity']}: {row['rule']}: {escape(row['reason'])}")
    out.print(escape(str(rows[0]["payload"])))


def show_emission(emission: Emission) -> None:
    """Where a dataset went."""
    out = _out()
    state = "new" if emission.created else "unchanged"
    out.print(f"{emission.name} {emission.version} ({state}): {emission.path}")
    for name, rows in emission.files.items():
        out.print(f"   {name}: {rows} rows", style=_DIM)


def show_dataset_status(found: Sequence[DatasetStatus]) -> None:
    """Releases and what the world has since contradicted."""
    table = _table("dataset", "version", "rows", "contradicted", "share", "state")
    for entry in found:
        table.add_row(
            entry.name,
            entry.version,
            str(entry.rows),
            str(entry.contradicted),
            f"{entry.share:.1%}",
            f"{entry.state}{' (unproven)' if entry.unproven else ''}",
            style=_BAD if entry.state in ("stale", "damaged") else "",
        )
    _out().print(table if found else "no dataset was emitted yet: headwater dataset emit")


def show_verification(found: Verification) -> None:
    """All is well, or what is not."""
    out = _out()
    for problem in found.problems:
        out.print(escape(problem), style=_BAD)
    how = "every byte read" if found.deep else "sizes compared"
    verdict = f"[{_GOOD}]ok[/]" if found.ok else f"[{_BAD}]{len(found.problems)} problems[/]"
    out.print(
        f"{verdict}: {found.snapshots} snapshots, {found.objects} objects, "
        f"{found.bytes / 1e6:.1f} MB ({how})"
    )


def show_repair(found: Repair) -> None:
    """What was healed, and what was not."""
    out = _out()
    for name in found.healed:
        out.print(f"healed objects/{name}", style=_GOOD)
    for name in found.dropped:
        out.print(f"dropped objects/{name}: a part of the embedding cache", style="yellow")
    for name, why in found.lost.items():
        out.print(f"lost objects/{name}: {escape(why)}", style=_BAD)
    if found.ok:
        changed = found.healed or found.dropped
        out.print("ok: nothing is damaged any more" if changed else "ok: nothing was damaged")
