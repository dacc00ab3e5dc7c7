"""Commands about sources: which there are, and what one holds and costs."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.options import json_option, kb_option, open_kb, print_json

if TYPE_CHECKING:
    from headwater.flows.checking import Reading, SourceCheck


@click.group()
def sources() -> None:
    """List the sources, or check one: does it answer, what does it hold, what does it cost?"""


@sources.command("list")
@kb_option
@json_option
def list_all(kb_path: Path, as_json: bool) -> int:
    """The sources of headwater.yaml, and the kinds that installed packages provide."""
    from headwater.flows.checking import list_kinds, list_sources

    found, kinds = list_sources(open_kb(kb_path)), list_kinds()
    if as_json:
        print_json({"sources": [asdict(entry) for entry in found], "kinds": kinds})
        return 0
    for entry in found:
        lack = "" if entry.registered else "  (no installed package provides this kind)"
        told = f"{entry.documents:,} documents, {entry.state}"
        click.echo(f"{entry.source:<24} {entry.kind:<12} {told}{lack}")
    click.echo("")
    for kind, value in kinds.items():
        click.echo(f"kind {kind:<12} {value}")
    return 0


@sources.command()
@click.argument("source")
@kb_option
@json_option
def check(source: str, kb_path: Path, as_json: bool) -> int:
    """Connect to SOURCE and read some of it; nothing is written.

    Shows five records, the fields, how a refresh will find out what changed, and what that costs.
    """
    from headwater.flows.checking import check_source

    found = check_source(open_kb(kb_path), source)
    print_json(found.as_dict()) if as_json else _show(found)
    return 0


def _show(found: SourceCheck) -> None:
    click.echo(f"{found.source} ({found.kind}) answers")
    for record in found.records:
        text = " ".join((record["text"] or record["error"] or "").split())
        shown = textwrap.shorten(text, 100, placeholder=" …")
        title = f" [{record['title']}]" if record["title"] else ""
        click.echo(f"  {record['key']}{title}: {shown}")
    click.echo("fields:")
    for field in found.fields:
        longest = f", up to {field.longest:,} characters" if field.longest else ""
        kinds = " or ".join(field.types)
        click.echo(f"  {field.name:<24} {kinds}, in {field.filled:.0%} of the records{longest}")
    click.echo(f"strategy: {found.strategy}")
    click.echo(f"first refresh: {_cost(found.first)}")
    if found.quiet is not None:
        click.echo(f"a refresh without news: {_cost(found.quiet)}")


def _cost(reading: Reading) -> str:
    more = "" if reading.ended else "; there is more, the check stopped here"
    note = f" ({reading.note})" if reading.note else ""
    return f"{reading.records:,} records listed in {reading.seconds:.2f} s{note}{more}"


SOURCES = (sources,)
