"""Is the store what its manifests say? Read-only; every problem is named, none is mended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import HeadwaterError
from headwater.storage.consistency import IndexCheck, snapshot_problems
from headwater.storage.manifest import Manifest
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore
from headwater.storage.retention import needed_objects
from headwater.storage.retired import read_retired
from headwater.storage.store import Store
from headwater.storage.unindexed import unsearchable

_WORKERS = 2
"""Threads that read and hash: small files keep one processor busy in Python, large ones do not."""
_BATCH = 32
_BATCH_BYTES = 4 << 20
"""What a thread takes at once, to the next whole object."""


@dataclass(frozen=True)
class Verification:
    """What `verify` looked at and what it found.

    Attributes:
        deep: whether every byte was read.
        problems: one sentence each, naming the object; empty when all is well.
    """

    deep: bool
    snapshots: int
    objects: int
    bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "ok": self.ok}


def verify(
    store: Store,
    *,
    deep: bool = False,
    index_check: IndexCheck,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check the chain, every object it names, and that the current snapshot is consistent.

    Args:
        store: what to check.
        deep: read and hash every object, and look for the vectors of snapshots that let go of their
            index; otherwise only sizes are compared.
        index_check: lists what is wrong with a snapshot's index.
        progress: called with (objects checked, objects).
    """
    problems: list[str] = []
    manifests: list[Manifest] = []
    try:
        manifests.extend(store.chain())
    except HeadwaterError as error:
        problems.append(str(error))
    problems += _erasure_problems(store, manifests)
    retired = read_retired(store.root)
    entries = needed_objects((m for m in manifests if m.name() not in retired), manifests)
    if deep:
        entries |= {e.name: e for e, _ in store.objects.listing() if e.kind == EMBEDDINGS}
    for done, problem in enumerate(_object_problems(store.objects, entries.values(), deep)):
        if problem:
            problems.append(problem)
        progress(done + 1, len(entries))
    if deep:
        problems += unsearchable(store.objects, (m for m in manifests if m.name() not in retired))
    if manifests and not problems:
        # Between the record of an erasure and CURRENT, the manifest counts what is erased already.
        erased = any(record.covers(manifests[0]) for record in store.redactions().records)
        problems += snapshot_problems(store.objects, manifests[0], index_check, counted=not erased)
    return Verification(
        deep, len(manifests), len(entries), sum(e.bytes for e in entries.values()), tuple(problems)
    )


def _erasure_problems(store: Store, manifests: Sequence[Manifest]) -> list[str]:
    """Where the chain and the records of erasures disagree."""
    try:
        recorded = {record.snapshot for record in store.redactions().records}
    except HeadwaterError as error:
        return [str(error)]
    return [
        f"{manifest.name()}: the record of its erasure is missing from redactions/"
        for manifest in manifests
        if manifest.cause == "erasure" and manifest.name() not in recorded
    ]


def _object_problems(
    objects: ObjectStore, entries: Iterable[ObjectEntry], deep: bool
) -> Iterator[str]:
    """What is wrong with each object, in their order; empty where it is whole."""

    def check(batch: list[ObjectEntry]) -> list[str]:
        return [_object_problem(objects, entry, deep) for entry in batch]

    with ThreadPoolExecutor(_WORKERS) as pool:
        for found in pool.map(check, _batches(entries)):
            yield from found


def _batches(entries: Iterable[ObjectEntry]) -> Iterator[list[ObjectEntry]]:
    batch: list[ObjectEntry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.bytes
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _object_problem(objects: ObjectStore, entry: ObjectEntry, deep: bool) -> str:
    try:
        objects.verify(entry, deep=deep)
        if entry.rows and entry.kind.endswith(".parquet"):
            rows = pq.read_metadata(objects.root / entry.name).num_rows
            if rows != entry.rows:
                return f"objects/{entry.name}: {rows} rows, the manifest says {entry.rows}"
    except HeadwaterError as error:
        return f"{error.what}: {error.obj}"
    except (OSError, pa.ArrowInvalid) as error:
        return f"objects/{entry.name}: {error}"
    return ""
