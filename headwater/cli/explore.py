"""Commands that look back and across: the history of one document, and SQL over a snapshot."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.options import Time, json_option, kb_option, open_store, print_json

if TYPE_CHECKING:
    from headwater.storage.store import Store


@click.command()
@click.argument("document", nargs=-1, required=True, metavar="[SOURCE] KEY")
@kb_option
@json_option
def history(document: tuple[str, ...], kb_path: Path, as_json: bool) -> int:
    """Every version a document ever had: when each was known, and how it ended.

    SOURCE may be left out where one source alone ever had the KEY; SOURCE/KEY, as 'headwater diff'
    prints it, will do too. Renames are followed both ways; what a rollback left behind is part of
    it.
    """
    from headwater.cli.render import show_history
    from headwater.storage.lineage import document_history

    if len(document) > 2:
        raise click.UsageError("history takes a source and a key; quote a key that has spaces")
    store = open_store(kb_path)
    source, key = document if len(document) == 2 else _only_document(store, document[0])
    found = document_history(store, source, key)
    print_json([span.as_dict() for span in found]) if as_json else show_history(found)
    return 0


def _only_document(store: Store, text: str) -> tuple[str, str]:
    """The one document that `text` means: a key of one source, or SOURCE/KEY."""
    from headwater.errors import ConfigError, NotFoundError
    from headwater.storage.lineage import document_history

    known = sorted({name for manifest in store.chain() for name in manifest.sources})
    head, _, rest = text.partition("/")
    wanted = [(source, text) for source in known] + [(head, rest)] * (head in known)
    found = []
    for source, key in wanted:
        with suppress(NotFoundError):
            document_history(store, source, key)
            found.append((source, key))
    if len(found) == 1:
        return found[0]
    if not found:
        # With one source its own error is the best: it knows which keys are near.
        if len(known) <= 1:
            return (known or [""])[0], text
        raise NotFoundError(
            "No source ever had this key",
            obj=text,
            todo="name the source to see which keys are near: headwater history "
            f"{'|'.join(known)} '{text}'",
        )
    raise ConfigError(
        "Several sources had this key",
        obj=text,
        todo="; or ".join(f"headwater history {source} '{key}'" for source, key in found),
    )


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


_LISTED = (
    "select source, key, title, url, source_ts, known_at, version_id from documents order by 1, 2"
)


@click.command()
@click.option("--as-of", help="What was known: a snapshot's name or number, a tag, or a time.")
@click.option(
    "--true-at",
    type=Time(),
    help="What the sources say was true at that time, however late it became known.",
)
@click.option("--source", "-s", "sources", multiple=True, help="Only this source.")
@kb_option
@json_option
def documents(
    as_of: str | None,
    true_at: datetime | None,
    sources: tuple[str, ...],
    kb_path: Path,
    as_json: bool,
) -> int:
    """The documents: those served now, those known as of then, or those true at a time.

    --true-at goes by the sources' own time, and leaves out documents of sources that give none.
    """
    from headwater.cli.render import show_rows, table_rows
    from headwater.storage.source_time import true_at as find
    from headwater.storage.sql import run_sql

    if as_of is not None and true_at is not None:
        raise click.UsageError("--as-of and --true-at exclude each other: one is about what was "
                               "known, the other about what was the case")  # fmt: skip
    store = open_store(kb_path)
    if true_at is not None:
        table = find(store, true_at).drop_columns(["content_hash"])
    else:
        table = run_sql(store, _LISTED, as_of=as_of)
    rows = [row for row in table_rows(table) if not sources or row["source"] in sources]
    print_json(rows) if as_json else show_rows(table.column_names, rows)
    return 0


EXPLORE = (history, documents, sql)
