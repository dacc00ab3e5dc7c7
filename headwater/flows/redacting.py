"""What an erasure writes: objects without the erased, the record of them, the next snapshot.

Nothing here makes anything visible; until the record is in its place these are files nobody names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from headwater import __version__
from headwater.config import KnowledgeBase
from headwater.errors import StoreError
from headwater.flows.traces import mentions
from headwater.retrieval.graphs import GRAPH
from headwater.retrieval.index import index_problems
from headwater.retrieval.index_erasure import holds_any, without_strangers, without_texts
from headwater.retrieval.lexical import KINDS as LEXICAL
from headwater.retrieval.lexical_writing import words_of
from headwater.retrieval.segments import VECTORS
from headwater.storage import files
from headwater.storage.history import live_texts
from headwater.storage.manifest import Gate, Manifest, Segment, child_of, format_time
from headwater.storage.objects import EMBEDDINGS, ObjectEntry
from headwater.storage.pins import pinned_snapshots
from headwater.storage.redactions import (
    BLANK,
    Blanked,
    Redaction,
    SegmentName,
    keyed,
    make_secret,
    segment_name,
    subject_bytes,
)
from headwater.storage.retention import needed_objects
from headwater.storage.retired import read_retired
from headwater.storage.rewriting import Rewritten, rewritable, rewrite
from headwater.storage.store import Store
from headwater.storage.subjects import Disk, Subjects
from headwater.storage.tables import with_counts


@dataclass(frozen=True)
class World:
    """What there is to look through: every manifest that can be opened, every object."""

    current: Manifest
    openable: tuple[Manifest, ...]
    disk: Disk


def look(store: Store) -> World:
    """Everything on the disk, and what of it is needed.

    Raises:
        StoreError: a published manifest is damaged.
    """
    chain = list(store.chain())
    retired, pinned = read_retired(store.root), pinned_snapshots(store.root, now=datetime.now(UTC))
    openable = [m for m in chain if m.name() not in retired or m.name() in pinned]
    for name in store.candidates():
        # A damaged one can be neither opened nor published; what only it names is needed by nobody.
        with suppress(StoreError):
            openable.append(store.manifest(name))
    needed = needed_objects(openable, chain)
    found = [needed.get(entry.name, entry) for entry, _ in store.objects.listing()]
    return World(chain[0], tuple(openable), Disk(store.objects, found, frozenset(needed)))


def rows_to_go(store: Store, world: World, subjects: Subjects) -> tuple[dict[str, int], int]:
    """Rows by kind of object, and how many objects hold them; writes nothing."""
    removed: dict[str, int] = {}
    objects = 0
    for entry in world.disk.found:
        rows = 0
        if rewritable(entry.kind):
            # Asked as if nobody needed it, so that nothing is written.
            gone = rewrite(store.objects, entry, subjects, keep=False)
            rows = gone.removed if gone else 0
        elif entry.kind == VECTORS:
            rows = holds_any(store.objects, entry, subjects.texts)
        if rows:
            removed[entry.kind] = removed.get(entry.kind, 0) + rows
            objects += 1
    return removed, objects


def write_without(
    kb: KnowledgeBase, store: Store, world: World, subjects: Subjects, record: Redaction
) -> Redaction:
    """Write every object that holds something of the subjects anew; returns the record of it.

    Args:
        kb: says what graphs are calibrated to.
        store: where to.
        world: as `look` found it.
        subjects: what is erased.
        record: who, when and why.

    Raises:
        CorruptObjectError: an object is damaged.
        StorageUnavailableError: the disk is full or read-only.
    """
    secret = make_secret(store.root)
    tables = list(_tables(store, world, subjects))
    segments = _segments(kb, store, world, subjects)
    dropped = _unneeded_index(store, world, subjects)
    removed = dict(record.removed)
    for table in tables:
        removed[table.was.kind] = removed.get(table.was.kind, 0) + table.removed
    cut = {name[0] for name in segments} | {e.name for e in dropped if e.kind == VECTORS}
    rows = sum(
        holds_any(store.objects, entry, subjects.texts)
        for entry in world.disk.of(VECTORS)
        if entry.name in cut
    )
    record = replace(
        record,
        parent=world.current.name(),
        seq=world.current.seq + 1,
        objects={t.was.name: t.now for t in tables} | {entry.name: None for entry in dropped},
        segments=segments,
        manifests=_blanked(store, subjects),
        subjects=tuple(sorted(keyed(secret, subject_bytes(*name)) for name in subjects.names)),
        contents=tuple(sorted(keyed(secret, content) for content in subjects.contents)),
        texts=tuple(sorted(keyed(secret, text) for text in subjects.texts)),
        removed=removed | ({VECTORS: rows} if rows else {}),
        kept={"contents": len(subjects.kept_contents), "texts": len(subjects.kept_texts)},
    )
    return replace(record, indexes=_indexes(store, world, record, subjects))


def next_snapshot(store: Store, current: Manifest, record: Redaction) -> Manifest:
    """The snapshot that is published with the erasure, checked like any other.

    Raises:
        StoreError: the index would not be whole; nothing was erased.
    """
    resolved = record.resolve(current)
    # Its knowledge time is its parent's: nothing new was learned about the world.
    manifest = child_of(
        resolved,
        created_at=format_time(datetime.now(UTC)),
        run_id=record.run_id,
        cause="erasure",
        headwater=__version__,
    )
    texts = live_texts(store.objects, manifest)
    problems = index_problems(store.objects, manifest, texts)
    if problems:
        raise StoreError(
            "The index without the erased documents is not whole",
            obj="; ".join(problems[:3]),
            todo="run 'headwater verify --deep'; nothing was erased",
        )
    whole = Gate("index-complete", True, detail=f"{len(texts)} live texts, each in the index once")
    return replace(with_counts(store.objects, manifest), gates=(whole,))


def blank(data: bytes, gates: Collection[int]) -> bytes:
    """The bytes of a manifest without the details of some gates."""
    raw = json.loads(data)
    for place in gates:
        raw["gates"][place]["detail"] = BLANK
    return (json.dumps(raw, sort_keys=True, indent=1) + "\n").encode()


def _tables(store: Store, world: World, subjects: Subjects) -> Iterator[Rewritten]:
    for entry in world.disk.found:
        if rewritable(entry.kind):
            keep = entry.name in world.disk.needed or entry.kind == EMBEDDINGS
            found = rewrite(store.objects, entry, subjects, keep=keep)
            if found is not None:
                yield found


def _segments(
    kb: KnowledgeBase, store: Store, world: World, subjects: Subjects
) -> dict[SegmentName, Segment | None]:
    """What becomes of every segment that holds an erased text, in any snapshot."""
    found: dict[SegmentName, Segment | None] = {}
    recall = kb.config.index.recall
    for manifest, segment in ((m, s) for m in world.openable for s in m.segments):
        name = segment_name(segment)
        if name not in found:
            # From the texts as they are now: what is erased has no row left to write words for.
            words = words_of(store.objects, manifest)
            found[name] = without_texts(
                store.objects, segment, subjects.texts, recall=recall, words=words
            )
    return {name: now for name, now in found.items() if now is None or segment_name(now) != name}


def _indexes(
    store: Store, world: World, record: Redaction, subjects: Subjects
) -> dict[str, tuple[Segment, ...]]:
    """The segments of snapshots that would serve a text which only the erased held in them."""
    found = {}
    for manifest in world.openable:
        resolved = record.resolve(manifest)
        segments = without_strangers(store.objects, resolved, subjects.kept_texts)
        if segments != resolved.segments:
            found[manifest.name()] = segments
    return found


def _unneeded_index(store: Store, world: World, subjects: Subjects) -> list[ObjectEntry]:
    """Parts of the index that no snapshot needs and that hold an erased text, or may.

    Nobody can tell whose vectors a graph holds, or whose words, once no manifest says it.
    """
    if not subjects.texts:
        return []
    return [
        entry
        for entry in world.disk.found
        if entry.name not in world.disk.needed
        and (
            entry.kind in (GRAPH, *LEXICAL)
            or (entry.kind == VECTORS and holds_any(store.objects, entry, subjects.texts))
        )
    ]


def _blanked(store: Store, subjects: Subjects) -> dict[str, Blanked]:
    """Manifests whose gates mention a key: what their files will be."""
    mentioned = mentions(key for _, key in subjects.names)
    found = {}
    for path in sorted((store.root / "snapshots").glob("*.json")):
        with suppress(StoreError):
            manifest = store.manifest(path.stem)
            gates = tuple(
                place for place, gate in enumerate(manifest.gates) if mentioned.search(gate.detail)
            )
            if gates:
                data = blank(files.read(path), gates)
                found[path.stem] = Blanked(manifest.sha256(), files.sha256(data), gates)
    return found
