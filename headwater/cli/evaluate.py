"""The command that measures: eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.options import json_option, print_json, progress_bars

if TYPE_CHECKING:
    from headwater.flows.evaluate import Evaluation
    from headwater.retrieval.hits import Mode


@click.command("eval")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER"
)
@click.option(
    "--split", default="test", show_default=True, help="Which judgements: qrels/SPLIT.tsv."
)
@click.option(
    "--kb",
    "kb_path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Search this knowledge base, whose keys are the ids of the corpus; index nothing.",
)
@click.option("--as-of", help="With --kb: a snapshot's name or number, a tag or a time.")
@click.option("--source", "-s", "sources", multiple=True, help="With --kb: only this source.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the index here, for the next time; it goes when left out.",
)
@click.option("--model", help="Another embedding model: a name, or the path of a folder.")
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(["hybrid", "dense", "lexical"]),
    help="Only this way to search; all three when left out.",
)
@json_option
def evaluate(
    folder: Path,
    split: str,
    kb_path: Path | None,
    as_of: str | None,
    sources: tuple[str, ...],
    keep: Path | None,
    model: str | None,
    modes: tuple[Mode, ...],
    as_json: bool,
) -> int:
    """Score the search on a judged data set in FOLDER: nDCG@10, Recall@100 and MRR@10.

    FOLDER has the layout of BEIR: corpus.jsonl, queries.jsonl and qrels/test.tsv. The corpus is
    indexed with the default settings, in a temporary folder; nothing is written into FOLDER.
    """
    from headwater.config import DEFAULT_MODEL
    from headwater.flows.evaluate import evaluate as run
    from headwater.retrieval.hits import MODES

    if kb_path is not None and (keep is not None or model is not None):
        raise click.UsageError("--kb is searched as it is: leave out --keep and --model")
    if kb_path is None and (as_of is not None or sources):
        raise click.UsageError("--as-of and --source belong to --kb")
    with progress_bars(quiet=as_json) as progress:
        found = run(
            folder,
            split=split,
            kb=kb_path,
            sources=sources,
            as_of=as_of,
            keep=keep,
            model=model or DEFAULT_MODEL,
            modes=modes or MODES,
            progress=progress,
        )
    print_json(found.as_dict()) if as_json else _show(found)
    return 0


def _show(found: Evaluation) -> None:
    """The scores as a table, and what they were measured on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("search")
    for name in ("nDCG@10", "Recall@100", "MRR@10", "queries", "ms a query"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, scores in found.scores.items():
        shares = (f"{value:.4f}" for value in (scores.ndcg, scores.recall, scores.mrr))
        each = 1000 * found.search_seconds[mode] / max(1, scores.queries)
        table.add_row(mode, *shares, str(scores.queries), f"{each:.0f}")
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        # A pipe has no width, and a wrapped table cannot be read by a program.
        out.width = 200
    out.print(table)
    built = f", indexed in {found.index_seconds:.1f} s" if found.index_seconds else ""
    out.print(f"{found.documents} documents, {found.texts} texts, {found.model}{built}")
    if found.missing:
        out.print(
            f"{found.missing} documents judged relevant are not indexed; they count as not found",
            style="yellow",
        )


EVALUATE = (evaluate,)
