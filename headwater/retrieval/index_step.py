"""The gate of a step: whether an index is whole, given that its parent's was.

By induction. Each row that is served now was served before or is an added text; each added text is
served once and no removed one is; and there are as many as there must be. So nothing is missing,
although what did not change is not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from headwater.errors import HeadwaterError
from headwater.retrieval.index import alive_rows, segment_problems
from headwater.retrieval.segments import find, hash_array, open_vectors
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectStore


def step_problems(
    objects: ObjectStore,
    manifest: Manifest,
    *,
    parent: Iterable[Segment],
    added: Iterable[bytes] | np.ndarray,
    removed: Iterable[bytes] | np.ndarray,
    texts: int,
) -> list[str]:
    """What is wrong with the index of a candidate; empty when it is whole if its parent's was.

    Args:
        objects: where its segments are.
        manifest: of the candidate.
        parent: segments of the snapshot before, which serve each of its texts once.
        added: hashes of the texts that became live.
        removed: hashes of the texts that ceased to be.
        texts: how many texts are live now.
    """
    check = _Check(objects, manifest, parent, np.unique(hash_array(added)), hash_array(removed))
    for segment in manifest.segments:
        try:
            check.segment(segment)
        except HeadwaterError as error:
            check.problems.append(f"{error.what}: {error.obj}")
    return check.result(texts)


def _derived(segment: Segment) -> tuple[object, ...]:
    """What was made of the rows of a segment."""
    return segment.graph, segment.ef, segment.lexical


class _Check:
    def __init__(
        self,
        objects: ObjectStore,
        manifest: Manifest,
        parent: Iterable[Segment],
        added: np.ndarray,
        removed: np.ndarray,
    ) -> None:
        self._objects = objects
        self._manifest = manifest
        self._parent = {segment.vectors.name: segment for segment in parent}
        kept = {segment.vectors.name for segment in manifest.segments}
        self._merged = [s for name, s in self._parent.items() if name not in kept]
        self._added = added
        self._removed = np.unique(removed)
        self._times = np.zeros(len(added), dtype=np.int64)
        self._served = 0
        self._ghosts = 0
        self._lost = 0
        self._strangers = 0
        self.problems: list[str] = []

    def segment(self, segment: Segment) -> None:
        """Look at what is new about one segment.

        Raises:
            CorruptObjectError: it is missing or damaged.
        """
        before = self._parent.get(segment.vectors.name)
        held = open_vectors(self._objects, segment.vectors, deep=before is None)
        alive = alive_rows(self._objects, segment)
        self._served += int(alive.sum())
        if before is None or _derived(before) != _derived(segment):
            self.problems += segment_problems(self._objects, segment, held, self._manifest)
        if before is None:
            self._from_before(held.hashes[alive])
        else:
            was = alive_rows(self._objects, before)
            self._strangers += self._not_added(held.hashes[alive & ~was])
            died = held.hashes[was & ~alive]
            self._lost += int((find(self._removed, died) < 0).sum())
        self._count(held.hashes, alive)

    def _from_before(self, served: np.ndarray) -> None:
        """Rows of a new segment: added texts, and what the merged segments served."""
        left = served
        for segment in self._merged:
            held = open_vectors(self._objects, segment.vectors).hashes
            places = find(held, left)
            known = places >= 0
            known[known] = alive_rows(self._objects, segment)[places[known]]
            left = left[~known]
        self._strangers += self._not_added(left)

    def _not_added(self, hashes: np.ndarray) -> int:
        return int((find(self._added, hashes) < 0).sum())

    def _count(self, hashes: np.ndarray, alive: np.ndarray) -> None:
        for wanted, added in ((self._added, True), (self._removed, False)):
            places = find(hashes, wanted)
            served = places >= 0
            served[served] = alive[places[served]]
            if added:
                self._times += served
            else:
                self._ghosts += int(served.sum())

    def result(self, texts: int) -> list[str]:
        """All problems, the counted ones last."""
        counted = (
            (int((self._times == 0).sum()), "added texts are missing from the index"),
            (int((self._times > 1).sum()), "added texts are in the index more than once"),
            (self._ghosts, "removed texts are still in the index"),
            (self._lost, "texts were taken out of the index and are still live"),
            (self._strangers, "rows of the index belong to no live text"),
        )
        found = [f"{count} {what}" for count, what in counted if count]
        if self._served != texts:
            found.append(f"the index serves {self._served} texts, {texts} are live")
        return self.problems + found
