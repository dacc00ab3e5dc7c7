"""An index for a snapshot that let go of its own: what a rollback to it publishes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headwater.errors import StoreError
from headwater.retrieval.graphs import Progress
from headwater.retrieval.index import index_problems, update_index
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore
from headwater.storage.unindexed import live_hashes

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
    try:
        segments = update_index(
            objects, parent=(), live=live, cache=cache, config=config, progress=progress
        )
    except KeyError:
        raise StoreError(
            "Its index was let go, and the embedding cache lacks vectors of its texts",
            obj=manifest.name(),
            todo="roll back to another snapshot, or run 'headwater repair'",
        ) from None
    indexed = replace(manifest, segments=segments)
    problems = index_problems(objects, indexed, live)
    if problems:
        raise StoreError(
            "The index that was built for the snapshot is not whole",
            obj=f"{manifest.name()}: {'; '.join(problems[:3])}",
            todo="run 'headwater repair', and roll back again",
        )
    return indexed
