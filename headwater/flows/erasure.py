"""Erasure: every object that holds a document is written anew without it, in the past as well.

Old snapshots stay openable: the record of the erasure says what stands in the place of what their
manifests name. Writing that record, under the store's lock, is the one step that counts; what comes
before adds files, and what comes after is repeated by the next run until the certificate is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater.config import KnowledgeBase
from headwater.errors import ConfigError, NotFoundError, ParentMovedError
from headwater.flows.certificate import certificate_path, certify, open_signing_key
from headwater.flows.redacting import (
    World,
    blank,
    look,
    next_snapshot,
    rows_to_go,
    write_without,
)
from headwater.flows.traces import Traces, find_traces, remove_traces
from headwater.storage import files
from headwater.storage.audit import AuditLog, actor
from headwater.storage.claims import Claim, claimed
from headwater.storage.manifest import format_time
from headwater.storage.redactions import Redaction, subject_bytes, write_redaction
from headwater.storage.store import Store, new_run_id
from headwater.storage.subjects import Name, Subjects, find_subjects

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
    store.recover()
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


def _subjects(store: Store, world: World, request: ErasureRequest) -> Subjects:
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
    world = look(store)
    subjects = _subjects(store, world, request)
    removed, objects = rows_to_go(store, world, subjects)
    counted = _counted(find_traces(kb.root, subjects))
    return Erasure(0, "", subjects, removed | counted, objects)


def _erase_once(
    kb: KnowledgeBase, store: Store, request: ErasureRequest, claims: tuple[Claim, ...]
) -> Erasure:
    world = look(store)
    subjects = _subjects(store, world, request)
    traces = find_traces(kb.root, subjects)
    record = Redaction(
        number=store.redactions().next_number,
        at=format_time(datetime.now(UTC)),
        actor=actor(),
        run_id=new_run_id(),
        reason=request.reason,
        removed=_counted(traces),
        datasets=tuple(f"{path.parent.name}/{path.name}" for path, _ in traces.datasets),
    )
    record = write_without(kb, store, world, subjects, record)
    manifest = next_snapshot(store, world.current, record)
    record = replace(record, snapshot=store.write_candidate(manifest))
    remove_traces(kb.root, traces, subjects, note=f"erasure {record.number}: {request.reason}")
    detail = _said(record) | {"subjects": len(record.subjects)}
    store.publish(
        record.snapshot,
        claims=claims,
        detail=detail,
        first=lambda: write_redaction(store.root, record),
    )
    certificate = _finish(kb, store, record)
    return Erasure(
        record.number,
        record.snapshot,
        subjects,
        record.removed,
        len(record.objects) + len(record.segments),
        str(certificate),
    )


def _said(record: Redaction) -> dict[str, Any]:
    """What the audit log says of an erasure."""
    return {"erasure": record.number, "reason": record.reason, "record": record.name()}


# --- after it counts ------------------------------------------------------------------------------


def _finish(kb: KnowledgeBase, store: Store, record: Redaction) -> Path:
    """Everything that follows from a record; may be repeated."""
    if store.current_name() == record.parent:
        # Killed between the record and CURRENT.
        store.publish(record.snapshot, detail=_said(record))
    for name, blanked in record.manifests.items():
        path = store.root / "snapshots" / f"{name}.json"
        data = blank(files.read(path), blanked.gates)
        if files.sha256(data) == blanked.now:
            files.replace(path, data, tmp=store.root / "tmp")
    needed = set(look(store).disk.needed)
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
        "questions": traces.questions,
        "datasets": len(traces.datasets),
        "dataset rows": sum(rows for _, rows in traces.datasets),
    }
    return {name: count for name, count in found.items() if count}
