"""An index made anew from the embedding cache: for a rollback, and where one cannot be healed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headwater import __version__
from headwater.config import KnowledgeBase
from headwater.errors import CorruptObjectError, StoreError
from headwater.retrieval.graphs import Progress
from headwater.retrieval.index import index_problems, update_index
from headwater.retrieval.lexical import analyzer_name
from headwater.retrieval.lexical_writing import Words
from headwater.storage import files
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Manifest, child_of, format_time
from headwater.storage.objects import ObjectStore
from headwater.storage.retired import write_retired
from headwater.storage.store import Store, new_run_id
from headwater.storage.unindexed import CachedTexts, live_hashes

if TYPE_CHECKING:
    from headwater.config import IndexConfig


def reindex(
    objects: ObjectStore,
    manifest: Manifest,
    *,
    config: IndexConfig,
    progress: Progress | None = None,
) -> Manifest:
    """The same snapshot with segments that hold each of its live texts once.

    Args:
        objects: where its tables and the embedding cache are, and where segments go.
        manifest: names an encoder; its segments, if any, are left aside.
        config: when to build a graph.
        progress: called while a graph is built.

    Raises:
        StoreError: the cache lacks a vector, or the index would not be whole; nothing is published.
        CorruptObjectError: an object is damaged.
        StorageUnavailableError: the disk is full or read-only.
    """
    if manifest.encoder is None:
        return manifest
    live = live_hashes(objects, manifest)
    cache = EmbeddingCache(objects, space=manifest.encoder.fingerprint, dim=manifest.encoder.dim)
    lexical = analyzer_name(config.language)
    try:
        segments = update_index(
            objects,
            parent=(),
            live=live,
            cache=cache,
            config=config,
            words=Words(objects, manifest.chunks, lexical),
            progress=progress,
        )
    except KeyError:
        raise StoreError(
            "Its index was let go, and the embedding cache lacks vectors of its texts",
            obj=manifest.name(),
            todo="roll back to another snapshot, or run 'headwater repair'",
        ) from None
    indexed = replace(manifest, segments=segments, lexical=lexical)
    problems = index_problems(objects, indexed, live)
    if problems:
        raise StoreError(
            "The index that was built for the snapshot is not whole",
            obj=f"{manifest.name()}: {'; '.join(problems[:3])}",
            todo="run 'headwater repair', and roll back again",
        )
    return indexed


def renew_indexes(
    kb: KnowledgeBase, store: Store, damaged: Collection[str]
) -> tuple[str, tuple[str, ...]]:
    """Do without segments that cannot be healed: publish a new index, let go of the old ones.

    A damaged index of the past is let go of, and searched exactly from the cache. A damaged current
    one is made anew and published as a snapshot of the same knowledge. Both only where the cache
    holds every vector.

    Args:
        kb: says when to build a graph.
        store: nothing of it is guessed; the tables and the cache must be whole.
        damaged: names of objects.

    Returns:
        the snapshot that was published, or nothing; and those that let go of their index.

    Raises:
        ParentMovedError: another run published meanwhile; repair again.
        StorageUnavailableError: the disk is full or read-only.
    """
    chain = list(store.chain())
    cached = CachedTexts(store.objects)
    hurt = [m for m in chain if _names(m) & set(damaged) and _searchable(m, cached)]
    renewed = ""
    if hurt and hurt[0] is chain[0]:
        current = chain[0]
        indexed = reindex(store.objects, current, config=kb.config.index)
        now = format_time(datetime.now(UTC))
        manifest = child_of(
            replace(indexed).as_read(current.sha256()),
            created_at=now,
            run_id=new_run_id(),
            cause="repair",
            headwater=__version__,
            gates=tuple(gate for gate in current.gates if gate.name == "index-complete"),
        )
        renewed = store.write_candidate(manifest)
        store.publish(renewed)
    names = tuple(manifest.name() for manifest in hurt)
    if names:
        with files.locked(store.root / "LOCK", wait_s=60, holder="repair"):
            write_retired(store.root, (), now=datetime.now(UTC), indexes=names)
    return renewed, names


def _names(manifest: Manifest) -> set[str]:
    return {entry.name for segment in manifest.segments for entry in segment.objects()}


def _searchable(manifest: Manifest, cached: CachedTexts) -> bool:
    try:
        return not cached.lacking(manifest)
    except CorruptObjectError:
        return False
