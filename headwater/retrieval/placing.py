"""Where the index of a view holds the texts of its live chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.retrieval.catalogue import Catalogue, Chunks
from headwater.retrieval.live import Live
from headwater.retrieval.segments import find
from headwater.retrieval.vector_search import Part


@dataclass(frozen=True)
class Placed:
    """A snapshot's live chunks in the index of its view.

    Attributes:
        live: what is live in the snapshot.
        parts: of the index.
        place: int64 (chunks of `live`,): the row of the view that holds the text of each; -1 where
            none does.
    """

    live: Live
    parts: Sequence[Part]
    place: np.ndarray

    def catalogue(self) -> Catalogue:
        """The same, ordered by the rows of the index."""
        held = np.flatnonzero(self.place >= 0)
        # One number for row and chunk: chunks of one text stay in order, and any sort will do.
        held = held[np.argsort(self.place[held] * len(self.place) + held)]
        live = self.live
        chunks = Chunks(self.place[held], live.chunk_row[held], live.content[held])
        return Catalogue(live.documents, chunks)


def placed(
    live: Live, parts: Sequence[Part], alive: Sequence[np.ndarray], before: Placed | None = None
) -> Placed:
    """Find the texts of live chunks in an index.

    Args:
        live: of the snapshot.
        parts: of its index.
        alive: bool (rows of the part,) for each part: those that the snapshot serves. A text is
            served at most once.
        before: of the view whose `live` the snapshot's was read from; None for none. What is where
            it was is not looked for again.
    """
    place = np.full(len(live.text), -1, dtype=np.int64)
    if before is not None:
        known = np.flatnonzero(live.origin >= 0)
        place[known] = _moved(before.parts, parts, alive)[before.place[live.origin[known]]]
    for part, served in zip(parts, alive, strict=True):
        left = np.flatnonzero(place < 0)
        if not len(left):
            break
        row = find(part.index.hashes, live.text[left])
        found = np.flatnonzero(row >= 0)
        found = found[served[row[found]]]
        place[left[found]] = row[found] + part.first
    return Placed(live, parts, place)


def _moved(
    before: Sequence[Part], parts: Sequence[Part], alive: Sequence[np.ndarray]
) -> np.ndarray:
    """Where rows of a view before are now: int64 (its rows + 1,); -1 for gone, and at the end."""
    size = before[-1].rows.stop if before else 0
    moved = np.full(size + 1, -1, dtype=np.int64)
    old = {id(part.index): part.rows for part in before}
    for part, served in zip(parts, alive, strict=True):
        rows = old.get(id(part.index))
        if rows is not None:
            moved[rows] = np.where(served, np.arange(part.rows.start, part.rows.stop), -1)
    return moved
