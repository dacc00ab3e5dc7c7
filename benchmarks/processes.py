"""What a whole process costs: CPU seconds of all its threads, and its peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[1]
_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Cost:
    """Of one process, or the medians of several runs.

    Attributes:
        cpu_s: CPU seconds, user and system, all threads.
        rss_bytes: peak resident memory, mapped files included.
        out: what the (last) process printed.
    """

    cpu_s: float
    rss_bytes: int
    out: str


def cost_of(*command: str, runs: int = 1) -> Cost:
    """Run a command so many times, each in a fresh process, and take medians.

    Raises:
        RuntimeError: it failed; the message holds its last words.
    """
    found = [_run(command) for _ in range(runs)]
    return Cost(
        median(cost.cpu_s for cost in found),
        int(median(cost.rss_bytes for cost in found)),
        found[-1].out,
    )


def python(*arguments: str, runs: int = 1) -> Cost:
    """The cost of this Python interpreter with these arguments."""
    return cost_of(sys.executable, *arguments, runs=runs)


def _run(command: tuple[str, ...]) -> Cost:
    launched = subprocess.run(
        [sys.executable, "-I", str(_LAUNCH), *command],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(launched.stdout)
    if found["code"]:
        last = found["errors"].strip()[-2000:]
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {found['code']}:\n{last}")
    return Cost(found["cpu_s"], found["rss_bytes"], found["out"])
