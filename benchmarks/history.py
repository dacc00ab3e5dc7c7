"""History: what it costs to keep every version, as ratios of what is measured in the same run.

`HEADWATER_BENCH_ROWS=10000 python -m benchmarks history` runs it small. Each measurement has a
process of its own, so that no memory carries over; what it imports is imported beforehand.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, skipped
from benchmarks.history_tasks import CHANGED, DOCUMENTS, EARLY, REFRESHES
from benchmarks.processes import python

ROWS = 200_000
_INTENDED = 1_000_000
_FEWER = (
    f"; the targets are meant for {_INTENDED:,} rows, whose first refresh alone takes longer than "
    f"five minutes: HEADWATER_BENCH_ROWS={_INTENDED}"
)
_SMALLER = 10
"""The commit is compared with the one in a store of so many times fewer rows."""
_DISK_ROWS = 20_000
_DIMS = (384, 8)
"""As all-MiniLM-L6-v2 has, and so few that the tables weigh most."""
_RUNS = 3
_SNAPSHOTS = 1000
_MB = 1e6

Found = dict[str, Any]


def measure(work: Path, *, rows: int | None = None) -> Iterator[Figure]:
    """All figures.

    Args:
        work: not used; the stores are made anew, because the figures are about making them.
        rows: of the large store; `HEADWATER_BENCH_ROWS`, or else `ROWS`, when None.
    """
    count = rows or int(os.environ.get("HEADWATER_BENCH_ROWS", ROWS))
    if count < CHANGED * _SMALLER:
        yield skipped("history", f"at least {CHANGED * _SMALLER:,} rows are needed")
        return
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        yield from _large(Path(folder), count)
        for dim in _DIMS:
            yield from _disk(Path(folder) / f"disk-{dim}", min(count, _DISK_ROWS), dim)
        yield from _small(Path(folder) / "tiny", _SNAPSHOTS if count >= ROWS else _SNAPSHOTS // 5)


def _task(name: str, root: Path, *numbers: int) -> Found:
    found: Found = json.loads(
        python("-m", "benchmarks.history_tasks", name, str(root), *map(str, numbers)).out
    )
    return found


# --- a large store --------------------------------------------------------------------------------


def _large(folder: Path, count: int) -> Iterator[Figure]:
    small, large = folder / "small", folder / "large"
    _task("build", small, count // _SMALLER)
    built = _task("build", large, count)
    yield Figure(
        f"first refresh of {count:,} rows",
        built["refresh_s"],
        "s",
        note=f"{built['refresh_cpu_s']:.0f} CPU-s; {built['bytes'] / count:.0f} bytes a row, "
        "no model and no graph: a store to measure with" + (_FEWER if count < _INTENDED else ""),
        digits=0,
    )
    yield from _detection(_task("detect", large, count), count)
    yield from _commits(small, large, count)
    yield from _reads(_task("read", large))
    yield _verification(_task("check", large))


def _detection(found: Found, count: int) -> Iterator[Figure]:
    yield Figure(
        f"unchanged extract of {count:,} rows, over hashing them",
        found["all_s"] / found["hash_s"],
        most=2.5,
        note=f"refresh {found['all_s']:.2f} s (the store's state {found['open_s']:.2f}, "
        f"pull {found['pull_s']:.2f}, the rest {found['finish_s']:.2f}), hashing of text and "
        f"metadata {found['hash_s']:.2f} s; the batches were made beforehand",
    )
    yield Figure("  the same in CPU seconds", found["all_cpu_s"] / found["hash_cpu_s"])


def _commits(small: Path, large: Path, count: int) -> Iterator[Figure]:
    """`RefreshRun.finish` after an extract of nothing but the changed rows."""
    runs = {
        root: [_task("commit", root, size, edition) for edition in range(1, _RUNS + 1)]
        for root, size in ((small, count // _SMALLER), (large, count))
    }
    of = {root: _medians(found) for root, found in runs.items()}
    yield Figure(
        f"commit of {CHANGED:,} rows at {count:,}, over that at {count // _SMALLER:,}",
        of[large]["commit_s"] / of[small]["commit_s"],
        most=1.5,
        note=f"{of[large]['commit_s']:.2f} s and {of[small]['commit_s']:.2f} s, medians of {_RUNS} "
        "processes, from the judged rows to CURRENT; before it, detection took "
        f"{of[large]['open_s'] + of[large]['pull_s']:.2f} s and "
        f"{of[small]['open_s'] + of[small]['pull_s']:.2f} s",
    )
    yield Figure("  the same in CPU seconds", of[large]["commit_cpu_s"] / of[small]["commit_cpu_s"])
    last = of[large]
    yield Figure(
        "  bytes of tables written, over the rows' own",
        last["tables_bytes"] / last["own_bytes"],
        most=1.5,
        note="versions, closures, contents, chunks over key, text, title, link and metadata; "
        f"also {last['others_bytes'] / last['own_bytes']:.2f} of vectors and the index, "
        f"and a manifest of {last['manifest_bytes'] / 1e3:.1f} kB",
    )


def _reads(found: Found) -> Iterator[Figure]:
    yield Figure(
        "reading the oldest snapshot, over the current one",
        found["as_of_s"] / found["current_s"],
        most=2.0,
        note=f"every live key and content hash by DuckDB: {found['as_of_s'] * 1e3:.0f} ms and "
        f"{found['current_s'] * 1e3:.0f} ms, medians in one process",
    )
    yield Figure(
        "change feed of two adjacent snapshots, times faster than a join",
        found["join_s"] / found["feed_s"],
        least=30,
        note=f"{found['changes']:,} changes in {found['feed_s'] * 1e3:.1f} ms; a full join of the "
        f"live tables in DuckDB {found['join_s'] * 1e3:.0f} ms",
        digits=1,
    )


def _verification(found: Found) -> Figure:
    plain = found["plain_bytes"] / found["plain_s"] / _MB
    return Figure(
        "verify --deep",
        found["bytes"] / found["verify_s"] / _MB,
        "MB/s",
        least=500,
        note=f"{found['bytes'] / _MB:,.0f} MB in {found['objects']:,} objects, "
        f"{found['verify_s']:.2f} s; hashlib.sha256 alone over the files {plain:,.0f} MB/s",
        digits=0,
    )


def _medians(runs: list[Found]) -> dict[str, float]:
    return {name: median(run.get(name, 0) for run in runs) for name in runs[0]}


# --- many snapshots -------------------------------------------------------------------------------


def _disk(root: Path, count: int, dim: int) -> Iterator[Figure]:
    raw = _task("grow", root / "grown", count, dim)
    _task("final", root / "final", count, dim)
    found = _task("clean", root / "grown")
    grown, live = found["sizes"], _task("clean", root / "final")["sizes"]
    whole = sum(live.values())
    parts = ", ".join(f"{name} {size / whole:.2f}" for name, size in sorted(grown.items()))
    yield Figure(
        f"disk after {REFRESHES} refreshes of 1 % of {count:,} rows of {dim} dimensions, "
        "over the live data",
        sum(grown.values()) / whole,
        most=2.2,
        note=f"{parts}; one an hour, {found['kept']} snapshots kept, after two vacuums; "
        f"before them {sum(raw.values()) / whole:.2f}; live: {whole / _MB:.1f} MB, "
        "one refresh of the final state, cleaned up in the same way",
    )
    for name in ("tables", "embeddings", "index"):
        yield Figure(
            f"  {name} alone",
            grown.get(name, 0) / live[name],
            note=f"{grown.get(name, 0) / _MB:.1f} MB of {live[name] / _MB:.1f} MB live",
        )


def _small(root: Path, snapshots: int) -> Iterator[Figure]:
    _task("tiny", root, EARLY - 1)
    early = _task("tiny", root, EARLY)
    _task("tiny", root, REFRESHES - 1)
    late = _task("tiny", root, REFRESHES)
    yield Figure(
        f"refresh {REFRESHES} of {DOCUMENTS} documents, over refresh {EARLY}, CPU",
        late["refresh_cpu_s"] / early["refresh_cpu_s"],
        note=f"{late['refresh_cpu_s']:.3f} and {early['refresh_cpu_s']:.3f} CPU-s, one document "
        "changed, each in a process of its own with everything imported",
    )
    grown = _task("tiny", root, snapshots)
    found = _task("opened", root)
    note = f"current {found['current_s'] * 1e3:.2f} ms; medians"
    if found["snapshots"] < _SNAPSHOTS:
        note += f"; {found['snapshots']:,} of the {_SNAPSHOTS:,} intended"
    yield Figure(
        f"open a store of {found['snapshots']:,} snapshots, by a time in the middle",
        found["by_time_s"] * 1e3,
        "ms",
        most=50,
        note=note,
        digits=1,
    )
    yield Figure(
        f"  refresh {grown['seq']:,}",
        grown["refresh_cpu_s"],
        "CPU-s",
        note="one document",
        digits=3,
    )
