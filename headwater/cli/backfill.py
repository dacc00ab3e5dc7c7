"""The command that pulls a source's past."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.options import (
    Duration,
    Time,
    json_option,
    kb_option,
    open_kb,
    print_json,
    progress_bars,
)

if TYPE_CHECKING:
    from headwater.flows.backfill import Backfill, BackfillStep
    from headwater.flows.estimate import Estimate
    from headwater.flows.windows import Span


@click.command()
@click.argument("source")
@click.option("--from", "start", type=Time(), help="First moment of source time.")
@click.option("--to", "end", type=Time(), help="The moment after the last.")
@click.option("--window", "width", type=Duration(), help="Cut the range of time: 1d, 12h.")
@click.option("--from-key", help="First key, instead of times.")
@click.option("--to-key", help="The key after the last.")
@click.option("--keys", type=int, help="Cut a range of whole-number keys: so many in a window.")
@click.option("--cut", "cuts", multiple=True, help="Cut a range of other keys before this one.")
@click.option(
    "--publish",
    type=click.Choice(["window", "end"]),
    default="window",
    show_default=True,
    help="A snapshot for each window, or one at the end.",
)
@click.option("--parallel", default=1, show_default=True, help="Windows read at once, at most.")
@click.option("--rate", type=float, help="Records read in a second, at most.")
@click.option("--pause", type=Duration(), help="Rest before each window: 2s.")
@click.option("--approve", type=int, help="Changes of each kind that a gate may let pass, at most.")
@click.option("--restart", is_flag=True, help="Forget what an earlier attempt has done.")
@click.option("--dry-run", is_flag=True, help="Say what it would do and cost; publish nothing.")
@click.option("--sample", type=int, help="For --dry-run: read only so many windows, and multiply.")
@kb_option
@json_option
def backfill(kb_path: Path, dry_run: bool, sample: int | None, as_json: bool, **asked: Any) -> int:
    """Pull a range of SOURCE's past, window by window. Started again, it goes on where it was.

    The range is one of source time (--from, --to) or of keys (--from-key, --to-key). It runs beside
    the schedule: the source is claimed only while a snapshot is built, and a record that the store
    knows newer is left out. Deletions are never inferred.
    """
    from headwater.flows.backfill import run_backfill
    from headwater.flows.estimate import estimate_backfill

    kb = open_kb(kb_path)
    kb.source(asked["source"])
    plan = _plan(**asked)
    with progress_bars(quiet=as_json) as progress:
        if dry_run:
            found = estimate_backfill(kb, plan, sample=sample, progress=progress)
            print_json(found.as_dict()) if as_json else _show_estimate(found)
            return 0
        steps = []
        for step in run_backfill(kb, plan, progress=progress):
            steps.append(step)
            if not as_json:
                _show_step(step)
    if as_json:
        print_json([_as_dict(step) for step in steps])
    elif not steps:
        click.echo("nothing was left to do")
    return max((step.report.exit_code for step in steps if step.report), default=0)


def _plan(
    *,
    source: str,
    publish: Any,
    parallel: int,
    rate: float | None,
    pause: timedelta | None,
    approve: int | None,
    restart: bool,
    **bounds: Any,
) -> Backfill:
    from headwater.flows.backfill import Backfill, Pace
    from headwater.flows.withholding import RULES

    return Backfill(
        source,
        _spans(**bounds),
        publish=publish,
        pace=Pace(rate, pause.total_seconds() if pause else 0.0, parallel),
        approved=dict.fromkeys(RULES, approve) if approve is not None else {},
        restart=restart,
    )


def _spans(
    *,
    start: datetime | None,
    end: datetime | None,
    width: timedelta | None,
    from_key: str | None,
    to_key: str | None,
    keys: int | None,
    cuts: tuple[str, ...],
) -> tuple[Span, ...]:
    from headwater.errors import ConfigError
    from headwater.flows.windows import plan_key_windows, plan_windows

    by_time = any(value is not None for value in (start, end, width))
    by_key = bool(cuts) or any(value is not None for value in (from_key, to_key, keys))
    if by_time == by_key:
        raise ConfigError(
            "A backfill needs one range",
            obj="of time or of keys",
            todo="--from … --to …, or --from-key … --to-key …",
        )
    if by_key:
        return plan_key_windows(from_key, to_key, width=keys, cuts=cuts)
    if start is None or end is None:
        raise ConfigError("A range of time needs both ends", todo="--from … --to …")
    return plan_windows(start, end, width)


def _show_step(step: BackfillStep) -> None:
    from headwater.cli.render import show_refresh
    from headwater.flows.windows import label_of

    bounds = label_of(step.spans[0])
    if len(step.spans) > 1:
        bounds = f"{len(step.spans)} windows from {bounds}"
    stale = f", {step.stale:,} left out: known newer" if step.stale else ""
    left = f", about {_span(step.left_s)} left" if step.left_s else ""
    did = "" if step.report else "read "
    click.echo(f"{did}{step.number}/{step.total} {bounds}: {step.records:,} records{stale}{left}")
    if step.report is not None:
        show_refresh(step.report)


def _show_estimate(found: Estimate) -> None:
    price = found.price
    if found.read < found.windows:
        click.echo(f"estimated from {found.read} of {found.windows} windows")
    click.echo(
        f"{found.windows} windows, {found.records:,} records: {found.new:,} new, "
        f"{found.changed:,} changed, {found.stale:,} left out as the store knows them newer"
    )
    click.echo(f"{price.texts:,} texts to embed, {price.tokens:,} tokens")
    speed = f" at {price.tokens_per_s:,.0f} tokens/s ({price.measured})" if price.measured else ""
    embedding = "an unknown time" if price.seconds is None else _span(price.seconds)
    click.echo(f"about {_span(found.reading_s)} to read, {embedding} to embed{speed}")
    if price.money is not None:
        click.echo(f"costs {price.money:,.2f} at {price.per_million:g} per million tokens")
    click.echo("nothing was written")


def _as_dict(step: BackfillStep) -> dict[str, Any]:
    from headwater.flows.windows import label_of

    return {
        "number": step.number,
        "total": step.total,
        "windows": [label_of(span) for span in step.spans],
        "records": step.records,
        "stale": step.stale,
        "left_s": step.left_s,
        "report": step.report.as_dict() if step.report else None,
    }


def _span(seconds: float | None) -> str:
    if seconds is None or seconds < 1:
        return "a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


BACKFILL = (backfill,)
