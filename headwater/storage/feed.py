"""The change feed: what a consumer must do to follow the store from one snapshot to another.

Between a snapshot and its descendant, the feed comes from the files that only the descendant names:
its cost grows with what changed, and with the older rows that were merged with it since. Across a
rollback there is no such range; two states are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from headwater.storage.history import Told, differences, live_state
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.store import Store

FEED = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("op", pa.string()),
        ("before_version_id", pa.string()),
        ("after_version_id", pa.string()),
        ("renamed_from", pa.string()),
        ("known_at", pa.timestamp("us", tz="UTC")),
        ("seq", pa.int64()),
    ]
)
"""One row per document that differs, sorted by source and key. `op`: `added`, `changed`,
`metadata`, `renamed`, `removed`. `known_at` and `seq` tell the snapshot in which the later version
began, or the document ended; where a rollback or a step back in time brought it about: the later
snapshot of the two compared."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNKNOWN = b""
"""Stands for the hash of a content that is known to differ from every content it is compared with."""

Hashes = Mapping[str, tuple[bytes, bytes]]

# Thousands of these are made for each feed. `known_at` counts microseconds since 1970, as the column
# does.


class Begun(NamedTuple):
    """A row of `versions`."""

    version_id: str
    source: str
    key: str
    content_hash: bytes
    metadata_hash: bytes
    known_at: int
    seq: int
    renamed_from: str | None


class Ended(NamedTuple):
    """A row of `closures`."""

    version_id: str
    source: str
    key: str
    op: str
    known_at: int
    seq: int


class Event(NamedTuple):
    """What rows of both tell."""

    version_id: str
    source: str
    key: str
    known_at: int
    seq: int


class Earlier(NamedTuple):
    """A version of the earlier snapshot, as far as it is known."""

    version_id: str
    content_hash: bytes
    metadata_hash: bytes


Row = Begun | Ended | Event
R = TypeVar("R", Begun, Ended, Event)
Keyed = Mapping[str, Mapping[str, R]]
"""Source -> key -> row."""


@dataclass(frozen=True)
class Range:
    """What only the later of two snapshots holds.

    Attributes:
        begun, ended: its rows of `versions` and `closures` that the earlier one does not hold.
        fresh: the contents that the earlier snapshot's history did not hold.
    """

    begun: tuple[Begun, ...]
    ended: tuple[Ended, ...]
    fresh: frozenset[bytes]


@dataclass(frozen=True)
class Net:
    """A range with all that cancels out inside it taken away.

    Attributes:
        old: the closures of versions of the earlier snapshot.
        new: the versions that the later snapshot holds instead.
        last: the last closure of each key.
        origin: version of the earlier snapshot -> its content, where a rename tells it.
    """

    old: Keyed[Ended]
    new: Keyed[Begun]
    last: Keyed[Ended]
    origin: Mapping[str, bytes]


def change_feed(store: Store, before: str | None, after: str | None = None) -> pa.Table:
    """The documents that differ between two snapshots, as a table of `FEED`.

    If `after` descends from `before` without a rollback in between, only the files that `before`
    does not name are read, and of the contents those that were merged since. The one exception: for
    documents that got a content the store held already, or new metadata only, three narrow columns
    of the older version files tell what they were.

    Args:
        store: that holds both.
        before: as for `Store.resolve`; None is the current snapshot.
        after: the same.

    Raises:
        NotFoundError: one of them does not exist.
    """
    first, second = store.resolve(before), store.resolve(after)
    added = _range(store.objects, first, second) if _descends(store, first, second) else None
    if added is None:
        return _compared(store.objects, first, second)
    found = net(added)
    wanted = undecided(found, added.fresh)
    hashes = _hashes(store.objects, first.versions, wanted) if wanted else {}
    return _table(netted_changes(found, hashes), found.new, found.last, second)


# --- deciding -------------------------------------------------------------------------------------


def net(found: Range) -> Net:
    """Take away versions that began and ended inside the range."""
    begun = {row.version_id for row in found.begun}
    gone = {row.version_id for row in found.ended}
    heirs = {(r.source, r.seq, r.renamed_from): r for r in found.begun if r.renamed_from}
    origin = {}
    for row in found.ended:
        if row.op == "renamed" and (heir := heirs.get((row.source, row.seq, row.key))):
            origin[row.version_id] = heir.content_hash
    return Net(
        _by_key(row for row in found.ended if row.version_id not in begun),
        _by_key(row for row in found.begun if row.version_id not in gone),
        _by_key(sorted(found.ended, key=attrgetter("seq"))),
        origin,
    )


def undecided(found: Net, fresh: frozenset[bytes]) -> set[str]:
    """The earlier versions whose hashes are needed to tell what happened to their documents.

    A content that is new to the store differs from all that went before; any other may be what the
    document held, or what a document under another key held.
    """
    wanted: set[str] = set()
    for source, old in found.old.items():
        new = found.new.get(source, {})
        wanted |= {
            row.version_id
            for key, row in old.items()
            if key in new and new[key].content_hash not in fresh
        }
        if any(row.content_hash not in fresh for key, row in new.items() if key not in old):
            wanted |= {
                row.version_id
                for key, row in old.items()
                if key not in new and row.version_id not in found.origin
            }
    return wanted


def netted_changes(found: Net, hashes: Hashes) -> list[Told]:
    """What differs, told exactly as `history.diff` tells it.

    Args:
        found: the range, netted.
        hashes: version -> content hash and metadata hash, for at least the `undecided`.
    """
    changes: list[Told] = []
    for source in sorted({*found.old, *found.new}):
        old = {
            key: _earlier(row, hashes, found.origin)
            for key, row in found.old.get(source, {}).items()
        }
        new = found.new.get(source, {})
        changes += differences(source, old, new)
    return changes


