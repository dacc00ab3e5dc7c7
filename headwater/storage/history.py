"""Questions about the past: what is live, what differs, what happened, all without changing it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, Protocol

import pyarrow.compute as pc

from headwater.errors import NotFoundError
from headwater.storage.changes import LiveDocument
from headwater.storage.live import LiveDocuments
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore
from headwater.storage.retired import read_retired
from headwater.storage.store import Store
from headwater.storage.tables import live_versions, open_tables, query
from headwater.storage.tags import read_tags


@dataclass(frozen=True)
class DocumentChange:
    """One document that differs between two snapshots.

    Attributes:
        op: `added`, `changed`, `metadata`, `renamed` or `removed`.
        before, after: version ids; None where there is none.
        renamed_from: the key it had in the first snapshot.
    """

    op: str
    source: str
    key: str
    before: str | None
    after: str | None
    renamed_from: str | None = None


@dataclass(frozen=True)
class Diff:
    """What differs between two snapshots.

    Attributes:
        documents: the documents, sorted by source and key.
        chunks_added, chunks_removed: distinct chunk texts that only one of the two holds.
    """

    before: str
    after: str
    documents: tuple[DocumentChange, ...]
    chunks_added: int
    chunks_removed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def live_state(
    objects: ObjectStore, manifest: Manifest | None
) -> dict[str, Mapping[str, LiveDocument]]:
    """Source -> key -> what change detection needs of every live document."""
    if manifest is None:
        return {}
    names = ["source", "key", "version_id", "content_hash", "metadata_hash", "fingerprint"]
    table = live_versions(objects, manifest, [*names, "changed_at"])
    sources = pc.unique(table["source"]).to_pylist()
    if len(sources) == 1:
        return {sources[0]: LiveDocuments(table)}
    return {name: LiveDocuments(table.filter(pc.equal(table["source"], name))) for name in sources}


def diff(store: Store, before: str, after: str) -> Diff:
    """Compare two snapshots (anything that `Store.resolve` understands).

    Raises:
        NotFoundError: one of them does not exist.
    """
    first, second = store.resolve(before), store.resolve(after)
    old, new = live_state(store.objects, first), live_state(store.objects, second)
    found: list[DocumentChange] = []
    for source in sorted({*old, *new}):
        found += compare_live(source, old.get(source, {}), new.get(source, {}))
    texts = [_live_texts(store.objects, m) for m in (first, second)]
    return Diff(
        first.name(),
        second.name(),
        tuple(found),
        len(texts[1] - texts[0]),
        len(texts[0] - texts[1]),
    )


class Held(Protocol):
    """What `compare_live` asks of a version."""

    @property
    def version_id(self) -> str:
        """The version's name."""

    @property
    def content_hash(self) -> bytes:
        """Of its text."""

    @property
    def metadata_hash(self) -> bytes:
        """Of what it says besides."""


Told = tuple[str, str, str, str | None, str | None, str | None]
"""The fields of a `DocumentChange`, in their order."""


def compare_live(
    source: str, old: Mapping[str, Held], new: Mapping[str, Held]
) -> list[DocumentChange]:
    """What differs between two states of one source (key -> document), sorted by key."""
    return [DocumentChange(*told) for told in differences(source, old, new)]


def differences(source: str, old: Mapping[str, Held], new: Mapping[str, Held]) -> list[Told]:
    """The same as `compare_live`, without an object for each change."""
    # Every document is looked at: a dictionary finds one faster than columns do.
    old, new = dict(old.items()), dict(new.items())
    found: list[Told] = []
    gone: dict[bytes, list[str]] = {}
    for key in sorted(set(old) - set(new), reverse=True):
        gone.setdefault(old[key].content_hash, []).append(key)
    for key in sorted(new):
        now, was, origin = new[key], old.get(key), None
        if was is None and (keys := gone.get(now.content_hash)):
            origin = keys.pop()
            was = old[origin]
        op = _op(was, now, origin)
        if op:
            before = was.version_id if was else None
            found.append((op, source, key, before, now.version_id, origin))
    found += [
        ("removed", source, key, old[key].version_id, None, None)
        for keys in gone.values()
        for key in keys
    ]
    return sorted(found, key=itemgetter(2))


