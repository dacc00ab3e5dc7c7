"""Calls timed in turn, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.figures import Figure

Call = Callable[[int], Any]
"""Does what is measured for the query of this number."""


def clocks() -> np.ndarray:
    """CPU seconds of this process, all threads, and seconds on the clock: float64 (2,)."""
    return np.array([time.process_time(), time.perf_counter()])


def in_turn(calls: Mapping[str, Call], queries: int, *, rounds: int) -> dict[str, np.ndarray]:
    """What each call cost for each query, after one round that is not counted.

    Calls that follow each other ask different queries, so that none finds in the caches what
    another one looked at for it; and which one follows which turns from step to step.

    Returns:
        float64 (rounds * queries, 2) under each name: CPU and wall seconds.
    """
    names = list(calls)
    times: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for step in range((rounds + 1) * queries):
        first = step % len(names)
        for place, name in enumerate((*names[first:], *names[:first])):
            query = (step + place * queries // len(names)) % queries
            began = clocks()
            calls[name](query)
            taken = clocks() - began
            if step >= queries:
                times[name].append(taken)
    return {name: np.array(found) for name, found in times.items()}


def half(times: np.ndarray) -> float:
    """The median CPU milliseconds. times: float64 (n, 2), CPU and wall seconds."""
    return float(np.median(times[:, 0])) * 1000


def latency(
    what: str, times: np.ndarray, *, most: float | None = None, note: str = ""
) -> Iterator[Figure]:
    """CPU milliseconds at p50 and p95, the wall beside them. times: float64 (n, 2), in seconds.

    Args:
        what: was timed.
        times: CPU and wall.
        most: target of the median.
        note: of the first figure.
    """
    for share, bound, told in ((50, most, note), (95, None, "")):
        cpu, wall = np.percentile(times, share, axis=0) * 1000
        text = "; ".join(part for part in (f"wall {wall:.2f} ms", told) if part)
        yield Figure(f"{what}, p{share} CPU", float(cpu), "ms", most=bound, note=text, digits=3)


def ratio(
    what: str, times: np.ndarray, to: np.ndarray, *, most: float | None = None, note: str = ""
) -> Figure:
    """The quotient of two medians of CPU time; that of the wall beside it."""
    cpu, wall = np.median(times, axis=0) / np.median(to, axis=0)
    text = "; ".join(part for part in (f"wall {wall:.2f}", note) if part)
    return Figure(what, float(cpu), "×", most=most, note=text)