def _earlier(row: Ended, hashes: Hashes, origin: Mapping[str, bytes]) -> Earlier:
    name = row.version_id
    content, metadata = hashes.get(name) or (origin.get(name, _UNKNOWN), _UNKNOWN)
    return Earlier(name, content, metadata)


def _by_key(rows: Iterable[R]) -> dict[str, dict[str, R]]:
    found: dict[str, dict[str, R]] = {}
    for row in rows:
        held = found.get(row.source)
        if held is None:
            held = found[row.source] = {}
        held[row.key] = row
    return found


# --- reading --------------------------------------------------------------------------------------


def _descends(store: Store, first: Manifest, second: Manifest) -> bool:
    """Whether `second` follows `first` without a rollback in between."""
    target = first.name()
    if target == second.name():
        return True
    for link in store.links(second.name()):
        if link.seq <= first.seq or link.cause == "rollback":
            return False
        if link.parent == target:
            return True
    return False


def _range(objects: ObjectStore, first: Manifest, second: Manifest) -> Range | None:
    """What was added after `first`; None where something else happened to its rows.

    Files that both name cancel out. A file that only the later one names may hold older rows too,
    because files were merged: rows of history tell by their `seq`, contents by comparison.
    """
    begun = _later(objects, first.versions, second.versions, Begun, first.seq)
    ended = _later(objects, first.closures, second.closures, Ended, first.seq)
    if begun is None or ended is None:
        return None
    held = _hashes_only(objects, _only(second.contents, first.contents))
    return Range(
        tuple(begun),
        tuple(ended),
        _hashes_only(objects, _only(first.contents, second.contents)) - held,
    )


def _later(
    objects: ObjectStore,
    first: Sequence[ObjectEntry],
    second: Sequence[ObjectEntry],
    kind: type[R],
    seq: int,
) -> list[R] | None:
    """The rows after `seq`; None where the others are not as many as they were."""
    import pyarrow.compute as pc

    found: list[R] = []
    older = 0
    for entry in _only(first, second):
        table = objects.read_table(entry, list(kind._fields))
        later = table.filter(pc.greater(table["seq"], seq))
        older += table.num_rows - later.num_rows
        found += _as_rows(later, kind)
    return found if older == sum(entry.rows for entry in _only(second, first)) else None


def _hashes_only(objects: ObjectStore, entries: Iterable[ObjectEntry]) -> frozenset[bytes]:
    tables = [objects.read_table(entry, ["content_hash"]) for entry in entries]
    return frozenset(value for table in tables for value in _values(table["content_hash"]))


def _only(first: Iterable[ObjectEntry], second: Iterable[ObjectEntry]) -> list[ObjectEntry]:
    held = set(first)
    return [entry for entry in second if entry not in held]


def _as_rows(table: pa.Table, kind: type[R]) -> Iterator[R]:
    return map(kind._make, zip(*(_values(table[name]) for name in kind._fields), strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values, without an Arrow scalar for each in between."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
    values: list[Any] = column.to_numpy().tolist()
    return values


def _hashes(
    objects: ObjectStore, entries: Iterable[ObjectEntry], wanted: set[str]
) -> dict[str, tuple[bytes, bytes]]:
    import pyarrow.compute as pc

    names = pa.array(sorted(wanted), pa.string())
    found = {}
    for entry in entries:
        table = objects.read_table(entry, ["version_id", "content_hash", "metadata_hash"])
        for row in table.filter(pc.is_in(table["version_id"], names)).to_pylist():
            found[row["version_id"]] = (row["content_hash"], row["metadata_hash"])
    return found


def _compared(objects: ObjectStore, first: Manifest, second: Manifest) -> pa.Table:
    old, new = live_state(objects, first), live_state(objects, second)
    changes = [
        change
        for source in sorted({*old, *new})
        for change in differences(source, old.get(source, {}), new.get(source, {}))
    ]
    return _table(
        changes,
        _by_key(_unknown_to(objects, first.versions, second.versions)),
        _by_key(_unknown_to(objects, first.closures, second.closures)),
        second,
    )


def _unknown_to(
    objects: ObjectStore, first: Sequence[ObjectEntry], second: Sequence[ObjectEntry]
) -> list[Event]:
    """The rows of the second history that the first does not hold."""
    old, new = (
        [r for e in entries for r in _as_rows(objects.read_table(e, list(Event._fields)), Event)]
        for entries in (_only(second, first), _only(first, second))
    )
    held = {(row.version_id, row.seq) for row in old}
    return [row for row in new if (row.version_id, row.seq) not in held]


def _table(
    changes: Iterable[Told],
    begun: Mapping[str, Mapping[str, Row]],
    ended: Mapping[str, Mapping[str, Row]],
    second: Manifest,
) -> pa.Table:
    missing = Event("", "", "", (second.time - _EPOCH) // timedelta(microseconds=1), second.seq)
    rows = []
    for op, source, key, was, now, origin in changes:
        events = (ended if now is None else begun).get(source, {})
        event = events.get(key, missing)
        if now is not None and event.version_id != now:
            event = missing
        rows.append((source, key, op, was, now, origin, event.known_at, event.seq))
    columns = zip(*rows, strict=True) if rows else ((),) * len(FEED)
    return pa.Table.from_arrays(
        [_column(values, field.type) for values, field in zip(columns, FEED, strict=True)],
        schema=FEED,
    )


def _column(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)
