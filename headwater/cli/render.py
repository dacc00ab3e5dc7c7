"""Values as text for people. Tables by rich; colour only where the terminal has it."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from headwater.flows.freshness import SourceFreshness
    from headwater.flows.repair import Repair
    from headwater.flows.report import RefreshReport
    from headwater.retrieval import Hit
    from headwater.retrieval.datasets.emission import Emission
    from headwater.retrieval.datasets.status import DatasetStatus
    from headwater.retrieval.hits import Explanation
    from headwater.storage.audit import AuditEntry, AuditVerification
    from headwater.storage.backup import Backup
    from headwater.storage.history import Diff, LogEntry
    from headwater.storage.lineage import VersionSpan
    from headwater.storage.store import Store
    from headwater.storage.vacuum import VacuumPlan
    from headwater.storage.verify import Verification

_COUNTS = (
    "listed",
    "added",
    "changed",
    "touched",
    "renamed",
    "removed",
    "withheld",
    "held",
    "refused",
)
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
        bad = entry.outcome in ("failed", "busy") or entry.withheld or entry.held
        style = _BAD if bad else ""
        counts = [str(getattr(entry, name) or "·") for name in shown]
        table.add_row(entry.source, entry.outcome, *counts, str(entry.live), style=style)
    out.print(table)
    for entry in report.sources:
        if entry.note:
            out.print(f"{entry.source}: {escape(entry.note)}", style=_DIM)
        deletes = (entry.withheld, "deletions", "approve-deletes")
        for count, what, command in (deletes, (entry.held, "changes", "approve")):
            if count:
                told = f"{entry.source}: {count} {what} wait for you: headwater {command}"
                out.print(f"{told} {entry.source}", style=_BAD)
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
        out.print(f"[bold]{rank}. {escape(title)}[/]  [{_DIM}]{_scores(hit)}[/]")
        if path and path != title:
            out.print(f"   {escape(path)}", style="cyan")
        body = textwrap.shorten(" ".join(hit.text.split()), 320, placeholder=" …")
        out.print(textwrap.indent(textwrap.fill(escape(body), 96), "   "))
        more = f", also in {len(hit.others)} more" if hit.others else ""
        out.print(f"   {escape(hit.cite())}{more}", style=_DIM)
        if hit.held_back:
            out.print("   a newer version failed validation and is in quarantine", style="yellow")
        if hit.explain:
            out.print(f"   {_explained(hit.explain)}", style=_DIM)


def _scores(hit: Hit) -> str:
    """Each score there is, by its name."""
    named = (("reranked", hit.rerank), ("cosine", hit.cosine), ("words", hit.bm25))
    return ", ".join(f"{name} {score:.3f}" for name, score in named if score is not None)


def _explained(how: Explanation) -> str:
    ranks = (("by meaning", how.dense_rank), ("by words", how.lexical_rank))
    places = ", ".join(f"{rank}. {name}" for name, rank in ranks if rank is not None)
    return (
        f"{how.found_by} in {how.segment}, {places}, score {how.score:.4f}, "
        f"filters leave {how.selectivity:.1%} of the documents"
    )


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
        cause += "".join(f", tag {tag}" for tag in entry.tags) + ", expired" * entry.expired
        numbers = [str(getattr(entry, name)) for name in counts]
        style = _DIM if entry.expired else ""
        table.add_row(entry.name, _when(entry.observed_at), cause, *numbers, style=style)
    _out().print(table if entries else "nothing is published yet: headwater refresh")


_MARKS = {"added": "+", "removed": "-", "changed": "~", "metadata": "m", "renamed": ">"}


def show_diff(found: Diff, texts: Sequence[str] = ()) -> None:
    """The documents that differ, each with its text diff if there is one, and how many of a kind."""
    out = _out()
    for change, lines in zip(found.documents, texts or repeat(""), strict=False):
        origin = f"  (was {change.renamed_from})" if change.renamed_from else ""
        out.print(f"{_MARKS[change.op]} {change.source}/{escape(change.key)}{escape(origin)}")
        _show_text_diff(lines)
    counts = Counter(change.op for change in found.documents)
    kinds = ", ".join(f"{counts[op]} {op}" for op in _MARKS if counts[op])
    out.print(
        f"{found.before} to {found.after}: {_counted(len(found.documents), 'document')}"
        f"{f' ({kinds})' if kinds else ''}; "
        f"{_counted(found.chunks_added, 'chunk text')} added, {found.chunks_removed} removed",
        style=_DIM,
    )


def _show_text_diff(lines: str) -> None:
    """A unified diff, as it is; coloured where the terminal has colour."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for number, line in enumerate(lines.splitlines()):
        heading = number < 2 and line[:3] in ("---", "+++")
        click.secho(line, fg=None if heading else colours.get(line[:1]), bold=heading)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def show_changes(feed: pa.Table, before: str, after: str, output: Path | None) -> None:
    """The change feed, or where it was written."""
    out = _out()
    if not feed.num_rows:
        out.print(f"nothing changed from {before} to {after}")
    elif output is None:
        table = _table("op", "source", "key", "was", "known since", "snapshot", "version")
        for row in feed.to_pylist():
            table.add_row(
                row["op"],
                row["source"],
                escape(row["key"]),
                escape(row["renamed_from"] or ""),
                _when(row["known_at"]),
                str(row["seq"]),
                row["after_version_id"] or "·",
            )
        out.print(table)
    if feed.num_rows:
        out.print(f"{before} to {after}: {_counted(feed.num_rows, 'change')}", style=_DIM)
    if output is not None:
        out.print(f"written to {escape(str(output))}")


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
    if found.renewed:
        out.print(f"published {found.renewed}: the same with a new index", style=_GOOD)
    for name in found.let_go:
        out.print(f"{name} is searched without its index", style="yellow")
    for name, why in found.lost.items():
        where = name if name.startswith("snapshots/") else f"objects/{name}"
        out.print(f"lost {where}: {escape(why)}", style=_BAD)
    if found.ok:
        changed = found.healed or found.dropped or found.let_go
        out.print("ok: nothing is damaged any more" if changed else "ok: nothing was damaged")


