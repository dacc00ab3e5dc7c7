"""Commands that decide what stays: tag, tags, vacuum."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from headwater.cli.options import (
    Duration,
    json_option,
    kb_option,
    open_kb,
    open_store,
    print_json,
)


@click.command()
@click.argument("name")
@click.argument("snapshot", required=False)
@click.option("--delete", is_flag=True, help="Remove the tag; its snapshot may expire again.")
@kb_option
@json_option
def tag(name: str, snapshot: str | None, delete: bool, kb_path: Path, as_json: bool) -> int:
    """Call SNAPSHOT (the current one when left out) NAME. A tagged snapshot never expires."""
    from headwater.storage.tags import delete_tag, set_tag

    if delete and snapshot is not None:
        raise click.UsageError("--delete takes the tag's name alone")
    store = open_store(kb_path)
    if delete:
        delete_tag(store, name)
        print_json({"tag": name, "snapshot": None}) if as_json else click.echo(f"removed {name}")
        return 0
    found = set_tag(store, name, snapshot)
    print_json({"tag": name, "snapshot": found}) if as_json else click.echo(f"{name} is {found}")
    return 0


@click.command()
@kb_option
@json_option
def tags(kb_path: Path, as_json: bool) -> int:
    """The tags and the snapshots they name."""
    from headwater.cli.render import show_tags
    from headwater.storage.tags import read_tags

    found = read_tags(open_store(kb_path).root)
    print_json(found) if as_json else show_tags(found)
    return 0


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and how many bytes.")
@click.option("--grace", type=Duration(), help="In place of retention.grace: 30m, 6h.")
@click.option(
    "--embeddings", is_flag=True, help="Also embeddings of texts that no kept snapshot holds."
)
@kb_option
@json_option
def vacuum(
    dry_run: bool, grace: timedelta | None, embeddings: bool, kb_path: Path, as_json: bool
) -> int:
    """Let old snapshots expire and free their space, in two steps with a grace between them.

    What no kept snapshot needs is marked by one run and deleted by a later one, once the grace is
    over; so is the index of past snapshots after retention.index_for. Run it from time to time, and
    refresh as you like meanwhile.
    """
    from headwater.cli.render import show_vacuum
    from headwater.storage.vacuum import vacuum as run

    kb = open_kb(kb_path)
    plan = run(
        open_store(kb_path),
        config=kb.config.retention,
        datasets=kb.root / "datasets",
        grace=grace,
        embeddings=embeddings,
        dry_run=dry_run,
    )
    if as_json:
        print_json({"dry_run": dry_run, **plan.as_dict()})
    else:
        show_vacuum(plan, dry_run=dry_run, grace=grace or kb.config.retention.grace)
    return 0


KEEP = (tag, tags, vacuum)
