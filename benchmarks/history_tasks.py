"""What `history` runs in processes of their own: `python -m benchmarks.history_tasks TASK ...`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.corpora import document
from benchmarks.history_parts import TABLES, Clock, hash_files, in_turn, joined, read_live, sizes
from benchmarks.rows import (
    DIM,
    SOURCE,
    PreparedSource,
    batches,
    drawn_encoding,
    own_bytes,
    rows,
    rows_base,
    write,
)
from headwater.config import load
from headwater.flows.refresh import RefreshOptions, RefreshRun
from headwater.flows.sources.protocol import Record
from headwater.retrieval.index import index_problems
from headwater.storage.changes import content_hash, metadata_hash
from headwater.storage.feed import change_feed
from headwater.storage.manifest import format_time
from headwater.storage.store import Store
from headwater.storage.vacuum import vacuum
from headwater.storage.verify import verify

CHANGED = 1000
REFRESHES = 100
DOCUMENTS = 100
EARLY = 5
_BUDGET_S = 240
"""What `tiny` may take: it stops then and says how far it got."""
_NEVER_WAIT = timedelta(microseconds=1)


def build(root: Path, count: int) -> dict[str, Any]:
    """Write `count` rows in one refresh, dated so that later refreshes follow it."""
    clock = Clock()
    records = rows(range(count))
    with clock.part("refresh"):
        write(rows_base(root), records, observed_at=datetime.now(UTC) - timedelta(hours=1))
    return {**clock.found, "bytes": own_bytes(records)}


def detect(root: Path, count: int) -> dict[str, Any]:
    """Hash all rows, then refresh from all of them, of which none has changed."""
    _warm_up()
    prepared = batches(rows(range(count)))
    columns = ("text", "title", "url", "metadata", "labels")
    clock = Clock()
    hash_s = hash_cpu_s = 0.0
    for batch in prepared:
        values = list(zip(*(batch.column(c).to_pylist() for c in columns), strict=True))
        with clock.part("batch"):
            for text, *rest in values:
                content_hash(text)
                metadata_hash(*rest)
        hash_s += clock.found.pop("batch_s")
        hash_cpu_s += clock.found.pop("batch_cpu_s")
    with clock.part("all"):
        with clock.part("open"):
            run = _run(root, PreparedSource(prepared))
        with run.claim():
            with clock.part("pull"):
                pulls = [run.pull(name) for name in run.names]
            with clock.part("finish"):
                report = run.finish(pulls)
    if report.published or report.exit_code or report.documents != count:
        raise SystemExit(f"an unchanged extract was not seen as one: {report}")
    return {**clock.found, "hash_s": hash_s, "hash_cpu_s": hash_cpu_s}


def commit(root: Path, count: int, edition: int) -> dict[str, Any]:
    """Commit rows that changed, spread over all keys, from an extract of nothing else."""
    _warm_up()
    changed = rows(range(0, count, count // CHANGED), edition)[:CHANGED]
    clock = Clock()
    with clock.part("open"):
        run = _run(root, PreparedSource(batches(changed), complete=False))
    with run.claim():
        with clock.part("pull"):
            pulls = [run.pull(name) for name in run.names]
        with clock.part("commit"):
            report = run.finish(pulls)
    if not report.published or report.exit_code:
        raise SystemExit(f"the changes were not published: {report}")
    written: Counter[str] = Counter()
    for entry in run.store.objects.written:
        written["tables" if entry.kind in TABLES else "others"] += entry.bytes
    manifest = run.store.root / "snapshots" / f"{report.snapshot}.json"
    return {
        **clock.found,
        "tables_bytes": written["tables"],
        "others_bytes": written["others"],
        "manifest_bytes": manifest.stat().st_size,
        "own_bytes": own_bytes(changed),
    }


def read(root: Path) -> dict[str, Any]:
    """Read the state and the differences of snapshots: medians of warm repeats, taken in turn."""
    store = Store.open(load(root).store)
    chain = [manifest.name() for manifest in store.chain()]
    oldest, before, current = chain[-1], chain[1], chain[0]

    def feed() -> int:
        return int(change_feed(store, before, current).num_rows)

    def join() -> int:
        return joined(store.objects, store.resolve(before), store.resolve(current))

    if feed() != join():
        raise SystemExit(f"the feed has {feed()} changes, the join {join()}")
    what = {
        "current": lambda: read_live(store, None),
        "as_of": lambda: read_live(store, oldest),
        "feed": feed,
        "join": join,
    }
    return {**in_turn(what), "changes": feed(), "snapshots": len(chain)}


def check(root: Path) -> dict[str, Any]:
    """Verify the store deeply; hash the same files without it."""
    store = Store.open(load(root).store)
    clock = Clock()
    # Files are read once before, so that neither pays for the disk.
    hash_files(store)
    with clock.part("plain"):
        plain = hash_files(store)
    with clock.part("verify"):
        found = verify(store, deep=True, index_check=index_problems)
    if not found.ok:
        raise SystemExit(f"the store is damaged: {found.problems}")
    return {**clock.found, "plain_bytes": plain, "bytes": found.bytes, "objects": found.objects}


def grow(root: Path, count: int, dim: int) -> dict[str, Any]:
    """Refresh a hundred times, each time a hundredth of the rows, an hour apart."""
    began = datetime.now(UTC) - timedelta(hours=REFRESHES + 1)
    kb = rows_base(root)
    write(kb, rows(range(count)), observed_at=began, dim=dim)
    for number in range(1, REFRESHES + 1):
        changed = rows(range(number - 1, count, REFRESHES), number)
        at = began + timedelta(hours=number)
        write(kb, changed, complete=False, observed_at=at, dim=dim)
    return sizes(kb.store)


def final(root: Path, count: int, dim: int) -> dict[str, Any]:
    """The state that `grow` ends with, by one refresh."""
    kb = rows_base(root)
    state = (r for n in range(REFRESHES) for r in rows(range(n, count, REFRESHES), n + 1))
    write(kb, state, dim=dim)
    return sizes(kb.store)


def clean(root: Path) -> dict[str, Any]:
    """Vacuum twice, to mark and to delete; not in the process that wrote, which may be at work."""
    kb = load(root)
    store = Store.open(kb.store)
    plans = [
        vacuum(store, config=kb.config.retention, grace=_NEVER_WAIT) for _ in ("mark", "delete")
    ]
    return {"sizes": sizes(kb.store), "kept": plans[-1].kept}


def tiny(root: Path, until: int) -> dict[str, Any]:
    """Change one of a hundred documents until there are so many snapshots; the cost of the last."""
    kb = rows_base(root)
    clock = Clock()
    _warm_up()
    if not kb.store.exists():
        began = datetime.now(UTC) - timedelta(days=2)
        write(kb, (_document(n, 0) for n in range(DOCUMENTS)), observed_at=began)
    store = Store.open(kb.store)
    current = store.resolve(None)
    stop = time.monotonic() + _BUDGET_S
    for seq in range(current.seq + 1, until + 1):
        if time.monotonic() > stop:
            break
        changed = _document(seq % DOCUMENTS, seq)
        at = current.time + timedelta(minutes=seq - current.seq)
        with clock.part("refresh"):
            write(kb, [changed], complete=False, observed_at=at)
    return {**clock.found, "seq": Store.open(kb.store).resolve(None).seq}


def opened(root: Path) -> dict[str, Any]:
    """Open the store, and find a snapshot in the middle by its time."""
    kb = load(root)
    chain = list(Store.open(kb.store).chain())
    middle = format_time(chain[len(chain) // 2].time)
    what: dict[str, Callable[[], Any]] = {
        "current": lambda: Store.open(kb.store).current(),
        "by_time": lambda: Store.open(kb.store).resolve(middle),
    }
    return {**in_turn(what), "snapshots": len(chain)}


# --- parts ----------------------------------------------------------------------------------------


def _warm_up() -> None:
    """Import and compile what a first refresh does, at another place."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        kb = rows_base(Path(folder))
        for edition in range(2):
            write(kb, rows(range(10), edition))


def _run(root: Path, source: PreparedSource) -> RefreshRun:
    return RefreshRun(
        load(root), RefreshOptions(), encoding=drawn_encoding(DIM), sources={SOURCE: source}
    )


def _document(number: int, edition: int) -> Record:
    return Record(key=f"{number:03d}", text=document(number, edition=edition), title=f"No {number}")


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "build": build,
    "detect": detect,
    "commit": commit,
    "read": read,
    "check": check,
    "grow": grow,
    "final": final,
    "clean": clean,
    "tiny": tiny,
    "opened": opened,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))