def show_audit(entries: Sequence[AuditEntry]) -> None:
    """Lines of the audit log, newest first."""
    table = _table("line", "at", "actor", "action", "snapshot", "detail", right=("line",))
    for entry in entries:
        detail = ", ".join(f"{name} {_plain(value)}" for name, value in entry.detail.items())
        style = "yellow" if entry.action in ("override", "recovered") else ""
        actor, action = escape(entry.actor), escape(entry.action)
        row = (str(entry.seq), entry.at[:19] + "Z", actor, action, entry.snapshot)
        table.add_row(*row, escape(detail), style=style)
    _out().print(table if entries else "the audit log is empty")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={part}" for name, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def show_audit_verification(found: AuditVerification) -> None:
    """Whether the audit log is whole."""
    out = _out()
    for problem in found.problems:
        out.print(escape(problem), style=_BAD)
    verdict = f"[{_GOOD}]ok[/]" if found.ok else f"[{_BAD}]{len(found.problems)} problems[/]"
    out.print(f"{verdict}: {found.entries} lines, from {found.begins or 'nothing'}")
    out.print(f"head {found.head}", style=_DIM)


def show_backup(found: Backup) -> None:
    """What was copied where."""
    _out().print(
        f"{found.target} holds {found.snapshot}: {found.copied} objects copied "
        f"({found.bytes / 1e6:.1f} MB), {found.kept} were there"
    )


def show_history(found: Sequence[VersionSpan]) -> None:
    """The versions of one document, oldest first."""
    table = _table("known from", "until", "began", "ended", "key", "content", "title", "version")
    for span in found:
        origin = f" (was {span.renamed_from})" if span.began == "renamed" else ""
        table.add_row(
            f"{_when(span.known_from)} ({span.from_seq})",
            f"{_when(span.known_until)} ({span.until_seq})" if span.known_until else "now",
            span.began,
            span.ended or "live",
            escape(span.key + origin),
            span.content_hash[:12],
            escape(textwrap.shorten(span.title or "", 40, placeholder=" …")),
            span.version_id,
            style="" if span.ended else _GOOD,
        )
    _out().print(table)


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a result as JSON knows them: times as text, bytes as hex, no NaN."""
    return [{name: _json(value) for name, value in row.items()} for row in table.to_pylist()]


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_rows(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """The result of a query; long texts shortened."""
    out = _out()
    if names in (["explain_key", "explain_value"], ["analyzed_key", "analyzed_value"]):
        out.print(*(escape(row["explain_value"]) for row in rows), sep="\n")
        return
    cells = [
        [textwrap.shorten(_cell(row[name]), 80, placeholder=" …") for name in names] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if rows and sum(widths) + len(names) > out.width:
        _show_records(out, names, cells)
    else:
        numeric = [n for n in names if all(isinstance(row[n], int | float | None) for row in rows)]
        table = _table(*map(escape, names), right=[escape(n) for n in numeric if rows])
        for line in cells:
            table.add_row(*map(escape, line))
        out.print(table)
    out.print(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}", style=_DIM)


def _show_records(out: Console, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """One line per value: for rows that are too wide to stand on one line."""
    width = max(map(len, names))
    for number, line in enumerate(cells, start=1):
        out.print(f"row {number}", style="bold")
        for name, cell in zip(names, line, strict=True):
            out.print(f"  {escape(name.ljust(width))}  {escape(cell)}")


def show_csv(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """The result of a query as CSV (RFC 4180, with a header); lists and structures as JSON."""
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(names)
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    click.echo(lines.getvalue(), nl=False)


def show_tags(found: Mapping[str, str]) -> None:
    """Tags and what they name."""
    table = _table("tag", "snapshot")
    for name, snapshot in found.items():
        table.add_row(name, snapshot)
    _out().print(table if found else "there is no tag yet: headwater tag NAME")


def show_vacuum(plan: VacuumPlan, *, dry_run: bool, grace: timedelta) -> None:
    """What went, what goes later, by kind."""
    from headwater.config import format_duration
    from headwater.storage.vacuum import by_kind

    out = _out()
    shown = {"now": plan.deleted, "marked": plan.marked, "waiting": plan.waiting}
    if any(shown.values()):
        table = _table("kind", *(f"{name} MB" for name in shown), "objects", right=("objects",))
        kinds = {name: by_kind(objects) for name, objects in shown.items()}
        for kind in sorted({kind for found in kinds.values() for kind in found}):
            lines = [found.get(kind, {"objects": 0, "bytes": 0}) for found in kinds.values()]
            sizes = [f"{line['bytes'] / 1e6:.3f}" if line["objects"] else "·" for line in lines]
            table.add_row(kind, *sizes, str(sum(line["objects"] for line in lines)))
        out.print(table)
    would = "would expire" if dry_run else "expired"
    out.print(f"{len(plan.expired)} snapshots {would}, {plan.kept} are kept")
    if plan.unindexed:
        go = "would let go" if dry_run else "let go"
        out.print(f"{len(plan.unindexed)} of those {go} of their index; they are searched exactly")
    out.print(
        f"{plan.freed / 1e6:.3f} MB {'would be freed' if dry_run else 'freed'} now; "
        f"{plan.to_free / 1e6:.3f} MB more by a run after the grace of {format_duration(grace)}"
    )
