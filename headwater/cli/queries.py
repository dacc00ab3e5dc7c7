"""The commands on what was asked: queries stats, suggest-golden, prune, clear."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from headwater.cli.options import Time, json_option, kb_option, open_kb, print_json

_SHOWN = 200
"""Characters of a question."""


@click.group()
def queries() -> None:
    """Look at what was asked: volumes, questions without an answer, golden queries.

    The log is off unless headwater.yaml says 'query_log: {enabled: true}', and holds no words of a
    question unless it says 'text: true'. docs/query-log.md has the rest.
    """


_since = click.option("--since", type=Time(), help="From this day on; all when left out.")
_cosine = click.option(
    "--min-cosine",
    type=click.FloatRange(-1, 1),
    default=0.40,
    show_default=True,
    help="A hit nearer than this is taken for an answer.",
)


@queries.command()
@_since
@_cosine
@kb_option
@json_option
def stats(since: datetime | None, min_cosine: float, kb_path: Path, as_json: bool) -> int:
    """How much is asked, of which sources, and how often without a good hit."""
    from headwater.retrieval.query_log import read_log
    from headwater.retrieval.query_report import unanswered, volumes

    kb = open_kb(kb_path)
    lines = list(read_log(kb.root, since=since.date() if since else None))
    found, missing = volumes(lines, good=min_cosine), unanswered(lines, good=min_cosine)
    if as_json:
        print_json({**asdict(found), "unanswered": [asdict(one) for one in missing]})
        return 0
    if not lines:
        click.echo("nothing was logged" + ("" if kb.config.query_log.enabled else "; it is off"))
        return 0
    click.echo(
        f"{found.queries} queries, {found.distinct} distinct, {found.without_good_hit} without a "
        f"good hit; {found.p50_ms:.0f} ms (p50), {found.p95_ms:.0f} ms (p95)"
    )
    for title, counts in (("day", found.days), ("source", found.sources)):
        for name, count in counts.items():
            click.echo(f"  {title} {name}: {count}")
    for one in missing[:20]:
        near = "nothing" if one.cosine is None else f"{one.cosine:.2f}"
        click.echo(f"  unanswered {one.times}x, nearest {near}: {_line(one.text or one.query)}")
    return 0


@queries.command("suggest-golden")
@_since
@_cosine
@click.option(
    "--times", type=click.IntRange(1), default=2, show_default=True, help="Asked at least so often."
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@kb_option
def suggest_golden(
    since: datetime | None, min_cosine: float, times: int, limit: int, kb_path: Path
) -> int:
    """Print entries for golden.yaml: questions that were answered steadily, as they were asked.

    Read them before you add them: what was found first need not be right. Questions without a good
    hit stand below as comments: they need a person, or a document.
    """
    import yaml

    from headwater.retrieval.query_log import read_log
    from headwater.retrieval.query_report import settled, unanswered
    from headwater.validation.golden import load_golden

    kb = open_kb(kb_path)
    lines = list(read_log(kb.root, since=since.date() if since else None))
    if lines and not any(line.text for line in lines):
        click.echo(
            "headwater: the log holds no words; set 'query_log: {enabled: true, text: true}' to "
            "have some to suggest",
            err=True,
        )
    known = {golden.query for golden in load_golden(kb.root, sources=kb.config.sources)}
    found = [
        {"query": one.text, "expect": list(one.documents)}
        for one in settled(lines, times=times, good=min_cosine)
        if one.text not in known
    ]
    if found:
        click.echo(yaml.safe_dump(found[:limit], sort_keys=False, allow_unicode=True), nl=False)
    for one in unanswered(lines, good=min_cosine)[:limit]:
        if one.text:
            click.echo(f"# unanswered {one.times}x: {_line(one.text)}")
    return 0


@queries.command()
@kb_option
def prune(kb_path: Path) -> int:
    """Remove the days that are older than query_log.keep. A service does it by itself."""
    from headwater.retrieval.query_log import prune_log

    kb = open_kb(kb_path)
    gone = prune_log(kb.root, keep=kb.config.query_log.keep, today=datetime.now(UTC).date())
    click.echo(f"{len(gone)} days removed")
    return 0


@queries.command()
@click.option("--naming", "words", multiple=True, help="Only lines whose question names this.")
@click.confirmation_option(prompt="Remove what was asked?")
@kb_option
def clear(words: tuple[str, ...], kb_path: Path) -> int:
    """Remove the log, or the lines that name somebody."""
    from headwater.retrieval.query_log import clear_log, forget_lines

    kb = open_kb(kb_path)
    if words:
        named = re.compile("|".join(map(re.escape, words)), re.IGNORECASE)
        click.echo(f"{forget_lines(kb.root, named)} lines removed")
    else:
        click.echo(f"{clear_log(kb.root)} days removed")
    return 0


def _line(text: str) -> str:
    """A question as it can be shown: somebody wrote it, and it may hold what moves a terminal."""
    plain = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}…"


QUERIES = (queries,)
