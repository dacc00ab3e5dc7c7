"""Commands that change a knowledge base: init, refresh, plan, roll back, serve."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from headwater.cli.options import (
    Time,
    json_option,
    kb_option,
    open_kb,
    open_store,
    print_json,
    progress_bars,
)

_SOURCE = click.option("--source", "-s", "sources", multiple=True, help="Only this source.")


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("--name", help="Its name; the folder's when left out.")
def init(folder: Path, name: str | None) -> int:
    """Create a knowledge base in DIR, or add what an existing one lacks.

    Writes headwater.yaml (an example to edit), a suite of expectations per source, and the JSON
    schema that gives editors completion. Never overwrites a file.
    """
    from headwater.flows.initialise import initialise

    for path in initialise(folder, name=name):
        click.echo(f"wrote {path}")
    click.echo(f"next: edit {folder / 'headwater.yaml'}, then: headwater plan --kb {folder}")
    return 0


@click.command()
@kb_option
@_SOURCE
@click.option("--key", "keys", multiple=True, help="Only this record (needs one --source).")
@click.option("--observed-at", type=Time(), help="The knowledge time; now when left out.")
@click.option("--release", multiple=True, help="Lift the hold that a rollback put on a source.")
@click.option("--new-model", is_flag=True, help="Build the index anew with the configured model.")
@json_option
def refresh(
    kb_path: Path,
    sources: tuple[str, ...],
    keys: tuple[str, ...],
    observed_at: datetime | None,
    release: tuple[str, ...],
    new_model: bool,
    as_json: bool,
) -> int:
    """Pull, validate, version, index and publish what changed."""
    from headwater.flows.refresh import RefreshOptions

    options = RefreshOptions(
        sources=sources, keys=keys, observed_at=observed_at, release=release, new_model=new_model
    )
    return run_refresh(kb_path, options, as_json=as_json)


@click.command()
@kb_option
@_SOURCE
@click.option("--new-model", is_flag=True, help="Plan the change to the configured model.")
@json_option
def plan(kb_path: Path, sources: tuple[str, ...], new_model: bool, as_json: bool) -> int:
    """Say what a refresh would do; publish nothing."""
    from headwater.flows.refresh import RefreshOptions

    options = RefreshOptions(sources=sources, new_model=new_model)
    return run_refresh(kb_path, options, as_json=as_json, dry_run=True)


def run_refresh(kb_path: Path, options: object, *, as_json: bool, dry_run: bool = False) -> int:
    """Refresh and show what happened; returns the exit code."""
    from headwater.cli.render import show_refresh
    from headwater.flows.refresh import RefreshOptions, refresh

    assert isinstance(options, RefreshOptions)
    kb = open_kb(kb_path)
    with progress_bars(quiet=as_json) as progress:
        report = refresh(kb, options, dry_run=dry_run, progress=progress)
    print_json(report.as_dict()) if as_json else show_refresh(report)
    return report.exit_code


@click.command()
@click.argument("snapshot")
@click.option("--hold", multiple=True, help="Keep refreshes off this source until --release.")
@kb_option
@json_option
def rollback(snapshot: str, hold: tuple[str, ...], kb_path: Path, as_json: bool) -> int:
    """Publish SNAPSHOT's state again, as a new snapshot. Nothing is embedded, nothing is lost.

    If the snapshot let go of its index, that is built anew from the embedding cache.
    """
    from headwater.flows.reindex import reindex
    from headwater.storage.manifest import Manifest
    from headwater.storage.store import new_run_id

    store = open_store(kb_path)
    with progress_bars(quiet=as_json) as progress:

        def indexed(target: Manifest) -> Manifest:
            return reindex(
                store.objects,
                target,
                config=open_kb(kb_path).config.index,
                progress=lambda done, total: progress("index", done, total),
            )

        try:
            manifest = store.rollback(snapshot, run_id=new_run_id(), hold=hold, reindex=indexed)
        finally:
            store.objects.discard_drafts()
    if as_json:
        print_json({"snapshot": manifest.name(), "restores": manifest.restores, "hold": list(hold)})
    else:
        click.echo(f"published {manifest.name()}, the state of {manifest.restores}")
        for name in hold:
            click.echo(f"{name} is on hold; lift it with: headwater refresh --release {name}")
    return 0


@click.command()
@click.argument("candidate")
@click.option("--override", is_flag=True, help="Although a gate failed. The run log records it.")
@kb_option
def publish(candidate: str, override: bool, kb_path: Path) -> int:
    """Publish a CANDIDATE that failed a gate, after a person looked at it."""
    from headwater.flows.override import publish_candidate

    publish_candidate(open_store(kb_path), candidate, override=override)
    click.echo(f"published {candidate}")
    return 0


@click.command()
@kb_option
@click.option(
    "--once", is_flag=True, help="Register the deployments and return; do not serve them."
)
def schedule(kb_path: Path, once: bool) -> int:
    """Register the Prefect deployments of headwater.yaml's schedules, and serve them.

    Needs headwater[schedule] and a Prefect server (PREFECT_API_URL). Without one, cron or systemd
    can run 'headwater refresh' just as well.
    """
    from headwater.flows.deployments import serve_deployments

    serve_deployments(open_kb(kb_path), once=once)
    return 0


@click.command()
@kb_option
@json_option
def repair(kb_path: Path, as_json: bool) -> int:
    """Make damaged objects again where they are derived. Exits with 6 if something is lost.

    A rebuilt object counts only if it has the very bytes that its name promises. Versions, contents
    and the quarantine cannot be derived: restore them from a backup.
    """
    from headwater.cli.render import show_repair
    from headwater.flows.repair import repair as heal

    with progress_bars(quiet=as_json) as progress:
        found = heal(
            open_kb(kb_path),
            open_store(kb_path),
            progress=lambda done, total: progress("repair", done, total),
        )
    print_json(found.as_dict()) if as_json else show_repair(found)
    return 0 if found.ok else 6


@click.command()
@click.argument("target", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@kb_option
@json_option
def backup(target: Path, kb_path: Path, as_json: bool) -> int:
    """Copy the store to DIR, or add to the copy there what is new. Refreshes may go on meanwhile."""
    from headwater.cli.render import show_backup
    from headwater.storage.backup import backup as copy

    with progress_bars(quiet=as_json) as progress:
        found = copy(
            open_store(kb_path),
            target,
            progress=lambda done, total: progress("backup", done, total),
        )
    print_json(found.as_dict()) if as_json else show_backup(found)
    return 0


@click.command()
@click.argument("source", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@kb_option
@json_option
def restore(source: Path, kb_path: Path, as_json: bool) -> int:
    """Make the store again from the backup in DIR. Never overwrites one that is there."""
    from headwater.cli.render import show_backup
    from headwater.storage.backup import restore as copy

    root = open_kb(kb_path).store
    with progress_bars(quiet=as_json) as progress:
        found = copy(source, root, progress=lambda done, total: progress("restore", done, total))
    print_json(found.as_dict()) if as_json else show_backup(found)
    return 0


CHANGE = (
    init,
    plan,
    refresh,
    rollback,
    publish,
    repair,
    backup,
    restore,
    schedule,
)
