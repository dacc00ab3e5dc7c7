"""The command that shows the audit log, and checks it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from headwater.cli.options import json_option, kb_option, open_store, print_json


@click.command()
@click.option("--verify", is_flag=True, help="Check the log against itself and the snapshots.")
@click.option(
    "-n", "newest", default=20, show_default=True, type=click.IntRange(1), help="Newest lines."
)
@kb_option
@json_option
def audit(verify: bool, newest: int, kb_path: Path, as_json: bool) -> int:
    """Who made which snapshot current, and what a person allowed; newest first.

    With --verify, exits with 6 if a line was changed, removed, reordered or cut off.
    """
    from headwater.cli.render import show_audit, show_audit_verification
    from headwater.storage.audit import AuditLog

    store = open_store(kb_path)
    log = AuditLog(store.root)
    if verify:
        found = log.verify(list(store.chain())[::-1])
        print_json(found.as_dict()) if as_json else show_audit_verification(found)
        return 0 if found.ok else 6
    entries = log.entries()[::-1][:newest]
    print_json([asdict(entry) for entry in entries]) if as_json else show_audit(entries)
    return 0


TRAIL = (audit,)
