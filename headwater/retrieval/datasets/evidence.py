"""Reading the evidence about a snapshot: its tables, the run log, and the chain before it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from headwater.errors import NotFoundError
from headwater.retrieval.datasets.settled import DocumentId, Evidence, History, LostBranch
from headwater.storage.manifest import Manifest, parse_time
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.runlog import RunLog
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS, CLOSURES, VERSIONS

_VERSION_COLUMNS = [
    "version_id",
    "source",
    "key",
    "content_hash",
    "known_at",
    "seq",
    "renamed_from",
]
_CLOSURE_COLUMNS = ["version_id", "source", "key", "op", "seq"]


def read_history(objects: ObjectStore, manifest: Manifest) -> History:
    """The lives of the documents of a snapshot; no text is read."""
    return History(
        _columns(objects, manifest.versions, VERSIONS, _VERSION_COLUMNS),
        _columns(objects, manifest.closures, CLOSURES, _CLOSURE_COLUMNS),
        _columns(objects, manifest.chunks, CHUNKS, ["content_hash", "text_hash"]),
    )


def gather_evidence(store: Store, manifest: Manifest, *, at_snapshot: bool = False) -> Evidence:
    """What is known about a published snapshot.

    Verifications count as long as the snapshot stood: up to its successor's knowledge time.

    Args:
        store: that holds it.
        manifest: the snapshot.
        at_snapshot: leave out what was learned after the snapshot was made, although it stood.

    Raises:
        NotFoundError: the snapshot was never published; a candidate is no knowledge.
    """
    child, line = _ancestry(store, manifest)
    end = manifest.time if at_snapshot else (child.time if child else None)
    held_back, held_until = _holds(store.objects, line)
    return Evidence(
        verifications=_verifications(store, manifest, end),
        observed_at=manifest.time,
        held_back=held_back,
        held_until=held_until,
        on_hold=frozenset(name for name, state in manifest.sources.items() if state.hold),
        lost=_lost(store, line),
    )


def _ancestry(store: Store, manifest: Manifest) -> tuple[Manifest | None, list[Manifest]]:
    """The snapshot's successor, and the chain from the snapshot back to the first."""
    name, child, line = manifest.name(), None, list[Manifest]()
    for link in store.chain():
        if line or link.name() == name:
            line.append(link)
        else:
            child = link
    if not line:
        raise NotFoundError(
            "This snapshot was never published", obj=name, todo="see 'headwater log'"
        )
    return child, line


def _verifications(
    store: Store, manifest: Manifest, end: datetime | None
) -> dict[str, tuple[datetime, ...]]:
    """Source -> its verifications up to the snapshot, and after it before `end`.

    A run that withheld deletions did not see every live document, so it confirms nothing.
    """
    found: dict[str, list[datetime]] = {name: [] for name in manifest.sources}
    for entry in RunLog(store.root).newest_first():
        if entry.source in found and entry.outcome == "verified" and not entry.withheld:
            found[entry.source].append(parse_time(entry.observed_at))
    return {name: _until(sorted(times), manifest.time, end) for name, times in found.items()}


def _until(
    times: list[datetime], observed_at: datetime, end: datetime | None
) -> tuple[datetime, ...]:
    if end is None:
        return tuple(times)
    return tuple(times[: max(bisect_right(times, observed_at), bisect_left(times, end))])


def _holds(
    objects: ObjectStore, line: Sequence[Manifest]
) -> tuple[frozenset[DocumentId], dict[DocumentId, datetime]]:
    """Documents in quarantine at `line[0]`, and when earlier such times of others ended."""
    now: frozenset[DocumentId] = frozenset()
    ended: dict[DocumentId, datetime] = {}
    known: dict[str, frozenset[DocumentId]] = {}
    for index, manifest in enumerate(line):
        entry = manifest.quarantine
        if entry is None:
            continue
        if entry.sha256 not in known:
            rows = objects.read_table(entry, ["source", "key"]).to_pylist()
            known[entry.sha256] = frozenset((r["source"], r["key"]) for r in rows if r["key"])
        if index == 0:
            now = known[entry.sha256]
            continue
        for document in known[entry.sha256]:
            ended.setdefault(document, line[index - 1].time)
    return now, ended


def _lost(store: Store, line: Sequence[Manifest]) -> LostBranch | None:
    for index, manifest in enumerate(line):
        if manifest.cause == "rollback" and index + 1 < len(line):
            left = line[index + 1]
            seen = dict(read_history(store.objects, left).first_seen)
            earlier = _lost(store, line[index + 1 :])
            if earlier is not None:
                for chunk, since in seen.items():
                    if since < earlier.until:
                        seen[chunk] = max(since, earlier.seen.get(chunk, earlier.until))
            return LostBranch(manifest.time, seen)
    return None


def _columns(
    objects: ObjectStore, entries: Sequence[ObjectEntry], schema: pa.Schema, names: list[str]
) -> pa.Table:
    wanted = pa.schema([schema.field(name) for name in names])
    tables = [objects.read_table(entry, names).select(names) for entry in entries]
    return pa.concat_tables([wanted.empty_table(), *(t.cast(wanted) for t in tables)])
