"""Parts of the measurements of history: clocks, plain reads to compare with, sizes."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from headwater.storage.manifest import Manifest
from headwater.storage.objects import EMBEDDINGS, ObjectStore
from headwater.storage.store import Store
from headwater.storage.tables import open_tables

TABLES = ("versions.parquet", "closures.parquet", "contents.parquet", "chunks.parquet")
_KINDS = ("tables", "embeddings", "index", "snapshots")
_REPEATS = 5
_WHO = ("live.source", "live.key", "live.content_hash", "live.metadata_hash")


class Clock:
    """Seconds of named parts, on the clock and of the CPU."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part."""
        began = time.perf_counter(), time.process_time()
        yield
        self.found[f"{name}_s"] = time.perf_counter() - began[0]
        self.found[f"{name}_cpu_s"] = time.process_time() - began[1]


def read_live(store: Store, ref: str | None) -> int:
    """Open a snapshot's tables and read every live key and content hash; how many there are."""
    with open_tables(store.objects, store.resolve(ref)) as connection:
        table = connection.sql("select key, content_hash from live").to_arrow_table()
    return int(table.num_rows)


def joined(objects: ObjectStore, first: Manifest, second: Manifest) -> int:
    """How many documents a full join of two snapshots' live tables finds different."""
    selected = f"select {', '.join(_WHO)} from live"
    with open_tables(objects, second) as connection, open_tables(objects, first) as earlier:
        connection.register("old", earlier.sql(selected).to_arrow_table())
        connection.register("new", connection.sql(selected).to_arrow_table())
        found = connection.sql(
            "select source, key from old full join new using (source, key) where "
            "old.content_hash is distinct from new.content_hash "
            "or old.metadata_hash is distinct from new.metadata_hash"
        )
        return int(found.to_arrow_table().num_rows)


def in_turn(what: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Name -> median seconds on the clock of some runs, after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(_REPEATS + 1):
        for name, call in what.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    return {f"{name}_s": median(times[1:]) for name, times in taken.items()}


def hash_files(store: Store) -> int:
    """Hash every object of a store with `hashlib` alone; returns their bytes."""
    total = 0
    for entry, path in store.objects.listing():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        total += entry.bytes
    return total


def sizes(store: Path) -> dict[str, int]:
    """Bytes of a store's files by kind, as a listing shows them; `records` is all the rest."""
    found: Counter[str] = Counter()
    for path in store.rglob("*"):
        if not path.is_file():
            continue
        kind = path.relative_to(store).parts[0]
        if kind == "objects":
            suffix = path.name.partition(".")[2]
            kind = (
                "tables" if suffix in TABLES else "embeddings" if suffix == EMBEDDINGS else "index"
            )
        found[kind if kind in _KINDS else "records"] += path.stat().st_size
    return dict(found)
