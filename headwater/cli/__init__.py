"""The command line: parse, call one library function, render as text or JSON.

Never decides anything a library caller could not, and imports nothing heavy before a command runs.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence

import click

from headwater import __version__
from headwater.cli.answer import ANSWER
from headwater.cli.approve import APPROVE
from headwater.cli.ask import ASK
from headwater.cli.backfill import BACKFILL
from headwater.cli.change import CHANGE
from headwater.cli.evaluate import EVALUATE
from headwater.cli.explore import EXPLORE
from headwater.cli.forget import FORGET
from headwater.cli.keep import KEEP
from headwater.cli.mcp import MCP
from headwater.cli.queries import QUERIES
from headwater.cli.serve import SERVE
from headwater.cli.sources import SOURCES
from headwater.cli.trail import TRAIL
from headwater.errors import EXIT_CODES, HeadwaterError

_EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code:>3}  {text}" for code, text in EXIT_CODES.items()
)


@click.group(
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="headwater")
def cli() -> None:
    """Keep the knowledge an AI application answers from fresh, versioned and provable.

    Every command works on the knowledge base in the current folder, or in the one that --kb (or the
    variable HEADWATER_KB) names.
    """


for command in (
    *CHANGE,
    *APPROVE,
    *BACKFILL,
    *SOURCES,
    *ASK,
    *ANSWER,
    *EVALUATE,
    *EXPLORE,
    *TRAIL,
    *KEEP,
    *FORGET,
    *SERVE,
    *MCP,
    *QUERIES,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (and is the console script).

    A `HeadwaterError` becomes a message of three parts on stderr, or a JSON object with `--json`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Bytes of a terminal that are no text, and what its encoding has no sign for, are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # The retry library reports every attempt; what came of them is in the refresh's own report.
    logging.getLogger("stamina").addHandler(logging.NullHandler())
    try:
        result = cli.main(args=words, prog_name="headwater", standalone_mode=False)
        return int(result or 0)
    except HeadwaterError as error:
        if "--json" in words:
            click.echo(json.dumps(error.as_dict()))
        else:
            click.echo(f"headwater: {error}", err=True)
        return error.exit_code
    except click.exceptions.Abort:
        click.echo("headwater: interrupted; the published snapshot is untouched", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough; say nothing, and keep Python from flushing again.
        sys.stderr.close()
        return 0
