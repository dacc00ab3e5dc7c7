"""Commands that look back and across: the history of one document, and SQL over a snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from headwater.cli.options import json_option, kb_option, open_store, print_json


@click.command()
@click.argument("source")
@click.argument("key")
@kb_option
@json_option
def history(source: str, key: str, kb_path: Path, as_json: bool) -> int:
    """Every version a document ever had: when each was known, and how it ended.

    Renames are followed both ways; what a rollback left behind is part of it.
    """
    from headwater.cli.render import show_history
    from headwater.storage.lineage import document_history

    found = document_history(open_store(kb_path), source, key)
    print_json([span.as_dict() for span in found]) if as_json else show_history(found)
    return 0


@click.command()
@click.argument("statement")
@click.option("--as-of", help="A snapshot's name or number, or a time; the current one else.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300,
    show_default=True,
    help="Give up after so many seconds.",
)
@kb_option
@json_option
def sql(
    statement: str, as_of: str | None, as_csv: bool, timeout: float, kb_path: Path, as_json: bool
) -> int:
    """Ask a snapshot in SQL: one SELECT, WITH, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW.

    Tables: documents, chunks (live); versions, closures (all history); snapshots, sources,
    quarantine, datasets. The query reads these and nothing else: no files, no network.
    """
    from headwater.cli.render import show_csv, show_rows, table_rows
    from headwater.flows.questions import ask_sql

    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    table = ask_sql(kb_path, statement, as_of=as_of, timeout_s=timeout)
    rows = table_rows(table)
    if as_json:
        print_json(rows)
    elif as_csv:
        show_csv(table.column_names, rows)
    else:
        show_rows(table.column_names, rows)
    return 0


EXPLORE = (history, sql)
