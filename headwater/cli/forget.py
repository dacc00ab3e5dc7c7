"""Commands that take documents out for ever, and prove it: erase, erasures, readmit."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from headwater.cli.options import json_option, kb_option, open_kb, open_store, print_json

_NAMES = (
    click.option("--source", "-s", help="The source of the keys."),
    click.option("--key", "-k", "keys", multiple=True, help="A document; may be repeated."),
    click.option("--reason", default="", help="Why; kept for ever."),
)


@click.command()
@_NAMES[0]
@_NAMES[1]
@click.option(
    "--where",
    default="",
    help="Documents by an SQL condition over every version there ever was: source, key, title, "
    "url, metadata, labels, text, source_ts, known_at, changed_at, seq.",
)
@_NAMES[2]
@click.option("--no-renames", is_flag=True, help="Not under the other names they had.")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@kb_option
@json_option
def erase(
    source: str | None,
    keys: tuple[str, ...],
    where: str,
    reason: str,
    no_renames: bool,
    dry_run: bool,
    yes: bool,
    kb_path: Path,
    as_json: bool,
) -> int:
    """Take documents out of all snapshots, of the index, the caches, reports and datasets, for ever.

    Past snapshots stay openable without them, no refresh brings them back, and a certificate is
    written. A text that another document also holds stays for that one.
    """
    from headwater.cli.certificates import show_erasure
    from headwater.flows.erasure import ErasureRequest
    from headwater.flows.erasure import erase as run

    if keys and source is None:
        raise click.UsageError("--key needs the --source that it belongs to")
    if source is not None and not keys:
        raise click.UsageError("--source alone erases nothing; give --key, or --where")
    kb = open_kb(kb_path)
    request = ErasureRequest(
        tuple((source or "", key) for key in keys),
        where=where,
        reason=reason,
        follow_renames=not no_renames,
    )
    if not dry_run and not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked: look with --dry-run, then add --yes")
    if dry_run or not yes:
        plan = run(kb, request, dry_run=True)
        if dry_run:
            print_json(plan.as_dict()) if as_json else show_erasure(plan)
            return 0
        show_erasure(plan, err=True)
        click.confirm("This cannot be undone. Erase?", abort=True, err=True)
    done = run(kb, request)
    print_json(done.as_dict()) if as_json else show_erasure(done)
    return 0


@click.command()
@click.argument("number", required=False, type=click.IntRange(1))
@click.option("--verify", is_flag=True, help="Look through every object again.")
@kb_option
@json_option
def erasures(number: int | None, verify: bool, kb_path: Path, as_json: bool) -> int:
    """What was erased; with NUMBER, the certificate of that erasure.

    With --verify, exits with 6 if something of the erased is found or a signature is wrong.
    """
    from headwater.cli.certificates import show_erasures, show_problems
    from headwater.flows.certificate import check_erasure, read_certificate

    store = open_store(kb_path)
    records = store.redactions().records
    if verify:
        wanted = [number] if number else [r.number for r in records if r.snapshot]
        found = {n: check_erasure(store, n) for n in wanted}
        print_json(found) if as_json else show_problems(found)
        return 6 if any(found.values()) else 0
    if number:
        print_json(read_certificate(store, number))
        return 0
    if as_json:
        print_json(
            [
                {
                    "number": record.number,
                    "at": record.at,
                    "actor": record.actor,
                    "reason": record.reason,
                    "snapshot": record.snapshot,
                    "documents": len(record.subjects),
                    "readmitted": len(record.readmitted),
                }
                for record in records
            ]
        )
    else:
        show_erasures(records)
    return 0


@click.command()
@_NAMES[0]
@_NAMES[1]
@_NAMES[2]
@kb_option
@json_option
def readmit(
    source: str | None, keys: tuple[str, ...], reason: str, kb_path: Path, as_json: bool
) -> int:
    """Let documents that were erased come back with the next refresh that lists them."""
    from headwater.flows.erasure import readmit as run

    if source is None or not keys:
        raise click.UsageError("give --source and --key")
    count = run(open_store(kb_path), [(source, key) for key in keys], reason=reason)
    print_json({"readmitted": count}) if as_json else click.echo(f"{count} may come back")
    return 0


FORGET = (erase, erasures, readmit)
