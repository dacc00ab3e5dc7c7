"""Commands by which a person lets go through what a gate withheld."""

from __future__ import annotations

from pathlib import Path

import click

from headwater.cli.change import run_refresh
from headwater.cli.options import json_option, kb_option, open_kb, open_store

_AT_MOST = click.option("--at-most", type=int, help="A lower ceiling than what was withheld.")


@click.command()
@click.argument("source")
@kb_option
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["deletes", "shrink", "schema"]),
    help="Only this kind; all that waits when left out.",
)
@_AT_MOST
@json_option
def approve(
    source: str, kb_path: Path, kinds: tuple[str, ...], at_most: int | None, as_json: bool
) -> int:
    """Refresh SOURCE and let pass what the last refresh withheld.

    deletes: records that vanished. shrink: documents that were replaced by stubs. schema: records
    that lost a field. The number withheld of each kind is a ceiling: if it is more by now, all of
    that kind are withheld again. The audit log records who approved how many.
    """
    return _approve(source, kb_path, kinds, at_most, as_json=as_json)


@click.command("approve-deletes")
@click.argument("source")
@kb_option
@_AT_MOST
@json_option
def approve_deletes(source: str, kb_path: Path, at_most: int | None, as_json: bool) -> int:
    """Refresh SOURCE and let the deletions go that the last refresh withheld.

    The number withheld is a ceiling: if more is missing by now, they are withheld again. The same
    as approve --kind deletes.
    """
    return _approve(source, kb_path, ("deletes",), at_most, as_json=as_json)


def _approve(
    source: str, kb_path: Path, kinds: tuple[str, ...], at_most: int | None, *, as_json: bool
) -> int:
    from headwater.flows.approval import plan_approval
    from headwater.flows.refresh import RefreshOptions
    from headwater.flows.withholding import DELETES

    allowed = plan_approval(open_store(kb_path), source, kinds=kinds, at_most=at_most)
    changes = {kind: count for kind, count in allowed.items() if kind != DELETES}
    options = RefreshOptions(
        sources=(source,) if source in open_kb(kb_path).config.sources else (),
        approved={source: allowed[DELETES]} if DELETES in allowed else {},
        approved_changes={source: changes} if changes else {},
    )
    return run_refresh(kb_path, options, as_json=as_json)


APPROVE = (approve, approve_deletes)
