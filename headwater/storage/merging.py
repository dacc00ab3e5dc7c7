"""Merging of history: many small files of a table become one, so that a snapshot stays fast to open.

Every refresh that changes something adds a file to each table. Size-tiered, as in a log-structured
merge tree: what is small is merged often and costs little, what is large is left alone. No row is
added, lost or changed; older manifests keep naming the files that were merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.storage import files
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, ROW_GROUP, VERSIONS

FAN_IN = 16
"""Files of one tier that become one. A tier holds files of up to `FAN_IN` times as many rows as the
one below."""


Span = tuple[int, int]
"""Adjacent files, from the first up to and not including the second."""


@dataclass(frozen=True)
class _Order:
    schema: pa.Schema
    keys: tuple[str, ...]


_ORDERS: Final = {
    "versions": _Order(VERSIONS, ("source", "key", "seq")),
    "closures": _Order(CLOSURES, ("source", "key", "seq")),
    "contents": _Order(CONTENTS, ("content_hash",)),
    "chunks": _Order(CHUNKS, ("content_hash", "ordinal")),
}
"""Table -> its columns, and what a merged file is sorted by."""


# --- deciding -------------------------------------------------------------------------------------


def plan_merge(rows: Sequence[int], *, fan_in: int) -> tuple[Span, ...]:
    """Decide which adjacent files of a table become one. Pure.

    Tier after tier, from the smallest: once `fan_in` files of the tier stand behind the last larger
    file, they become one of the next tier, with the smaller ones between them. Small files in front
    of a larger one can collect no more of their kind; they become one at once. So files grow no
    smaller towards the beginning but for a single one in front of each, at most about
    `2 * fan_in * log(rows, fan_in)` of them stand at any time, and a row is rewritten at most twice
    per tier: once where the files that come are of about the same size.

    Args:
        rows: of each file, oldest first.
        fan_in: at least 2.

    Returns:
        The spans of two files and more that become one each, in order; they do not overlap.
    """
    runs = [_Run(at, at + 1, max(count, 1)) for at, count in enumerate(rows)]
    tier = 0
    while any(_tier(run.rows, fan_in) >= tier for run in runs):
        runs = _settled(runs, tier, fan_in)
        tier += 1
    return tuple((run.start, run.stop) for run in runs if run.stop - run.start > 1)


@dataclass(frozen=True)
class _Run:
    """Files that are, or are to be, one."""

    start: int
    stop: int
    rows: int


def _tier(rows: int, fan_in: int) -> int:
    tier = 0
    while rows >= fan_in:
        rows //= fan_in
        tier += 1
    return tier


def _settled(runs: Sequence[_Run], tier: int, fan_in: int) -> list[_Run]:
    """What is left once a tier is dealt with."""
    found: list[_Run] = []
    small: list[_Run] = []
    for run in runs:
        if _tier(run.rows, fan_in) > tier:
            found += [*_joined(small), run]
            small = []
        else:
            small.append(run)
    full = sum(_tier(run.rows, fan_in) == tier for run in small) >= fan_in
    return [*found, *(_joined(small) if full else small)]


def _joined(runs: Sequence[_Run]) -> list[_Run]:
    if not runs:
        return []
    return [_Run(runs[0].start, runs[-1].stop, sum(run.rows for run in runs))]


# --- writing --------------------------------------------------------------------------------------


def merge_history(objects: ObjectStore, manifest: Manifest) -> Manifest:
    """Merge the files of a draft's history where that is due.

    The objects depend on the merged rows alone: a rerun finds them again. The chunks of merged
    contents are merged with them, so that they can still be cut again from one object.

    Args:
        objects: where the files are, and where the merged ones go.
        manifest: a snapshot in the making.

    Returns:
        The draft with fewer files; itself, and nothing written, where nothing is due.

    Raises:
        CorruptObjectError: a file is missing or damaged.
        StorageUnavailableError: the disk is full or read-only.
    """
    spans = {
        table: plan_merge([entry.rows for entry in getattr(manifest, table)], fan_in=FAN_IN)
        for table in ("versions", "closures", "contents")
    }
    spans["chunks"] = _chunk_spans(objects, manifest, spans["contents"])
    changed: dict[str, Any] = {
        table: _rewritten(objects, table, getattr(manifest, table), due)
        for table, due in spans.items()
        if due
    }
    return replace(manifest, **changed) if changed else manifest


def _rewritten(
    objects: ObjectStore, table: str, entries: Sequence[ObjectEntry], spans: Sequence[Span]
) -> tuple[ObjectEntry, ...]:
    found: list[ObjectEntry] = []
    done = 0
    for start, stop in spans:
        found += [*entries[done:start], merge_files(objects, table, entries[start:stop])]
        done = stop
    return (*found, *entries[done:])


def _chunk_spans(
    objects: ObjectStore, manifest: Manifest, contents: Sequence[Span]
) -> tuple[Span, ...]:
    """The files of chunks that hold chunks of one span of contents and of no other.

    After a change of the chunker one file holds the chunks of many; it stays until its contents
    have all become one.
    """
    found: list[Span] = []
    for start, stop in contents:
        hashes = [_hashes(objects, entry) for entry in manifest.contents[start:stop]]
        held = pa.chunked_array([c for column in hashes for c in column.chunks], pa.binary(32))
        last = len(manifest.chunks)
        while last and not _within(objects, manifest.chunks[last - 1], held):
            last -= 1
        first = last
        while first and _within(objects, manifest.chunks[first - 1], held):
            first -= 1
        if last - first > 1:
            found.append((first, last))
    return tuple(found)


def _hashes(objects: ObjectStore, entry: ObjectEntry) -> pa.ChunkedArray:
    return objects.read_table(entry, ["content_hash"])["content_hash"]


def _within(objects: ObjectStore, entry: ObjectEntry, held: pa.ChunkedArray) -> bool:
    """Whether all chunks of a file are of these contents. Mostly its first rows tell."""
    import pyarrow.compute as pc

    with pq.ParquetFile(objects.path(entry)) as file:
        first = file.read_row_group(0, columns=["content_hash"])["content_hash"]
    if not pc.all(pc.is_in(first, value_set=held)).as_py():
        return False
    return bool(pc.all(pc.is_in(_hashes(objects, entry), value_set=held)).as_py())


def merge_files(objects: ObjectStore, table: str, entries: Sequence[ObjectEntry]) -> ObjectEntry:
    """Write the rows of several files as one, sorted; byte for byte as if written at once.

    Holds the columns that rows are sorted by, and of all others one row group of each file.

    Args:
        objects: where the files are, and where the new one goes.
        table: `versions`, `closures`, `contents` or `chunks`.
        entries: the files, oldest first.
    """
    order = _ORDERS[table]
    paths = [objects.path(entry) for entry in entries]
    owner, local = _sorted(paths, order)
    streams = [_Stream(path, order.schema, rows) for path, rows in zip(paths, local, strict=True)]
    kind = f"{table}.parquet"
    draft = objects.draft(kind)
    with (
        files.library_write(draft),
        pq.ParquetWriter(
            draft, order.schema, compression="zstd", write_statistics=False, store_schema=True
        ) as writer,
    ):
        for start in range(0, len(owner), ROW_GROUP):
            group = _gathered(streams, owner[start : start + ROW_GROUP], order.schema)
            writer.write_table(group, row_group_size=ROW_GROUP)
    return objects.adopt(draft, kind, rows=len(owner))


def _sorted(paths: Sequence[Path], order: _Order) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Which file each row of the result comes from, and the order of the rows of each file.

    The order is None where a file is sorted already, as all are that a refresh of one source wrote.
    """
    keys = [pq.read_table(path, columns=list(order.keys), partitioning=None) for path in paths]
    starts = np.cumsum([0, *(table.num_rows for table in keys)])
    by = [(name, "ascending") for name in order.keys]
    rows = _sort_indices(pa.concat_tables(keys), by)
    owner = np.searchsorted(starts, rows, side="right") - 1
    local: list[np.ndarray | None] = []
    for at, table in enumerate(keys):
        own = rows[owner == at] - starts[at]
        local.append(None if np.array_equal(own, np.arange(table.num_rows)) else own)
    return owner, local


