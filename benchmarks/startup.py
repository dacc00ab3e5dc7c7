"""What it costs to start: the command line, and the import of the library that searches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.processes import cost_of, python

_RUNS = 5


def measure(work: Path) -> Iterator[Figure]:
    """CPU seconds and peak memory, medians of fresh processes."""
    note = f"median of {_RUNS} processes"
    headwater = Path(sys.executable).with_name("headwater")
    cost = cost_of(str(headwater), "--help", runs=_RUNS)
    yield Figure("headwater --help, CPU", cost.cpu_s, "s", most=0.3, note=note, digits=3)
    yield Figure("headwater --help, memory", cost.rss_bytes / 1e6, "MB", note=note, digits=0)
    cost = python("-c", "import headwater.retrieval", runs=_RUNS)
    yield Figure("import headwater.retrieval, CPU", cost.cpu_s, "s", note=note, digits=3)
    yield Figure("import headwater.retrieval, memory", cost.rss_bytes / 1e6, "MB", digits=0)
