"""The report of a refresh: one HTML file that needs nothing else and tells the whole story."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Final

from headwater.storage.manifest import Gate
from headwater.validation.verdicts import CheckResult

_STYLE: Final = """
:root{color-scheme:light dark;--fg:#1c2126;--dim:#5b6570;--bg:#fff;--line:#d9dee3;--soft:#f4f6f8;
--good:#1a6b3c;--bad:#b3261e;--warn:#8a5a00}
@media (prefers-color-scheme:dark){:root{--fg:#e6e9ec;--dim:#9aa4ae;--bg:#15191d;--line:#343b42;
--soft:#1e2429;--good:#6fcf97;--bad:#ff8a80;--warn:#f2c14e}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);
max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem;
border-top:1px solid var(--line);padding-top:1.2rem}h3{font-size:1rem;margin:1.1rem 0 .3rem}
p{margin:.3rem 0}.dim{color:var(--dim)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line);
overflow-wrap:anywhere}th{background:var(--soft);font-weight:600;overflow-wrap:normal}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.counts{display:flex;flex-wrap:wrap;gap:.4rem 1.6rem;margin:.5rem 0}.counts b{font-size:1.15rem}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.verdict{border-left:4px solid currentColor;background:var(--soft);padding:.6rem .9rem;margin:1rem 0}
@media print{:root{--fg:#000;--dim:#333;--bg:#fff;--soft:#fff;--line:#999;--good:#000;--bad:#000;
--warn:#000}body{margin:0;max-width:none}tr,.verdict{break-inside:avoid}h2,h3{break-after:avoid}}
"""


@dataclass(frozen=True)
class RefusedRecord:
    """One line of a source's quarantine table."""

    key: str
    rule: str
    reason: str
    since: datetime | None = None


@dataclass(frozen=True)
class ReportedSource:
    """What a refresh did with one source; the numbers are records.

    Attributes:
        name: the source.
        status: one word: `refreshed`, `unchanged`, `stale`, `stopped`.
        note: one line: why it is stale, or what the source said of its extract.
        pulled: records the extract listed.
        added: new documents.
        changed: documents with a new version.
        renamed: documents that only moved to another key.
        removed: documents that are gone.
        withheld: deletions that wait for an approval.
        withheld_reason: why; empty when there are none.
        quarantined: the refused records.
        checks: the expectations of its suite.
    """

    name: str
    status: str = "refreshed"
    note: str = ""
    pulled: int = 0
    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    withheld: int = 0
    withheld_reason: str = ""
    quarantined: tuple[RefusedRecord, ...] = ()
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything the report of one refresh shows.

    Attributes:
        knowledge_base: its name.
        run_id: the refresh.
        started: UTC.
        finished: UTC.
        snapshot: the id of the snapshot that was published, or None.
        not_published: why nothing was published; empty when something was.
        texts_embedded: distinct texts that were embedded anew.
        sources: in the order of the configuration.
        gates: what the gates said of the candidate.
    """

    knowledge_base: str
    run_id: str
    started: datetime
    finished: datetime
    snapshot: str | None = None
    not_published: str = ""
    texts_embedded: int = 0
    sources: tuple[ReportedSource, ...] = ()
    gates: tuple[Gate, ...] = ()


def render_report(data: ReportData) -> str:
    """The report as one HTML page: no script, no external resource, light and dark, printable.

    Everything that comes from data is escaped, so a hostile record cannot act in the page.
    """
    title = f"Refresh of {_text(data.knowledge_base)}"
    seconds = (data.finished - data.started).total_seconds()
    head = (
        f"<h1>{title}</h1>"
        f'<p class="dim">Run {_text(data.run_id)}, {_time(data.started)} to '
        f"{_time(data.finished)} ({seconds:.1f} s)</p>"
    )
    sources = "".join(_source(source) for source in data.sources)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        f"{head}{_outcome(data)}{_gates(data.gates)}{sources}</body></html>\n"
    )


def _outcome(data: ReportData) -> str:
    embedded = f"<p>{data.texts_embedded:,} texts embedded</p>"
    if data.snapshot is not None:
        said = f'<b class="good">Published</b> snapshot {_text(data.snapshot)}'
        return f'<div class="verdict"><p>{said}</p>{embedded}</div>\n'
    why = _text(data.not_published or "no reason was given")
    said = f'<b class="warn">Not published</b>: {why}'
    return f'<div class="verdict"><p>{said}</p>{embedded}</div>\n'


def _gates(gates: Sequence[Gate]) -> str:
    rows = [
        (
            _text(gate.name),
            _text(gate.source or "all"),
            _mark("passed" if gate.passed else "failed", gate.severity),
            _text(gate.severity),
            _text(gate.detail),
        )
        for gate in gates
    ]
    table = _table(("gate", "source", "result", "severity", "detail"), rows)
    return f"<h2>Gates</h2>{table or '<p class=dim>No gate was run.</p>'}\n"


def _source(source: ReportedSource) -> str:
    counts = (
        ("pulled", source.pulled),
        ("added", source.added),
        ("changed", source.changed),
        ("renamed", source.renamed),
        ("removed", source.removed),
        ("withheld", source.withheld),
        ("quarantined", len({record.key for record in source.quarantined})),
    )
    numbers = "".join(f"<span><b>{number:,}</b> {name}</span>" for name, number in counts)
    note = f"<p>{_text(source.note)}</p>" if source.note else ""
    withheld = (
        f'<p class="warn">Deletions withheld: {_text(source.withheld_reason)}</p>'
        if source.withheld_reason
        else ""
    )
    return (
        f'<h2>{_text(source.name)} <span class="dim">{_text(source.status)}</span></h2>'
        f'{note}<div class="counts">{numbers}</div>{withheld}'
        f"{_quarantine(source.quarantined)}{_checks(source.checks)}\n"
    )


def _quarantine(records: Sequence[RefusedRecord]) -> str:
    if not records:
        return ""
    rows = [
        (
            _text(record.key),
            _text(record.rule),
            _text(record.reason),
            _time(record.since) if record.since else "",
        )
        for record in records
    ]
    return f"<h3>Quarantine</h3>{_table(('key', 'rule', 'reason', 'since'), rows)}"


def _checks(checks: Sequence[CheckResult]) -> str:
    if not checks:
        return ""
    rows = [
        (
            _text(check.type),
            _text(check.column),
            _text(check.level),
            _mark(check.status, check.severity),
            _text(check.severity),
            f"{check.checked:,}",
            f"{check.failed:,}",
            _text(check.detail),
        )
        for check in checks
    ]
    names = ("expectation", "column", "level", "result", "severity", "checked", "failing", "detail")
    return f"<h3>Expectations</h3>{_table(names, rows, numeric=(5, 6))}"


def _table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[int] = ()
) -> str:
    """A table of cells that are HTML already; empty without rows."""

    def line(cells: Sequence[str], tag: str) -> str:
        parts = (
            f"<{tag}{' class=n' if place in numeric else ''}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    if not body:
        return ""
    return f'<div class="wide"><table><thead>{line(names, "th")}</thead><tbody>{body}</tbody></table></div>'


def _mark(status: str, severity: str) -> str:
    tone = "good" if status == "passed" else "bad" if severity == "critical" else "warn"
    return f'<span class="{tone}">{_text(status)}</span>'


def _time(moment: datetime) -> str:
    return escape(moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC"))


def _text(value: str) -> str:
    """Escaped for text and attributes; characters that HTML forbids become visible ones."""
    clean = "".join(
        character if character >= " " or character in "\t\n" else "\ufffd" for character in value
    )
    return escape(clean.encode("utf-8", "replace").decode("utf-8"), quote=True)
