"""Snapshots without an index of their own: what a search of them needs is in the embedding cache."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.errors import HeadwaterError, StoreError
from headwater.storage.embeddings import find_parts, matches, read_hashes
from headwater.storage.hashes import HASH, HASH_BYTES
from headwater.storage.lookup import among, chunk_pairs
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore
from headwater.storage.tables import live_versions


class CachedTexts:
    """Asks whether the cache has a vector for every live text; only hashes are read and compared.

    Every byte of the embeddings it counts on is checked, once per process. Answers are kept until
    an object they rest on is gone, so that a second look, under a lock, is quick.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._spaces: dict[str, tuple[frozenset[str], np.ndarray]] = {}
        self._whole: dict[str, frozenset[str]] = {}

    def look_again(self) -> None:
        """List what is on the disk anew before the next question."""
        self._spaces.clear()

    def lacking(self, manifest: Manifest) -> int:
        """How many texts that are live in a snapshot have no vector.

        Raises:
            CorruptObjectError: a table of the snapshot is missing or damaged.
        """
        if manifest.encoder is None:
            return 0
        parts, hashes = self._space(manifest.encoder.fingerprint)
        name = manifest.name()
        if name in self._whole and self._whole[name] <= parts:
            return 0
        live = live_hashes(self._objects, manifest)
        count = len(live) - len(matches(live, hashes)[0])
        if not count:
            self._whole[name] = parts
        return count

    def _space(self, fingerprint: str) -> tuple[frozenset[str], np.ndarray]:
        """The objects of a space that are whole, and the hashes in them, sorted and distinct."""
        found = self._spaces.get(fingerprint)
        if found is None:
            names: list[str] = []
            hashes = [np.empty(0, dtype=HASH)]
            for part in find_parts(self._objects, space=fingerprint):
                with suppress(StoreError, pa.ArrowException, OSError):
                    self._objects.path(part.entry)
                    hashes.append(read_hashes(self._objects, part.entry))
                    names.append(part.entry.name)
            found = frozenset(names), np.unique(np.concatenate(hashes))
            self._spaces[fingerprint] = found
        return found


def live_hashes(objects: ObjectStore, manifest: Manifest) -> np.ndarray:
    """The distinct text hashes of the live chunks, sorted: void[32] (n,).

    Raises:
        CorruptObjectError: a table of the snapshot is missing or damaged.
    """
    live = live_versions(objects, manifest, ["content_hash"])["content_hash"]
    chunks = chunk_pairs(objects, manifest.chunks)
    held = pc.unique(live.combine_chunks())
    texts = pc.unique(among(chunks, "content_hash", held)["text_hash"].combine_chunks())
    data = texts.buffers()[1]
    if not len(texts):
        return np.empty(0, dtype=HASH)
    names = np.frombuffer(data, dtype=HASH, count=len(texts), offset=texts.offset * HASH_BYTES)
    return np.sort(names)


def unsearchable(objects: ObjectStore, manifests: Iterable[Manifest]) -> list[str]:
    """Which snapshots without an index cannot be searched, because vectors are gone; a sentence each.

    Damaged tables say nothing here: whoever looks at the objects names them.
    """
    cached = CachedTexts(objects)
    problems = []
    for manifest in manifests:
        with suppress(HeadwaterError):
            if manifest.unindexed and (count := cached.lacking(manifest)):
                problems.append(
                    f"{manifest.name()}: its index was let go, and {count} of its texts have no "
                    "vector in the embedding cache"
                )
    return problems
