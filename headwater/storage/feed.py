"""The change feed: what a consumer must do to follow the store from one snapshot to another.

Between a snapshot and its descendant, the feed comes from the files that only the descendant names:
its cost grows with what changed, and with the older rows that were merged with it since. Across a
rollback there is no such range; two states are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from headwater.storage.changes import LiveDocument
from headwater.storage.history import DocumentChange, compare_live, live_state
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

_UNKNOWN = b""
"""Stands for the hash of a content that is known to differ from every content it is compared with."""

_BEGUN = ["version_id", "source", "key", "content_hash", "metadata_hash", "changed_at", "known_at",
          "seq", "renamed_from"]  # fmt: skip
_ENDED = ["version_id", "source", "key", "op", "known_at", "seq"]

Row = dict[str, Any]
Hashes = Mapping[str, tuple[bytes, bytes]]


@dataclass(frozen=True)
class Range:
    """What only the later of two snapshots holds.

    Attributes:
        begun, ended: its rows of `versions` and `closures` that the earlier one does not hold.
        fresh: the contents that the earlier snapshot's history did not hold.
    """

    begun: tuple[Row, ...]
    ended: tuple[Row, ...]
    fresh: frozenset[bytes]


@dataclass(frozen=True)
class Net:
    """A range with all that cancels out inside it taken away.

    Attributes:
        old: source -> key -> the closure of a version of the earlier snapshot.
        new: source -> key -> the version that the later snapshot holds instead.
        last: source -> key -> the last closure of the key.
        origin: version of the earlier snapshot -> its content, where a rename tells it.
    """

    old: Mapping[str, Mapping[str, Row]]
    new: Mapping[str, Mapping[str, Row]]
    last: Mapping[str, Mapping[str, Row]]
    origin: Mapping[str, bytes]


def change_feed(store: Store, before: str | None, after: str | None = None) -> pa.Table:
    """The documents that differ between two snapshots, as a table of `FEED`.

    If `after` descends from `before` without a rollback in between, only the files that `before`
    does not name are read, and of the contents those that were merged since. The one exception: for documents that got a content the store held already, or
    new metadata only, three narrow columns of the older version files tell what they were.

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
    begun = {row["version_id"] for row in found.begun}
    gone = {row["version_id"] for row in found.ended}
    heirs = {
        (r["source"], r["seq"], r["renamed_from"]): r for r in found.begun if r["renamed_from"]
    }
    origin = {}
    for row in found.ended:
        heir = heirs.get((row["source"], row["seq"], row["key"]))
        if row["op"] == "renamed" and heir is not None:
            origin[row["version_id"]] = heir["content_hash"]
    return Net(
        _by_key(row for row in found.ended if row["version_id"] not in begun),
        _by_key(row for row in found.begun if row["version_id"] not in gone),
        _by_key(sorted(found.ended, key=lambda row: int(row["seq"]))),
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
            row["version_id"]
            for key, row in old.items()
            if key in new and new[key]["content_hash"] not in fresh
        }
        if any(row["content_hash"] not in fresh for key, row in new.items() if key not in old):
            wanted |= {
                row["version_id"]
                for key, row in old.items()
                if key not in new and row["version_id"] not in found.origin
            }
    return wanted


def netted_changes(found: Net, hashes: Hashes) -> list[DocumentChange]:
    """What differs, told exactly as `history.diff` tells it.

    Args:
        found: the range, netted.
        hashes: version -> content hash and metadata hash, for at least the `undecided`.
    """
    changes: list[DocumentChange] = []
    for source in sorted({*found.old, *found.new}):
        old = {
            key: _earlier(row, hashes, found.origin)
            for key, row in found.old.get(source, {}).items()
        }
        new = {
            key: LiveDocument(
                row["version_id"],
                row["content_hash"],
                row["metadata_hash"],
                None,
                row["changed_at"],
            )
            for key, row in found.new.get(source, {}).items()
        }
        changes += compare_live(source, old, new)
    return changes


