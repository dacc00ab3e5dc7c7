"""Commands that only look: search, status, log, diff, changes, quarantine, dataset, verify."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.export import TablePath, write_table
from headwater.cli.options import (
    Duration,
    Time,
    json_option,
    kb_option,
    open_kb,
    open_store,
    print_json,
    progress_bars,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from headwater.retrieval.hits import Mode


@click.command()
@click.argument("query")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 1000), help="Hits.")
@click.option("--as-of", help="A snapshot's name or number, or a time: what was known then.")
@click.option("--source", "-s", "sources", multiple=True, help="Only this source.")
@click.option(
    "--where",
    metavar="FILTER",
    help="Only documents such as \"key like 'faq/%' and meta.year >= 2024\".",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    help="Search as a caller who holds this label; may be repeated. Everything is seen without.",
)
@click.option("--changed-since", type=Time(), help="Only documents that changed later.")
@click.option(
    "--max-staleness", type=Duration(), help="Only what was confirmed this lately: 6h, 1d."
)
@click.option(
    "--mode",
    default="hybrid",
    show_default=True,
    type=click.Choice(["hybrid", "dense", "lexical"]),
    help="By meaning and words, by meaning (dense), or by words (lexical).",
)
@click.option("--reranker", metavar="MODEL", help="Order again with this cross-encoder.")
@click.option(
    "--rerank",
    type=click.IntRange(1, 1000),
    help="With --reranker: so many candidates; 50, or -k if that is more, when left out.",
)
@click.option("--explain", is_flag=True, help="Say of each hit where it came from.")
@kb_option
@json_option
def search(
    query: str,
    k: int,
    as_of: str | None,
    sources: tuple[str, ...],
    where: str | None,
    labels: tuple[str, ...],
    changed_since: datetime | None,
    max_staleness: timedelta | None,
    mode: Mode,
    reranker: str | None,
    rerank: int | None,
    explain: bool,
    kb_path: Path,
    as_json: bool,
) -> int:
    """Find what the knowledge base says about QUERY, now or as of a snapshot."""
    from headwater.cli.render import show_hits
    from headwater.retrieval import Retriever

    if rerank is not None and reranker is None:
        raise click.UsageError("--rerank needs a --reranker")
    ordering = None
    if reranker is not None:
        from headwater.retrieval.reranking import CrossEncoderReranker

        ordering, rerank = CrossEncoderReranker(reranker, root=kb_path), rerank or max(50, k)
    with Retriever.open(kb_path, reranker=ordering) as retriever:
        hits = retriever.search(
            query,
            k=k,
            as_of=as_of,
            sources=sources or None,
            where=where,
            allow=labels or None,
            changed_since=changed_since,
            max_staleness=max_staleness,
            mode=mode,
            rerank=rerank,
            explain=explain,
        )
    print_json([hit.as_dict() for hit in hits]) if as_json else show_hits(hits)
    return 0


@click.command()
@click.option("--now", type=Time(), help="Measure against this time instead of the clock.")
@kb_option
@json_option
def status(now: datetime | None, kb_path: Path, as_json: bool) -> int:
    """Per source: last verified, last change, freshness. Exits with 5 if an objective is missed."""
    from headwater.cli.render import show_status
    from headwater.flows.freshness import freshness

    store = open_store(kb_path)
    found = freshness(open_kb(kb_path), store, now=now)
    if as_json:
        snapshot, candidates = store.current_name(), store.candidates()
        sources = [f.as_dict() for f in found]
        print_json({"snapshot": snapshot, "candidates": candidates, "sources": sources})
    else:
        show_status(store, found)
    return 0 if all(f.fresh for f in found) else 5


@click.command()
@click.option(
    "-n", "limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many."
)
@kb_option
@json_option
def log(limit: int, kb_path: Path, as_json: bool) -> int:
    """The published snapshots, newest first."""
    from headwater.cli.render import show_log
    from headwater.storage.history import log as entries

    found = entries(open_store(kb_path), limit=limit)
    print_json([entry.as_dict() for entry in found]) if as_json else show_log(found)
    return 0


@click.command()
@click.argument("before")
@click.argument("after", default="current")
@click.option("--text", is_flag=True, help="Show how the texts differ.")
@kb_option
@json_option
def diff(before: str, after: str, text: bool, kb_path: Path, as_json: bool) -> int:
    """What differs between two snapshots: names, numbers, tags or times. AFTER is the current one.

    Added (+), removed (-), changed (~), metadata only (m) and renamed (>) documents, and how many
    distinct chunk texts came and went.
    """
    from headwater.cli.render import show_diff
    from headwater.storage.history import diff as compare
    from headwater.storage.history import text_diff

    store = open_store(kb_path)
    found = compare(store, before, after)
    texts: list[str] = []
    if text:
        # By name: what a time or 'current' means may move on meanwhile.
        old, new = store.resolve(found.before), store.resolve(found.after)
        texts = [text_diff(store, change, old, new) for change in found.documents]
    if as_json:
        told = found.as_dict()
        for document, lines in zip(told["documents"], texts, strict=False):
            document["text"] = lines
        print_json(told)
        return 0
    show_diff(found, texts)
    return 0


@click.command()
@click.argument("before")
@click.argument("after", default="current")
@click.option("--source", "-s", "sources", multiple=True, help="Only this source.")
@click.option(
    "--output", "-o", type=TablePath(), help="Write a file: .parquet, .arrow (IPC) or .jsonl."
)
@click.option("--force", is_flag=True, help="Replace the file of --output if it is there.")
@kb_option
@json_option
def changes(
    before: str,
    after: str,
    sources: tuple[str, ...],
    output: Path | None,
    force: bool,
    kb_path: Path,
    as_json: bool,
) -> int:
    """The change feed: what a consumer that knows BEFORE must do to be at AFTER, the current one.

    One row per document that differs: source, key, op (added, changed, metadata, renamed, removed),
    the versions before and after, the key before a rename, and since when it is known. The cost
    grows with what changed, not with what there is.
    """
    from headwater.cli.render import show_changes, table_rows
    from headwater.storage.feed import change_feed

    if force and output is None:
        raise click.UsageError("--force belongs to --output")
    if output is not None and output.exists() and not force:
        raise click.UsageError(f"'{output}' is there already: name another file, or add --force")
    store = open_store(kb_path)
    first, last = store.resolve(before), store.resolve(after)
    table = change_feed(store, first.name(), last.name())
    if sources:
        known = {*first.sources, *last.sources}
        table = _of_sources(table, sources, known)
    if output is not None:
        write_table(table, output)
    if as_json:
        span = {"before": first.name(), "after": last.name(), "changes": table.num_rows}
        print_json({**span, "output": str(output)} if output else table_rows(table))
    else:
        show_changes(table, first.name(), last.name(), output)
    return 0


def _of_sources(table: pa.Table, sources: tuple[str, ...], known: set[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    from headwater.errors import NotFoundError

    unknown = [name for name in sources if name not in known]
    if unknown:
        raise NotFoundError(
            "Neither snapshot holds this source",
            obj=", ".join(unknown),
            todo=f"they hold: {', '.join(sorted(known))}",
        )
    return table.filter(pc.is_in(table["source"], pa.array(sources, pa.string())))


@click.group()
def quarantine() -> None:
    """Records that failed validation or parsing; their last good version is still served."""


@quarantine.command("list")
@kb_option
@json_option
def quarantine_list(kb_path: Path, as_json: bool) -> int:
    """What is held back, and why."""
    from headwater.cli.render import show_quarantine
    from headwater.flows.held import refusals

    store = open_store(kb_path)
    rows = refusals(store.objects, store.resolve(None))
    slim = [{k: v for k, v in row.items() if k != "payload"} for row in rows]
    print_json(slim) if as_json else show_quarantine(slim)
    return 0


@quarantine.command("show")
@click.argument("source")
@click.argument("key")
@kb_option
@json_option
def quarantine_show(source: str, key: str, kb_path: Path, as_json: bool) -> int:
    """One record as it came in, with every reason."""
    from headwater.cli.render import show_refused
    from headwater.errors import NotFoundError
    from headwater.flows.held import refusals

    store = open_store(kb_path)
    found = refusals(store.objects, store.resolve(None), source=source, key=key)
    if not found:
        raise NotFoundError(
            "No such record in quarantine", obj=f"{source}/{key}", todo="headwater quarantine list"
        )
    print_json(found) if as_json else show_refused(found)
    return 0


@click.group()
def dataset() -> None:
    """Fine-tuning datasets from settled knowledge."""


@dataset.command("emit")
@click.argument("name", required=False)
@click.option("--as-of", help="From this snapshot; the current one when left out.")
@click.option(
    "--unproven", is_flag=True, help="Without evidence that it settled; the card says so."
)
@kb_option
@json_option
def dataset_emit(
    name: str | None, as_of: str | None, unproven: bool, kb_path: Path, as_json: bool
) -> int:
    """Write the dataset NAME of headwater.yaml (all of them when left out) below datasets/."""
    from headwater.cli.render import show_emission
    from headwater.flows.emit import emit_datasets

    names = (name,) if name else ()
    done = emit_datasets(open_kb(kb_path), names, as_of=as_of, unproven=unproven)
    if as_json:
        print_json([emission.as_dict() for emission in done])
    else:
        for emission in done:
            show_emission(emission)
    return 0


@dataset.command("status")
@click.argument("name", required=False)
@kb_option
@json_option
def dataset_status(name: str | None, kb_path: Path, as_json: bool) -> int:
    """What share of each release the current snapshot contradicts. Exits with 5 if one is stale."""
    from headwater.cli.render import show_dataset_status
    from headwater.flows.emit import release_statuses

    found = release_statuses(open_kb(kb_path), (name,) if name else ())
    print_json([s.as_dict() for s in found]) if as_json else show_dataset_status(found)
    if any(s.state == "damaged" for s in found):
        return 6
    return 5 if any(s.state == "stale" for s in found) else 0


@click.command()
@click.option("--quick", is_flag=True, help="Compare sizes; the default.")
@click.option("--deep", is_flag=True, help="Read and hash every byte.")
@kb_option
@json_option
def verify(quick: bool, deep: bool, kb_path: Path, as_json: bool) -> int:
    """Check that the store is what its manifests say. Exits with 6 if it is not."""
    if quick and deep:
        raise click.UsageError(
            "--quick and --deep exclude each other: --quick compares sizes, --deep reads every byte"
        )
    from headwater.cli.render import show_verification
    from headwater.retrieval.index import index_problems
    from headwater.storage.verify import verify as check

    with progress_bars(quiet=as_json) as progress:
        found = check(
            open_store(kb_path),
            deep=deep,
            index_check=index_problems,
            progress=lambda done, total: progress("verify", done, total),
        )
    print_json(found.as_dict()) if as_json else show_verification(found)
    return 0 if found.ok else 6


@click.command()
def schema() -> int:
    """Print the JSON schema of headwater.yaml, for editors."""
    from headwater.config import json_schema

    print_json(json_schema())
    return 0


ASK = (search, status, log, diff, changes, quarantine, dataset, verify, schema)
