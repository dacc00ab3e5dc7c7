"""What a step changes about the live texts, found at the cost of the step.

A text is live while a live content has it as a chunk, and a content is live while a live document
holds it: in any source, under any key. So what begins and what ends is not what the changes name,
but what they name and nothing else holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headwater.storage.changes import Changes, LiveDocument
from headwater.storage.live import LiveDocuments
from headwater.storage.lookup import PAIRS, among

_HASH = PAIRS.field("text_hash").type

Live = Mapping[str, Mapping[str, LiveDocument]]
"""Source -> key -> document, before the step."""


@dataclass(frozen=True)
class TextDelta:
    """The difference of two snapshots' live texts.

    Attributes:
        added: hashes of texts that became live, sorted.
        removed: hashes of texts that ceased to be live, sorted.
        chunks: how many more live chunks there are; below zero when there are fewer.
    """

    added: list[bytes]
    removed: list[bytes]
    chunks: int


def text_delta(pairs: pa.Table, changes: Sequence[Changes], live: Live) -> TextDelta:
    """What becomes live with a step and what ceases to be. Pure.

    Args:
        pairs: which content has which text as a chunk (`PAIRS`), for all contents of the history
            and of the step, all cut in the same way.
        changes: of the step.
        live: what its parent held.
    """
    moves = content_moves(changes, live)
    if not moves:
        return TextDelta([], [], 0)
    moved = pa.array(sorted(moves), _HASH)
    before = Counter(_holders(live, moved))
    begun = {c for c, n in moves.items() if n > 0 and not before[c]}
    ended = {c for c, n in moves.items() if n < 0 and before[c] + n == 0}
    came: set[bytes] = set()
    went: set[bytes] = set()
    chunks = 0
    mine = among(pairs, "content_hash", moved).to_pydict()
    for content, text in zip(mine["content_hash"], mine["text_hash"], strict=True):
        chunks += moves[content]
        if content in begun:
            came.add(text)
        elif content in ended:
            went.add(text)
    came, went = came - went, went - came
    steady = _held_elsewhere(pairs, live, came | went, without=begun | ended)
    return TextDelta(sorted(came - steady), sorted(went - steady), chunks)


def content_moves(changes: Sequence[Changes], live: Live) -> dict[bytes, int]:
    """Content hash -> how many more documents hold it after the step; none where it is 0."""
    moves: Counter[bytes] = Counter()
    for change in changes:
        documents = live.get(change.source, {})
        begins = (*change.added, *change.changed, *(record for record, _ in change.renamed))
        moves.update(record.content_hash for record in begins)
        ends = (*(r.key for r in change.changed), *(old for _, old in change.renamed))
        moves.subtract(documents[key].content_hash for key in (*ends, *change.removed))
    return {content: count for content, count in moves.items() if count}


def live_documents(changes: Sequence[Changes], live: Live) -> dict[str, int]:
    """Source -> how many documents it has after the step; none where it has none."""
    counts = {source: len(documents) for source, documents in live.items()}
    for change in changes:
        grown = len(change.added) - len(change.removed)
        counts[change.source] = counts.get(change.source, 0) + grown
    return {source: count for source, count in counts.items() if count}


def _held_elsewhere(
    pairs: pa.Table, live: Live, texts: set[bytes], *, without: set[bytes]
) -> set[bytes]:
    """Those of `texts` that a content has as a chunk which is live before and after the step."""
    found = among(pairs, "text_hash", pa.array(sorted(texts), _HASH))
    known = pc.is_in(found["content_hash"], value_set=pa.array(sorted(without), _HASH))
    found = found.filter(pc.invert(known))
    others = found["content_hash"].unique()
    held = among(found, "content_hash", pa.array(sorted(set(_holders(live, others))), _HASH))
    return set(held["text_hash"].unique().to_pylist())


def _holders(live: Live, contents: pa.Array) -> list[bytes]:
    """Those of `contents` that documents hold, as often as they do."""
    if not len(contents):
        return []
    columns = (LiveDocuments.of(documents) for documents in live.values() if documents)
    return [content for one in columns for content in one.holding(contents).to_pylist()]
