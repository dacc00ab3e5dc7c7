"""Refresh: cold, with nothing new, and after a hundredth of the documents changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpora import SECTIONS, document, write_documents
from benchmarks.figures import Figure
from benchmarks.knowledge import Counter, counter_of, make_base, pulled
from benchmarks.processes import python
from headwater.storage.store import Store

_REAL = 300
_TWIN = 10_000
_SHARE = 100
"""One document of so many changes."""
_RUNS = 5
_EXPORTS = 3


@dataclass(frozen=True)
class Run:
    """A refresh in a process of its own.

    Attributes:
        whole_s: CPU seconds of the process.
        beyond_s: the same without those of a process that imports the same modules, opens the
            store and does nothing.
        disk_bytes: what the files of the store grew by, replaced files counted whole.
        found: what the refresh reported.
    """

    whole_s: float
    beyond_s: float
    disk_bytes: int
    found: dict[str, Any]


def measure(work: Path) -> Iterator[Figure]:
    """Both encodings: the real model for what embedding costs, the twin for all the rest."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        exports = [_one_document(Path(folder) / f"export-{n}") for n in range(_EXPORTS)]
        export = sorted(exports, key=lambda run: run.beyond_s)[_EXPORTS // 2]
        yield Figure(
            "first refresh of one document, CPU",
            export.whole_s,
            "s",
            note=f"median of {_EXPORTS}; {export.beyond_s:.1f} s beyond start-up: "
            "exports the model, once per store",
        )
        yield from _series(Path(folder) / "real", "real", _REAL, once_s=export.beyond_s)
        yield from _series(Path(folder) / "twin", "twin", _TWIN)


def _one_document(root: Path) -> Run:
    make_base(root, {"docs": {"kind": "documents", "root": "docs"}})
    path = root / "docs" / "one.md"
    path.parent.mkdir()
    path.write_text("Water runs downhill.\n", "utf-8")
    return _run(root, "real")


def _series(root: Path, encoding: str, count: int, *, once_s: float = 0.0) -> Iterator[Figure]:
    """The figures of one corpus under one encoding, which costs `once_s` however few the texts."""
    what = f"{count:,} documents, {encoding} model"
    kb = make_base(root, {"docs": {"kind": "documents", "root": "docs"}})
    docs = root / "docs"
    write_documents(docs, range(count))
    cold = _run(root, encoding)
    counter = _counter(root)
    yield from _figures(f"{what}, cold", cold, counter.new(pulled(kb, "docs")), once_s=once_s)
    quiet = [_run(root, encoding) for _ in range(_RUNS)]
    middle = sorted(quiet, key=lambda run: run.beyond_s)[_RUNS // 2]
    changed = range(0, count, _SHARE)
    for number in changed:
        write_documents(docs, range(number, number + 1), edition=1)
    after = _run(root, encoding)
    new = counter.new(document(number, edition=1) for number in changed)

    yield Figure(
        f"{what}, unchanged: CPU beyond start-up",
        middle.beyond_s,
        "s",
        note=f"median of {_RUNS}; whole process {middle.whole_s:.2f} s; "
        f"{_share(middle, cold)} of cold",
        digits=3,
    )
    # With few documents the spread of start-up itself is larger than what is measured.
    if count >= 5000:
        each = middle.beyond_s / count * 1e6
        yield Figure("  per document", each, "µs", most=50, digits=1)
    yield Figure(
        "  bytes written",
        middle.disk_bytes,
        "B",
        most=1024,
        note="a line of the run log and the claim; objects: "
        f"{max(run.found['bytes_written'] for run in quiet)} B in {_RUNS} runs",
        digits=0,
    )
    yield Figure(
        "  texts embedded", max(run.found["embedded"] for run in quiet), most=0, least=0, digits=0
    )
    yield from _figures(f"{what}, 1 % changed", after, new, cold=cold)


def _figures(
    what: str, run: Run, new: int, *, cold: Run | None = None, once_s: float = 0.0
) -> Iterator[Figure]:
    embedded = run.found["embedded"]
    share = f"; {_share(run, cold)} of cold" if cold else ""
    yield Figure(
        f"{what}: CPU beyond start-up",
        run.beyond_s,
        "s",
        note=f"whole process {run.whole_s:.2f} s{share}",
    )
    if cold is None:
        each = (run.beyond_s - once_s) / embedded * 1e3
        note = "the export of the model taken off" if once_s else ""
        yield Figure("  per text embedded", each, "ms", note=note)
    yield Figure(
        "  bytes written", run.disk_bytes / 1e6, "MB", note="growth of the store on disk", digits=3
    )
    yield Figure(
        "  texts embedded",
        embedded,
        least=new,
        most=new,
        note=f"{run.found['documents']:,} documents of {SECTIONS} sections, "
        f"{run.found['texts']:,} texts; target: an independent count of the new ones",
        digits=0,
    )


def _share(run: Run, cold: Run) -> str:
    return f"{run.beyond_s / cold.beyond_s:.2%}"


def _run(root: Path, encoding: str) -> Run:
    before = _files(root / "store")
    cost = python("-m", "benchmarks.child", "refresh", str(root), encoding)
    after = _files(root / "store")
    found = json.loads(cost.out)
    modules = root / "modules.json"
    modules.write_text(json.dumps(found.pop("modules")), "utf-8")
    idle = python("-m", "benchmarks.child", "start-up", str(root), str(modules))
    return Run(cost.cpu_s, cost.cpu_s - idle.cpu_s, _growth(before, after), found)


def _files(store: Path) -> dict[Path, tuple[int, int]]:
    """Path -> size and time of modification."""
    status = {path: path.stat() for path in store.rglob("*") if path.is_file()}
    return {path: (found.st_size, found.st_mtime_ns) for path, found in status.items()}


def _growth(before: dict[Path, tuple[int, int]], after: dict[Path, tuple[int, int]]) -> int:
    """Bytes of every new or replaced file; of the run log, to which lines are added, the growth."""
    return sum(
        size - (before.get(path, (0, 0))[0] if path.suffix == ".jsonl" else 0)
        for path, (size, time_ns) in after.items()
        if before.get(path) != (size, time_ns)
    )


def _counter(root: Path) -> Counter:
    store = Store.open(root / "store")
    encoder = store.resolve(None).encoder
    assert encoder is not None
    return counter_of(encoder, store.objects)