def _earlier(row: Row, hashes: Hashes, origin: Mapping[str, bytes]) -> LiveDocument:
    name = row["version_id"]
    content, metadata = hashes.get(name, (origin.get(name, _UNKNOWN), _UNKNOWN))
    return LiveDocument(name, content, metadata, None, row["known_at"])


def _by_key(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["source"], {})[row["key"]] = row
    return found


# --- reading --------------------------------------------------------------------------------------


def _descends(store: Store, first: Manifest, second: Manifest) -> bool:
    """Whether `second` follows `first` without a rollback in between."""
    target, link = first.name(), second
    while link.seq > first.seq and link.cause != "rollback" and link.parent:
        if link.parent == target:
            return True
        link = store.manifest(link.parent)
    return target == second.name()


def _range(objects: ObjectStore, first: Manifest, second: Manifest) -> Range | None:
    """What was added after `first`; None where something else happened to its rows.

    Files that both name cancel out. A file that only the later one names may hold older rows too,
    because files were merged: rows of history tell by their `seq`, contents by comparison.
    """
    begun = _later(objects, first.versions, second.versions, _BEGUN, first.seq)
    ended = _later(objects, first.closures, second.closures, _ENDED, first.seq)
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
    names: list[str],
    seq: int,
) -> list[Row] | None:
    """The rows after `seq`; None where the others are not as many as they were."""
    import pyarrow.compute as pc

    found: list[Row] = []
    older = 0
    for entry in _only(first, second):
        table = objects.read_table(entry, names)
        later = table.filter(pc.greater(table["seq"], seq))
        older += table.num_rows - later.num_rows
        found += later.to_pylist()
    return found if older == sum(entry.rows for entry in _only(second, first)) else None


def _hashes_only(objects: ObjectStore, entries: Iterable[ObjectEntry]) -> frozenset[bytes]:
    return frozenset(row["content_hash"] for row in _rows(objects, entries, ["content_hash"]))


def _only(first: Iterable[ObjectEntry], second: Iterable[ObjectEntry]) -> list[ObjectEntry]:
    held = set(first)
    return [entry for entry in second if entry not in held]


def _rows(objects: ObjectStore, entries: Iterable[ObjectEntry], names: list[str]) -> list[Row]:
    return [row for entry in entries for row in objects.read_table(entry, names).to_pylist()]


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
        for change in compare_live(source, old.get(source, {}), new.get(source, {}))
    ]
    return _table(
        changes,
        _by_key(_unknown_to(objects, first.versions, second.versions)),
        _by_key(_unknown_to(objects, first.closures, second.closures)),
        second,
    )


def _unknown_to(
    objects: ObjectStore, first: Sequence[ObjectEntry], second: Sequence[ObjectEntry]
) -> list[Row]:
    """The rows of the second history that the first does not hold."""
    old = _rows(objects, _only(second, first), ["version_id", "seq"])
    held = {(row["version_id"], row["seq"]) for row in old}
    new = _rows(objects, _only(first, second), ["version_id", "source", "key", "known_at", "seq"])
    return [row for row in new if (row["version_id"], row["seq"]) not in held]


def _table(
    changes: Iterable[DocumentChange],
    begun: Mapping[str, Mapping[str, Row]],
    ended: Mapping[str, Mapping[str, Row]],
    second: Manifest,
) -> pa.Table:
    rows = []
    for change in changes:
        events = ended if change.after is None else begun
        event = events.get(change.source, {}).get(change.key, {})
        if change.after is not None and event.get("version_id") != change.after:
            event = {}
        known_at: datetime = event.get("known_at", second.time)
        rows.append(
            {
                "source": change.source,
                "key": change.key,
                "op": change.op,
                "before_version_id": change.before,
                "after_version_id": change.after,
                "renamed_from": change.renamed_from,
                "known_at": known_at,
                "seq": event.get("seq", second.seq),
            }
        )
    return pa.Table.from_pylist(rows, schema=FEED)