def _op(was: Held | None, now: Held, origin: str | None) -> str:
    if was is None:
        return "added"
    if origin is not None:
        return "renamed"
    if was.content_hash != now.content_hash:
        return "changed"
    return "metadata" if was.metadata_hash != now.metadata_hash else ""


def live_texts(objects: ObjectStore, manifest: Manifest) -> list[bytes]:
    """The distinct text hashes of the live chunks, sorted: what the index must hold, exactly."""
    return sorted(_live_texts(objects, manifest))


def _live_texts(objects: ObjectStore, manifest: Manifest) -> set[bytes]:
    with open_tables(objects, manifest) as connection:
        table = query(connection, "select distinct text_hash from live_chunks")
    return set(table["text_hash"].to_pylist())


def metadata_fields(objects: ObjectStore, manifest: Manifest, source: str) -> frozenset[str]:
    """The names of all metadata fields that live documents of a source have."""
    with open_tables(objects, manifest) as connection:
        rows = connection.execute(
            "select distinct unnest(json_keys(metadata)) from live where source = ?", [source]
        ).fetchall()
    return frozenset(name for (name,) in rows)


def text_of(store: Store, manifest: Manifest, source: str, key: str) -> str:
    """The text of a live document.

    Raises:
        NotFoundError: the snapshot holds no such document.
    """
    with open_tables(store.objects, manifest) as connection:
        rows = connection.execute(
            "select text from live join contents using (content_hash) where source = ? and key = ?",
            [source, key],
        ).fetchall()
    if not rows:
        raise NotFoundError(
            "No such document",
            obj=f"{source}/{key} in {manifest.name()}",
            todo=f"see 'headwater history {source} {key}'",
        )
    return str(rows[0][0])


def text_diff(store: Store, change: DocumentChange, before: Manifest, after: Manifest) -> str:
    """A unified diff of one document's text; empty when only its key or metadata differ."""
    old = new = ""
    if change.before is not None:
        old = text_of(store, before, change.source, change.renamed_from or change.key)
    if change.after is not None:
        new = text_of(store, after, change.source, change.key)
    lines = difflib.unified_diff(
        old.splitlines(),
        new.splitlines(),
        f"{change.renamed_from or change.key} @ {before.seq}",
        f"{change.key} @ {after.seq}",
        lineterm="",
    )
    return "\n".join(lines)


@dataclass(frozen=True)
class LogEntry:
    """One published snapshot as `headwater log` shows it.

    Attributes:
        expired: whether retention let go of its objects; only its manifest is left.
        tags: that name it.
    """

    name: str
    seq: int
    observed_at: datetime
    cause: str
    restores: str
    documents: int
    chunks: int
    texts: int
    quarantined: int
    expired: bool = False
    tags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "observed_at": self.observed_at.isoformat()}


def log(store: Store, *, limit: int | None = None) -> list[LogEntry]:
    """The published snapshots, newest first."""
    entries: list[LogEntry] = []
    retired, tags = read_retired(store.root), read_tags(store.root)
    for manifest in store.chain():
        if limit is not None and len(entries) >= limit:
            break
        name = manifest.name()
        entries.append(
            LogEntry(
                name,
                manifest.seq,
                manifest.time,
                manifest.cause,
                manifest.restores,
                manifest.counts.get("documents", 0),
                manifest.counts.get("chunks", 0),
                manifest.counts.get("texts", 0),
                manifest.counts.get("quarantined", 0),
                expired=name in retired,
                tags=tuple(tag for tag, snapshot in tags.items() if snapshot == name),
            )
        )
    return entries
