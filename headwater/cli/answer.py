"""The command that answers: answer."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.options import Duration, Time, json_option, kb_option, open_kb, print_json

if TYPE_CHECKING:
    from headwater.retrieval.answers import Answer
    from headwater.retrieval.hits import Mode


@click.command()
@click.argument("question")
@click.option("-k", type=click.IntRange(1, 100), help="Passages shown to the model at most.")
@click.option("--as-of", help="A snapshot's name or number, or a time: what was known then.")
@click.option("--source", "-s", "sources", multiple=True, help="Only this source.")
@click.option("--where", metavar="FILTER", help="Only documents that pass; see docs/filters.md.")
@click.option("--label", "labels", multiple=True, help="Ask as a caller who holds this label.")
@click.option("--changed-since", type=Time(), help="Only documents that changed later.")
@click.option(
    "--max-staleness", type=Duration(), help="Only what was confirmed this lately: 6h, 1d."
)
@click.option(
    "--mode",
    default="hybrid",
    show_default=True,
    type=click.Choice(["hybrid", "dense", "lexical"]),
    help="How passages are looked for.",
)
@click.option(
    "--prompt", "prompt_only", is_flag=True, help="Print the grounded prompt, ask nobody."
)
@kb_option
@json_option
def answer(
    question: str,
    k: int | None,
    as_of: str | None,
    sources: tuple[str, ...],
    where: str | None,
    labels: tuple[str, ...],
    changed_since: datetime | None,
    max_staleness: timedelta | None,
    mode: Mode,
    prompt_only: bool,
    kb_path: Path,
    as_json: bool,
) -> int:
    """Answer QUESTION from the knowledge base, with citations that are checked.

    The model that writes is 'answers.endpoint' in headwater.yaml; without one the grounded prompt
    is printed, for a model of your own. Exit code 4 means that the answer failed a check.
    """
    from headwater.retrieval import Retriever
    from headwater.retrieval.answers import answer_stream

    kb = open_kb(kb_path)
    config = kb.config.answers
    changes: dict[str, object] = {"passages": k or config.passages}
    if prompt_only:
        changes["endpoint"] = None
    with (
        Retriever.open(kb_path) as retriever,
        answer_stream(
            retriever,
            question,
            config=config.model_copy(update=changes),
            as_of=as_of,
            sources=sources or None,
            where=where,
            allow=labels or None,
            changed_since=changed_since,
            max_staleness=max_staleness,
            mode=mode,
            freshness={name: source.freshness for name, source in kb.config.sources.items()},
        ) as pieces,
    ):
        for piece in pieces:
            if not as_json:
                click.echo(piece, nl=False)
        found = pieces.answer
    if as_json:
        print_json(found.as_dict())
    elif not found.asked and not found.abstained:
        click.echo("\n\n".join(message["content"] for message in found.prompt.messages))
    else:
        _show(found)
    return 4 if found.text and not found.grounded else 0


def _show(found: Answer) -> None:
    """What stands behind the text that was just printed."""
    if found.abstained:
        click.echo("The knowledge base does not hold the answer.")
    click.echo()
    for number, hit in found.citations.items():
        click.echo(
            f"[{number}] {hit.title or hit.key} {hit.cite()}{f' {hit.url}' if hit.url else ''}"
        )
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)


ANSWER = (answer,)
