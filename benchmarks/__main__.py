"""Run measurements and print a table: `python -m benchmarks [NAME ...] [--json PATH]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.corpora import ABSENT, SHARED
from benchmarks.figures import Figure, skipped
from benchmarks.processes import REPOSITORY
from benchmarks.registry import MEASUREMENTS
from headwater.errors import HeadwaterError

_VERDICTS = {True: "[green]ok[/]", False: "[bold red]missed[/]", None: ""}


def main() -> int:
    """Measure what the command line names, or everything; 1 when a measurement could not be made.

    A missed target is a line in the table and no failure: other work on the machine costs too.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"no such measurement: {', '.join(unknown)}; one of {', '.join(MEASUREMENTS)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    facts = _facts()
    console.print(escape(", ".join(f"{name} {value}" for name, value in facts.items())))
    began = time.monotonic(), _cpu()
    chosen = [name for name in MEASUREMENTS if name in (arguments.names or MEASUREMENTS)]
    found: dict[str, list[Figure]] = {name: [] for name in chosen}
    failed = [name for name in chosen if not _measured(name, found[name], console)]
    wall, cpu = time.monotonic() - began[0], _cpu() - began[1]
    console.print(_table(found))
    missed = sum(figure.ok is False for figures in found.values() for figure in figures)
    console.print(f"{missed} targets missed; {wall:.0f} s on the clock, {cpu:.0f} CPU-s in all")
    if arguments.json:
        figures = {name: [f.as_dict() for f in some] for name, some in found.items()}
        report = {"machine": facts, "wall_s": wall, "cpu_s": cpu, "figures": figures}
        arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 1 if failed else 0


def _measured(name: str, into: list[Figure], console: Console) -> bool:
    """Put the figures of one measurement into `into`; whether all of them could be had."""
    console.print(f"measuring {name} …", style="dim")
    try:
        into.extend(MEASUREMENTS[name](_work()))
    except (HeadwaterError, RuntimeError, CalledProcessError) as error:
        into.append(skipped(name, f"failed: {error}"))
        return False
    return True


def _work() -> Path:
    """What is kept between runs; the folder hides itself from git."""
    work = REPOSITORY / ".benchmarks"
    work.mkdir(exist_ok=True)
    (work / ".gitignore").write_text("*\n", "utf-8")
    return work


def _table(found: dict[str, list[Figure]]) -> Table:
    table = Table(header_style="bold", show_lines=False)
    table.add_column("what")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("how", overflow="fold", style="dim")
    for name, figures in found.items():
        table.add_section()
        table.add_row(f"[bold]{name}[/]")
        for figure in figures:
            table.add_row(
                escape(figure.what),
                figure.measured,
                figure.target,
                _VERDICTS[figure.ok],
                escape(figure.note),
            )
    return table


def _facts() -> dict[str, Any]:
    """What the figures depend on."""
    load = f"{os.getloadavg()[0]:.1f}"
    corpora = "present" if (SHARED / "replay.py").is_file() else ABSENT
    return {
        "Python": platform.python_version(),
        "on": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "load": load,
        "shared corpora:": corpora,
    }


def _cpu() -> float:
    """CPU seconds of this process and of its children so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
