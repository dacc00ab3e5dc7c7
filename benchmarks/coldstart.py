"""From the start of a process to its first hit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpora import questions
from benchmarks.figures import Figure
from benchmarks.knowledge import searchable
from benchmarks.processes import python

_RUNS = 5
_CODE = """
import sys
from headwater.retrieval import Retriever
assert Retriever.open(sys.argv[1]).search(sys.argv[2])
"""


def measure(work: Path) -> Iterator[Figure]:
    """CPU seconds and peak memory of a process that opens, searches once and ends."""
    what, root = searchable(work)
    cost = python("-c", _CODE, str(root), questions(1)[0], runs=_RUNS)
    note = f"{what}, real encoder; median of {_RUNS} processes, exit included"
    yield Figure("process start to first hit, CPU", cost.cpu_s, "s", most=1.0, note=note, digits=3)
    yield Figure(
        "process start to first hit, memory",
        cost.rss_bytes / 1e6,
        "MB",
        most=300,
        note="peak, mapped files included",
        digits=0,
    )
