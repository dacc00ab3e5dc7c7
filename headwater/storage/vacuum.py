"""The vacuum: snapshots expire, and objects that nothing needs any more leave in two steps.

Long before a snapshot expires, it lets go of its index, which can be told from the embedding cache.

A first run writes what nothing needs to `trash.json`; a run after the grace deletes what still
nothing needs. Both hold the store's lock, so that a publication happens before or after, and read
everything anew under it. Killed at any moment, the vacuum is repeated by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.errors import CorruptObjectError, StoreError
from headwater.storage import files
from headwater.storage.audit import AuditLog
from headwater.storage.claims import running_since
from headwater.storage.embeddings import covered_embeddings, find_parts, whole_embeddings
from headwater.storage.history import live_texts
from headwater.storage.manifest import Manifest, format_time, parse_time
from headwater.storage.objects import EMBEDDINGS, ObjectStore
from headwater.storage.pins import clear_pins, pinned_snapshots
from headwater.storage.retention import SnapshotPoint, needed_objects, plan_retention
from headwater.storage.retired import read_retired, write_retired
from headwater.storage.store import Store
from headwater.storage.tags import read_tags
from headwater.storage.unindexed import CachedTexts

if TYPE_CHECKING:
    from headwater.config import RetentionConfig

_TRASH = "trash.json"
_FORMAT = 1
_WAIT_S = 60.0

Texts = Callable[[Manifest], Collection[bytes]]
"""The hashes of the texts that are live in a snapshot."""


@dataclass(frozen=True)
class StoredObject:
    """A file below `objects/`; `written_at` is when it was written or last found again."""

    name: str
    kind: str
    bytes: int
    written_at: datetime


@dataclass(frozen=True)
class VacuumPlan:
    """What one run does.

    Attributes:
        kept: how many published snapshots stay.
        expired: snapshots and given-up candidates whose objects are no longer needed.
        deleted: objects that go now.
        marked: objects that go after the grace.
        waiting: objects that were marked earlier and whose grace is not over.
        trash: name -> since when nothing needs it: the next content of `trash.json`.
        unindexed: snapshots that stay and whose index is no longer needed, from now on.
    """

    kept: int
    expired: tuple[str, ...]
    deleted: tuple[StoredObject, ...]
    marked: tuple[StoredObject, ...]
    waiting: tuple[StoredObject, ...]
    trash: dict[str, datetime]
    unindexed: tuple[str, ...] = ()

    @property
    def freed(self) -> int:
        """Bytes that go now."""
        return sum(o.bytes for o in self.deleted)

    @property
    def to_free(self) -> int:
        """Bytes that go once the grace is over."""
        return sum(o.bytes for o in (*self.marked, *self.waiting))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "kept": self.kept,
            "expired": list(self.expired),
            "unindexed": list(self.unindexed),
            **{name: by_kind(getattr(self, name)) for name in ("deleted", "marked", "waiting")},
            "bytes_freed": self.freed,
            "bytes_to_free": self.to_free,
        }


def by_kind(objects: Iterable[StoredObject]) -> dict[str, dict[str, int]]:
    """Kind -> how many objects, and their bytes."""
    found: dict[str, dict[str, int]] = {}
    for entry in sorted(objects, key=lambda o: o.kind):
        line = found.setdefault(entry.kind, {"objects": 0, "bytes": 0})
        line["objects"] += 1
        line["bytes"] += entry.bytes
    return found


@dataclass(frozen=True)
class Reach:
    """What is needed, and by whom.

    Attributes:
        kept: published snapshots that stay.
        expired: snapshots and candidates that expire now.
        roots: every manifest that can still be opened: kept, pinned, candidates.
        needed: names of objects that must stay.
        released: names of objects that were needed until now.
        unindexed: snapshots that stay and let go of their index now.
    """

    kept: tuple[str, ...]
    expired: tuple[str, ...]
    roots: tuple[Manifest, ...]
    needed: frozenset[str]
    released: frozenset[str]
    unindexed: tuple[str, ...] = ()


def plan_vacuum(
    reach: Reach,
    objects: Iterable[StoredObject],
    trash: Mapping[str, datetime],
    *,
    now: datetime,
    grace: timedelta,
    running: datetime | None = None,
    dead_embeddings: Collection[str] = (),
) -> VacuumPlan:
    """Decide what goes. Pure.

    Args:
        reach: which objects are needed.
        objects: all that are on the disk.
        trash: since when nothing needs an object, as the last run wrote it.
        now: an aware time.
        grace: how long an object stays after it was written, and after it was marked.
        running: when the oldest run that may be at work began; what it wrote is not named yet.
        dead_embeddings: names of embedding objects that may go; no other one ever does.
    """
    deleted, marked, waiting = [], [], []
    left: dict[str, datetime] = {}
    young = min(now - grace, running) if running else now - grace
    for entry in objects:
        name = entry.name
        if name in reach.needed or entry.written_at > young:
            continue
        if entry.kind == EMBEDDINGS and name not in dead_embeddings:
            continue
        since = trash.get(name)
        if since is None or since > now or name in reach.released:
            marked.append(entry)
            left[name] = now
        elif now - since < grace:
            waiting.append(entry)
            left[name] = since
        else:
            deleted.append(entry)
    return VacuumPlan(
        len(reach.kept),
        reach.expired,
        tuple(deleted),
        tuple(marked),
        tuple(waiting),
        left,
        reach.unindexed,
    )


def vacuum(
    store: Store,
    *,
    config: RetentionConfig,
    datasets: Path | None = None,
    grace: timedelta | None = None,
    embeddings: bool = False,
    dry_run: bool = False,
    now: datetime | None = None,
) -> VacuumPlan:
    """Let go of snapshots and indexes, mark what nothing needs, delete what was marked long ago.

    Args:
        store: to clean.
        config: how long snapshots stay, and their indexes.
        datasets: the folder of released datasets; what they were cut from stays.
        grace: in place of the configured one.
        embeddings: embeddings may go too, where no snapshot that stays holds one of their texts;
            those that were merged into larger objects go in any case.
        dry_run: decide only.
        now: the clock's time when None.

    Returns:
        what was done, or would be.

    Raises:
        NotFoundError: nothing is published.
        StoreError: a manifest, a tag, the record of expired snapshots or a dataset's manifest is
            damaged; nothing was changed, because nobody can say what it needs.
        BusyError: a publication takes longer than a minute.
        StorageUnavailableError: the disk is full or read-only.
    """
    store.resolve(None)
    texts = _remembered(store.objects)
    cached = CachedTexts(store.objects)

    def plan() -> VacuumPlan:
        at = now or datetime.now(UTC)
        wait = grace or config.grace
        lineage = released_snapshots(datasets) if datasets else frozenset[str]()
        cached.look_again()
        reach = _reach(store, config, lineage, cached, now=at, grace=wait)
        dead = _dead_embeddings(store.objects, reach, texts) if embeddings else frozenset[str]()
        return plan_vacuum(
            reach,
            _stored(store.objects),
            read_trash(store.root),
            now=at,
            grace=wait,
            running=running_since(store.root, now=at),
            dead_embeddings=dead | _superseded_embeddings(store),
        )

    foreseen = plan()
    if dry_run:
        return foreseen
    # Texts and embeddings have been read once: the lock is not held for it.
    with files.locked(store.root / "LOCK", wait_s=_WAIT_S, holder="vacuum"):
        decided = plan()
        apply_vacuum(store, decided, now=now or datetime.now(UTC))
    return decided


def apply_vacuum(store: Store, plan: VacuumPlan, *, now: datetime) -> None:
    """Do what a plan says. The caller holds the store's lock since before it was made.

    What is let go is recorded before anything is deleted, and the trash is written last: it may name
    what is gone, never forget what is marked.
    """
    write_retired(store.root, plan.expired, now=now, indexes=plan.unindexed)
    for entry in plan.deleted:
        files.remove(store.objects.root / entry.name)
    if plan.trash != read_trash(store.root):
        stamp = {name: format_time(since) for name, since in sorted(plan.trash.items())}
        text = json.dumps({"format": _FORMAT, "objects": stamp}, indent=1) + "\n"
        files.replace(store.root / _TRASH, text.encode(), tmp=store.root / "tmp")
    clear_pins(store.root, now=now)
    store.sweep()
    if plan.expired or plan.unindexed or plan.deleted:
        detail = {
            "expired": len(plan.expired),
            "indexes": len(plan.unindexed),
            "deleted": len(plan.deleted),
            "bytes": plan.freed,
        }
        AuditLog(store.root).record("vacuum", detail=detail)


def read_trash(root: Path) -> dict[str, datetime]:
    """Object -> since when nothing needs it. A damaged list counts as empty: the grace begins anew."""
    try:
        raw = json.loads((root / _TRASH).read_bytes())["objects"]
        return {str(name): parse_time(since) for name, since in raw.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def released_snapshots(datasets: Path) -> frozenset[str]:
    """The snapshots that released datasets were cut from.

    Raises:
        StoreError: a dataset's manifest cannot be read.
    """
    found = set()
    for path in sorted(datasets.glob("*/*/manifest.json")):
        try:
            found.add(str(json.loads(path.read_bytes())["snapshot"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(
                "A released dataset does not say which snapshot it was cut from",
                obj=str(path),
                todo="restore its manifest.json, or remove the release; nothing was deleted",
            ) from None
    return frozenset(found)


# --- reading --------------------------------------------------------------------------------------


def _reach(
    store: Store,
    config: RetentionConfig,
    lineage: frozenset[str],
    cached: CachedTexts,
    *,
    now: datetime,
    grace: timedelta,
) -> Reach:
    retired = read_retired(store.root)
    chain = {manifest.name(): manifest for manifest in store.chain()}
    pins = pinned_snapshots(store.root, now=now)
    keep = {*read_tags(store.root).values(), *pins, *lineage}
    points = [SnapshotPoint(n, m.seq, m.time) for n, m in chain.items() if n not in retired]
    decided = plan_retention(points, now=now, config=config, keep=keep)
    candidates = _candidates(store, chain, retired)
    stay = _living_candidates(
        store,
        candidates,
        keep,
        parent=next(iter(chain), ""),
        since=now - max(grace, config.all_for),
    )
    given_up = {name: m for name, m in candidates.items() if name not in stay}
    pinned = [chain[name] for name in keep if name in retired and name in chain]
    served = [*chain][:2]
    old = [n for n in decided.kept if now - chain[n].time > config.index_for]
    unindexed = tuple(
        n for n in old if n not in served and n not in pins and _replaceable(chain[n], cached)
    )
    kept = (chain[n].without_index() if n in unindexed else chain[n] for n in decided.kept)
    roots = (*kept, *pinned, *(candidates[n] for n in sorted(stay)))
    gone = [*(chain[n] for n in (*decided.expired, *unindexed)), *given_up.values()]
    needed = frozenset(needed_objects(roots, list(chain.values())))
    released = frozenset(e.name for manifest in gone for e in manifest.objects()) - needed
    expired = (*decided.expired, *sorted(given_up))
    return Reach(decided.kept, expired, roots, needed, released, unindexed)


def _replaceable(manifest: Manifest, cached: CachedTexts) -> bool:
    """Whether a snapshot has an index that it can do without."""
    if not manifest.segments or not manifest.without_index().unindexed:
        return False
    try:
        return not cached.lacking(manifest)
    except (CorruptObjectError, OSError):
        # Nobody can say what it holds: let it keep what it has.
        return False


def _candidates(
    store: Store, chain: Collection[str], retired: Collection[str]
) -> dict[str, Manifest]:
    found = {}
    for path in sorted((store.root / "snapshots").glob("*.json")):
        if path.stem in chain or path.stem in retired:
            continue
        try:
            found[path.stem] = store.manifest(path.stem)
        except StoreError as error:
            if type(error) is not StoreError:
                raise
            # Damaged and never published: it can be neither opened nor published.
    return found


def _living_candidates(
    store: Store,
    candidates: Mapping[str, Manifest],
    keep: Collection[str],
    *,
    parent: str,
    since: datetime,
) -> set[str]:
    """Candidates that are young, pinned or tagged, and the last one that could still be published."""
    stay = set()
    publishable = [(m.created_at, name) for name, m in candidates.items() if m.parent == parent]
    for name in candidates:
        path = store.root / "snapshots" / f"{name}.json"
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if name in keep or written > since:
            stay.add(name)
    return stay | {name for _, name in sorted(publishable)[-1:]}


def _stored(objects: ObjectStore) -> list[StoredObject]:
    found = []
    for entry, path in objects.listing():
        try:
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except FileNotFoundError:
            continue
        found.append(StoredObject(entry.name, entry.kind, entry.bytes, written))
    return found


def _remembered(objects: ObjectStore) -> Texts:
    known: dict[str, frozenset[bytes]] = {}

    def texts(manifest: Manifest) -> frozenset[bytes]:
        name = manifest.name()
        if name not in known:
            known[name] = frozenset(live_texts(objects, manifest))
        return known[name]

    return texts


def _superseded_embeddings(store: Store) -> frozenset[str]:
    """Embedding objects whose texts all stand in larger ones, which were merged from them."""
    merged = any(part.covers for part in find_parts(store.objects))
    # An erasure writes merged parts anew, and they no longer say what they cover.
    if not merged and not store.redactions():
        return frozenset()
    return covered_embeddings(whole_embeddings(store.objects))


def _dead_embeddings(objects: ObjectStore, reach: Reach, texts: Texts) -> frozenset[str]:
    """Embedding objects none of whose texts is live in a snapshot that stays."""
    live: set[bytes] = set().union(*(texts(manifest) for manifest in reach.roots))
    dead = set()
    for entry, _ in objects.listing():
        if entry.kind != EMBEDDINGS:
            continue
        # A damaged one stays: 'verify' names it, and nobody can say what it held.
        with suppress(CorruptObjectError):
            column = objects.read_table(entry, ["text_hash"])["text_hash"]
            if live.isdisjoint(column.to_pylist()):
                dead.add(entry.name)
    return frozenset(dead)