def _sort_indices(table: pa.Table, by: list[tuple[str, str]]) -> np.ndarray:
    import pyarrow.compute as pc

    found: np.ndarray = pc.sort_indices(table, sort_keys=by).to_numpy().astype(np.int64)
    return found


class _Stream:
    """The rows of one file in order, a row group at a time; no file is held open in between."""

    def __init__(self, path: Path, schema: pa.Schema, rows: np.ndarray | None) -> None:
        self._schema = schema
        self._groups = self._in_place(path) if rows is None else self._taken(path, rows)
        self._held = schema.empty_table()

    def next(self, count: int) -> Iterator[pa.Table]:
        """The next `count` rows, in pieces."""
        while count:
            if not self._held.num_rows:
                self._held = next(self._groups)
            piece = self._held.slice(0, count)
            self._held = self._held.slice(count)
            count -= piece.num_rows
            yield piece

    def _in_place(self, path: Path) -> Iterator[pa.Table]:
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            with pq.ParquetFile(path, metadata=footer) as file:
                yield self._as_told(file.read_row_group(group))

    def _taken(self, path: Path, rows: np.ndarray) -> Iterator[pa.Table]:
        yield self._as_told(pq.read_table(path, partitioning=None)).take(rows)

    def _as_told(self, table: pa.Table) -> pa.Table:
        return table.select(self._schema.names).cast(self._schema)


def _gathered(streams: Sequence[_Stream], owner: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The next rows of the result, contiguous: pages are cut by it."""
    counts = np.bincount(owner, minlength=len(streams))
    pieces = [
        piece
        for stream, count in zip(streams, counts.tolist(), strict=True)
        for piece in stream.next(count)
    ]
    place = np.empty(len(owner), dtype=np.int64)
    place[np.argsort(owner, kind="stable")] = np.arange(len(owner))
    return pa.concat_tables([schema.empty_table(), *pieces]).combine_chunks().take(place)
