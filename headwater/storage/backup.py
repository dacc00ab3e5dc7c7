"""A second copy of a store that is itself a store: incremental, checked, taken while others write."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.errors import ConfigError
from headwater.storage import files
from headwater.storage.manifest import Manifest
from headwater.storage.objects import EMBEDDINGS, ObjectEntry
from headwater.storage.retention import needed_objects
from headwater.storage.retired import FILE as RETIRED
from headwater.storage.retired import parse_record, record_bytes
from headwater.storage.stamp import raise_stamp, read_stamp
from headwater.storage.store import Store

_ERASED = "redactions/*"
_ALONGSIDE = ("runs/*.jsonl", "tags/*", "audit.jsonl")
"""What belongs to a store beside its snapshots; small, and copied anew where it differs."""


@dataclass(frozen=True)
class Backup:
    """What a backup or a restore did.

    Attributes:
        snapshot: what is current in the copy.
        copied, bytes: objects that were copied, and their size.
        kept: objects that the copy held already.
    """

    target: str
    snapshot: str
    copied: int
    bytes: int
    kept: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def backup(
    store: Store,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Backup:
    """Bring the copy in `target` up to the store's current snapshot.

    The snapshot is fixed first and its pointer written last, so a refresh that publishes meanwhile
    is simply not in this backup, and a backup that is killed leaves the copy as it was. Each object
    is checked against its name on the way.

    Args:
        store: what to copy.
        target: a folder of its own, on another disk; made if missing. An earlier backup of the same
            store is added to.
        progress: called with (objects looked at, objects).

    Raises:
        NotFoundError: nothing is published.
        ConfigError: `target` holds another store.
        CorruptObjectError: an object of the store is missing or damaged.
        StorageUnavailableError: `target` is full or cannot be written.
    """
    current = store.resolve(None)
    if target.resolve() == store.root.resolve():
        raise ConfigError("A store is no backup of itself", obj=str(target), todo="name a folder")
    chain = list(store.chain())
    # After the chain: it says all that the objects listed from there lack, and the copy says it too.
    retired = record_bytes(store.root)
    copy = Store.create(target)
    raise_stamp(target, read_stamp(store.root))
    there = copy.current_name()
    if there is not None and there not in {manifest.name() for manifest in chain}:
        raise ConfigError(
            "The folder holds another store",
            obj=f"{target}, at {there}",
            todo="back up into a folder of its own",
        )
    expired = parse_record(retired, store.root).snapshots
    entries = {e.name: e for e in _objects(store, chain, expired)}
    copied = size = 0
    for done, entry in enumerate(entries.values()):
        if not _holds(copy, entry):
            _copy_object(store, copy, entry)
            copied, size = copied + 1, size + entry.bytes
        progress(done + 1, len(entries))
    # Before the manifests: what an erasure blanked in one, or what one has let go of, only these say.
    _copy_all(store, copy, _ERASED)
    if retired:
        _write(copy, RETIRED, retired)
    for manifest in chain:
        _copy_file(store, copy, f"snapshots/{manifest.name()}.json")
    for pattern in _ALONGSIDE:
        _copy_all(store, copy, pattern)
    files.replace(target / "CURRENT", f"{current.name()}\n".encode(), tmp=target / "tmp")
    _remove_erased(copy, entries)
    copy.objects.discard_drafts()
    return Backup(str(target), current.name(), copied, size, len(entries) - copied)


def restore(
    source: Path,
    root: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Backup:
    """Make the store in `root` from the backup in `source`.

    Args:
        source: what `backup` wrote.
        root: where the store is to be; nothing may be published there.
        progress: as for `backup`.

    Raises:
        NotFoundError: `source` holds no backup.
        ConfigError: `root` holds a store already.
        CorruptObjectError: the backup is damaged.
    """
    copy = Store.open(source)
    if (root / "CURRENT").exists():
        raise ConfigError(
            "There is a store already",
            obj=str(root),
            todo="move it away first; a restore never overwrites",
        )
    return backup(copy, root, progress=progress)


def _objects(
    store: Store, chain: list[Manifest], expired: Collection[str]
) -> Iterator[ObjectEntry]:
    kept = (manifest for manifest in chain if manifest.name() not in expired)
    yield from needed_objects(kept, chain).values()
    # No manifest names the cache, and without it a restored store would embed everything again.
    for entry, _ in store.objects.listing():
        if entry.kind == EMBEDDINGS:
            yield entry


def _holds(copy: Store, entry: ObjectEntry) -> bool:
    path = copy.objects.root / entry.name
    return path.is_file() and path.stat().st_size == entry.bytes


def _copy_object(store: Store, copy: Store, entry: ObjectEntry) -> None:
    store.objects.verify(entry, deep=False)
    draft = copy.objects.draft(entry.kind)
    with files.translated(draft):
        shutil.copyfile(store.objects.root / entry.name, draft)
    if files.sha256_of(draft) != entry.sha256:
        store.objects.verify(entry)
    copy.objects.adopt(draft, entry.kind, rows=entry.rows)


def _remove_erased(copy: Store, needed: Collection[str]) -> None:
    """An earlier backup into the same folder copied what has been erased since."""
    for record in copy.redactions().records:
        for name in (*record.objects, *(n for names in record.segments for n in names if n)):
            if name not in needed:
                files.remove(copy.objects.root / name)


def _copy_all(store: Store, copy: Store, pattern: str) -> None:
    for path in sorted(store.root.glob(pattern)):
        _copy_file(store, copy, str(path.relative_to(store.root)))


def _copy_file(store: Store, copy: Store, name: str) -> None:
    _write(copy, name, files.read(store.root / name))


def _write(copy: Store, name: str, data: bytes) -> None:
    target = copy.root / name
    if not target.is_file() or target.read_bytes() != data:
        files.make_folder(target.parent)
        files.replace(target, data, tmp=copy.root / "tmp")
