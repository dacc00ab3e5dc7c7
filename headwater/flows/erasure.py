"""Erasure: every object that holds a document is written anew without it, in the past as well.

Old snapshots stay openable: the record of the erasure says what stands in the place of what their
manifests name. Writing that record, under the store's lock, is the one step that counts; what comes
before adds files, and what comes after is repeated by the next run until the certificate is there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater import __version__
from headwater.config import KnowledgeBase
from headwater.errors import ConfigError, NotFoundError, ParentMovedError, StoreError
from headwater.flows.certificate import (
    certificate_path,
    certify,
    open_signing_key,
)
from headwater.flows.traces import Traces, find_traces, mentions, remove_traces
from headwater.retrieval.index import index_problems
from headwater.retrieval.index_erasure import holds_any, without_strangers, without_texts
from headwater.retrieval.segments import VECTORS
from headwater.storage import files
from headwater.storage.audit import AuditLog, actor
from headwater.storage.claims import Claim, claimed
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
    write_redaction,
)
from headwater.storage.retention import needed_objects
from headwater.storage.retired import read_retired
from headwater.storage.rewriting import Rewritten, rewritable, rewrite
from headwater.storage.store import Store, new_run_id
from headwater.storage.subjects import Disk, Name, Subjects, find_subjects
from headwater.storage.tables import with_counts

_REBASES = 3


@dataclass(frozen=True)
class ErasureRequest:
    """What a person asks for.

    Attributes:
        names: documents by source and key.
        where: documents by an SQL condition; see `find_subjects`.
        reason: why; it goes into the record, the certificate and the audit log.
        follow_renames: what had another name before or after is the same document.
    """

    names: tuple[Name, ...] = ()
    where: str = ""
    reason: str = ""
    follow_renames: bool = True


@dataclass(frozen=True)
class Erasure:
    """What was erased, or would be.

    Attributes:
        number: of the erasure; 0 in a dry run.
        snapshot: the one published with it.
        subjects: what was found.
        removed: rows by kind of table, and notes, reports, releases.
        objects: how many objects are written anew or deleted.
        certificate: where it lies.
    """

    number: int
    snapshot: str
    subjects: Subjects
    removed: Mapping[str, int]
    objects: int
    certificate: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        found = self.subjects
        return {
            "erasure": self.number,
            "snapshot": self.snapshot,
            "documents": [{"source": source, "key": key} for source, key in found.names],
            "removed": dict(self.removed),
            "objects": self.objects,
            "kept": {"contents": len(found.kept_contents), "texts": len(found.kept_texts)},
            "kept_for": [{"source": source, "key": key} for source, key in found.holders],
            "certificate": self.certificate,
        }


def erase(kb: KnowledgeBase, request: ErasureRequest, *, dry_run: bool = False) -> Erasure:
    """Take documents out of everything that is known, for ever.

    Args:
        kb: the knowledge base.
        request: which, and why.
        dry_run: say what would go; nothing is written.

    Raises:
        ConfigError: no reason, no document asked for, a wrong condition or signing key.
        NotFoundError: nothing is published, or no such document was ever known.
        BusyError: a refresh is at work.
        CorruptObjectError: an object is damaged, so that what it holds cannot be known.
        StorageUnavailableError: the disk is full or read-only; run it again.
    """
    if not request.names and not request.where:
        raise ConfigError("No document is named", todo="give --source and --key, or --where")
    if not request.reason.strip() and not dry_run:
        raise ConfigError("An erasure needs a reason", todo="give --reason; it is kept for ever")
    open_signing_key(kb)
    store = Store.open(kb.store)
    store.resolve(None)
    if dry_run:
        return _foresee(kb, store, request)
    complete_erasures(kb, store)
    with _all_claims(kb, store) as claims:
        store.sweep()
        try:
            for attempt in range(_REBASES):
                with suppress(ParentMovedError):
                    return _erase_once(kb, store, request, claims)
                if attempt == _REBASES - 1:
                    break
        finally:
            store.objects.discard_drafts()
    raise ParentMovedError("Others kept publishing", todo="run again")


def complete_erasures(kb: KnowledgeBase, store: Store) -> list[Path]:
    """Finish erasures that were killed after they had counted; returns their certificates.

    Raises:
        StorageUnavailableError: the disk refuses; the next run tries again.
        StoreError: something of the erased is still found.
    """
    return [
        _finish(kb, store, record)
        for record in store.redactions().records
        if record.snapshot and not certificate_path(store.root, record).is_file()
    ]


def readmit(store: Store, names: Iterable[Name], *, reason: str) -> int:
    """Let documents come back that were erased; returns how many of `names` were kept out.

    Raises:
        ConfigError: no reason.
        NotFoundError: none of them is kept out.
    """
    if not reason.strip():
        raise ConfigError("This needs a reason", todo="give --reason")
    with files.locked(store.root / "LOCK", wait_s=60, holder="readmit"):
        redactions = store.redactions()
        hashes = {redactions.keyed(subject_bytes(*name)) for name in names}
        found = sorted(hashes & redactions.suppressed)
        if not found:
            raise NotFoundError("None of these documents is kept out", todo="check the key")
        record = Redaction(
            number=redactions.next_number,
            at=format_time(datetime.now(UTC)),
            actor=actor(),
            run_id=new_run_id(),
            reason=reason,
            readmitted=tuple(found),
        )
        write_redaction(store.root, record)
        AuditLog(store.root).record(
            "readmit", run_id=record.run_id, detail={"erasure": record.number, "reason": reason}
        )
    return len(found)


# --- one erasure ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _World:
    """What there is to look through: every manifest that can be opened, every object."""

    current: Manifest
    openable: tuple[Manifest, ...]
    disk: Disk


def _look(store: Store) -> _World:
    chain = list(store.chain())
    retired, pinned = read_retired(store.root), pinned_snapshots(store.root, now=datetime.now(UTC))
    openable = [m for m in chain if m.name() not in retired or m.name() in pinned]
    for name in store.candidates():
        # A damaged one can be neither opened nor published; what only it names is needed by nobody.
        with suppress(StoreError):
            openable.append(store.manifest(name))
    needed = needed_objects(openable, chain)
    found = [needed.get(entry.name, entry) for entry, _ in store.objects.listing()]
    return _World(chain[0], tuple(openable), Disk(store.objects, found, frozenset(needed)))


def _subjects(store: Store, world: _World, request: ErasureRequest) -> Subjects:
    found = find_subjects(
        world.disk, request.names, where=request.where, follow_renames=request.follow_renames
    )
    if not found:
        if request.names and all(store.redactions().keeps_out(*name) for name in request.names):
            raise NotFoundError(
                "This was erased before, and nothing of it came back",
                obj=", ".join(f"{source}/{key}" for source, key in request.names),
                todo="see 'headwater erasures'",
            )
        asked = ", ".join(f"{source}/{key}" for source, key in request.names) or request.where
        raise NotFoundError(
            "No such document was ever known", obj=asked, todo="see 'headwater history KEY'"
        )
    return found


def _foresee(kb: KnowledgeBase, store: Store, request: ErasureRequest) -> Erasure:
    world = _look(store)
    subjects = _subjects(store, world, request)
    traces = find_traces(kb.root, subjects)
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
    return Erasure(0, "", subjects, removed | _counted(traces), objects)


def _erase_once(
    kb: KnowledgeBase, store: Store, request: ErasureRequest, claims: tuple[Claim, ...]
) -> Erasure:
    world = _look(store)
    subjects = _subjects(store, world, request)
    traces = find_traces(kb.root, subjects)
    secret = make_secret(store.root)
    tables = list(_tables(store, world, subjects))
    segments = _segments(kb, store, world, subjects)
    dropped = _unneeded_index(store, world, subjects)
    removed: dict[str, int] = {}
    for table in tables:
        removed[table.was.kind] = removed.get(table.was.kind, 0) + table.removed
    cut = {name[0] for name in segments} | {e.name for e in dropped if e.kind == VECTORS}
    rows = sum(
        holds_any(store.objects, entry, subjects.texts)
        for entry in world.disk.of(VECTORS)
        if entry.name in cut
    )
    record = Redaction(
        number=store.redactions().next_number,
        at=format_time(datetime.now(UTC)),
        actor=actor(),
        run_id=new_run_id(),
        reason=request.reason,
        parent=world.current.name(),
        seq=world.current.seq + 1,
        objects={t.was.name: t.now for t in tables} | {entry.name: None for entry in dropped},
        segments=segments,
        manifests=_blanked(store, subjects),
        removed=removed | ({VECTORS: rows} if rows else {}) | _counted(traces),
        kept={"contents": len(subjects.kept_contents), "texts": len(subjects.kept_texts)},
        datasets=tuple(f"{path.parent.name}/{path.name}" for path, _ in traces.datasets),
    )
    record = replace(record, indexes=_indexes(store, world, record, subjects))
    record = _hashed(record, secret, subjects)
    manifest = _next(store, world.current, record)
    record = replace(record, snapshot=manifest.name())
    store.write_candidate(manifest)
    remove_traces(kb.root, traces, subjects, note=f"erasure {record.number}: {request.reason}")
    store.publish(
        record.snapshot,
        claims=claims,
        detail={
            "erasure": record.number,
            "reason": record.reason,
            "subjects": len(record.subjects),
            "record": record.name(),
        },
        first=lambda: write_redaction(store.root, record),
    )
    certificate = _finish(kb, store, record)
    return Erasure(
        record.number,
        record.snapshot,
        subjects,
        record.removed,
        len(tables) + len(segments) + len(dropped),
        str(certificate),
    )


def _tables(store: Store, world: _World, subjects: Subjects) -> Iterator[Rewritten]:
    for entry in world.disk.found:
        if rewritable(entry.kind):
            keep = entry.name in world.disk.needed or entry.kind == EMBEDDINGS
            found = rewrite(store.objects, entry, subjects, keep=keep)
            if found is not None:
                yield found


def _segments(
    kb: KnowledgeBase, store: Store, world: _World, subjects: Subjects
) -> dict[SegmentName, Segment | None]:
    """What becomes of every segment that holds an erased text, in any snapshot."""
    found: dict[SegmentName, Segment | None] = {}
    for segment in (s for manifest in world.openable for s in manifest.segments):
        name = segment_name(segment)
        if name not in found:
            found[name] = without_texts(
                store.objects, segment, subjects.texts, recall=kb.config.index.recall
            )
    return {name: now for name, now in found.items() if now is None or segment_name(now) != name}


def _indexes(
    store: Store, world: _World, record: Redaction, subjects: Subjects
) -> dict[str, tuple[Segment, ...]]:
    """The segments of snapshots that would serve a text which only the erased held in them."""
    found = {}
    for manifest in world.openable:
        resolved = record.resolve(manifest)
        segments = without_strangers(store.objects, resolved, subjects.kept_texts)
        if segments != resolved.segments:
            found[manifest.name()] = segments
    return found


def _unneeded_index(store: Store, world: _World, subjects: Subjects) -> list[ObjectEntry]:
    """Parts of the index that no snapshot needs and that hold an erased text, or may.

    Nobody can tell whose vectors a graph holds once no manifest says it.
    """
    if not subjects.texts:
        return []
    return [
        entry
        for entry in world.disk.found
        if entry.name not in world.disk.needed
        and (
            entry.kind == "graph.hnsw"
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
                data = _blank(files.read(path), gates)
                found[path.stem] = Blanked(manifest.sha256(), files.sha256(data), gates)
    return found


def _blank(data: bytes, gates: Collection[int]) -> bytes:
    raw = json.loads(data)
    for place in gates:
        raw["gates"][place]["detail"] = BLANK
    return (json.dumps(raw, sort_keys=True, indent=1) + "\n").encode()


def _hashed(record: Redaction, secret: bytes, subjects: Subjects) -> Redaction:
    """The record with the keyed hashes of what it is about."""
    return replace(
        record,
        subjects=tuple(sorted(keyed(secret, subject_bytes(*name)) for name in subjects.names)),
        contents=tuple(sorted(keyed(secret, content) for content in subjects.contents)),
        texts=tuple(sorted(keyed(secret, text) for text in subjects.texts)),
    )


def _next(store: Store, current: Manifest, record: Redaction) -> Manifest:
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


# --- after it counts ------------------------------------------------------------------------------


def _finish(kb: KnowledgeBase, store: Store, record: Redaction) -> Path:
    """Everything that follows from a record; may be repeated."""
    if store.current_name() == record.parent:
        # Killed between the record and CURRENT.
        detail = {"erasure": record.number, "reason": record.reason, "record": record.name()}
        store.publish(record.snapshot, detail=detail)
    for name, blanked in record.manifests.items():
        path = store.root / "snapshots" / f"{name}.json"
        data = _blank(files.read(path), blanked.gates)
        if files.sha256(data) == blanked.now:
            files.replace(path, data, tmp=store.root / "tmp")
    needed = set(_look(store).disk.needed)
    gone = {*record.objects, *(n for names in record.segments for n in names if n)} - needed
    for name in sorted(gone):
        files.remove(store.objects.root / name)
    for folder in sorted({(store.objects.root / name).parent for name in gone}):
        if folder.is_dir():
            files.sync_folder(folder)
    return certify(kb, store, record)


@contextmanager
def _all_claims(kb: KnowledgeBase, store: Store) -> Iterator[tuple[Claim, ...]]:
    """The claims on every source: what a refresh at work has pulled could bring the erased back."""
    current = store.current()
    names = {*kb.config.sources, *(current.sources if current else {})}
    run_id = new_run_id()
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(claimed(store.root, name, run_id=run_id)) for name in sorted(names)
        )


def _counted(traces: Traces) -> dict[str, int]:
    found = {
        "notes": traces.notes,
        "reports": len(traces.reports),
        "datasets": len(traces.datasets),
        "dataset rows": sum(rows for _, rows in traces.datasets),
    }
    return {name: count for name, count in found.items() if count}
