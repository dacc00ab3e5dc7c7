"""Text for people about erasures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from headwater.flows.erasure import Erasure
    from headwater.storage.redactions import Redaction

_SHOWN = 20


def show_erasure(found: Erasure, *, err: bool = False) -> None:
    """What was erased, or would be: every name, what goes with it, what stays and for whom."""
    done = bool(found.number)
    subjects = found.subjects
    click.echo(f"{len(subjects.names)} documents {'were' if done else 'would be'} erased:", err=err)
    _names(subjects.names, err=err)
    for what, count in sorted(found.removed.items()):
        click.echo(f"  {count:>7} {'rows of ' if '.' in what else ''}{what}", err=err)
    click.echo(f"{found.objects} objects {'were' if done else 'would be'} rewritten", err=err)
    if subjects.holders:
        click.echo(
            f"{subjects.kept_contents} of their contents stay, because these hold them too:",
            err=err,
        )
        _names(subjects.holders, err=err)
    if done:
        click.echo(f"snapshot {found.snapshot}, certificate {found.certificate}", err=err)
    elif not err:
        click.echo("nothing was changed; without --dry-run, this cannot be undone", err=err)


def show_erasures(records: Sequence[Redaction]) -> None:
    """One line for each erasure, oldest first."""
    for record in records:
        what = (
            f"{len(record.subjects)} documents"
            if record.snapshot
            else f"{len(record.readmitted)} documents readmitted"
        )
        click.echo(
            f"{record.number:>4}  {record.at[:19]}Z  {record.actor}  {what}: {record.reason}"
        )
    if not records:
        click.echo("nothing was ever erased")


def show_problems(found: Mapping[int, Sequence[str]]) -> None:
    """What a second look at each erasure found."""
    for number, problems in found.items():
        click.echo(f"erasure {number}: {'; '.join(problems) or 'holds'}")
    if not found:
        click.echo("nothing was ever erased")


def _names(names: Sequence[tuple[str, str]], *, err: bool) -> None:
    for source, key in names[:_SHOWN]:
        click.echo(f"  {source}/{key}", err=err)
    if len(names) > _SHOWN:
        click.echo(f"  and {len(names) - _SHOWN} more (--json lists them)", err=err)
