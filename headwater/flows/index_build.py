"""The index of a candidate, its gate and its counts: advanced from the parent's, or made anew.

Advancing costs what the step changes, and takes for granted that the parent's index was whole; so
it follows only a snapshot whose own index passed its gate, in the same space and cut in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from headwater.flows.delta import live_documents, text_delta
from headwater.flows.encoding import Encoding
from headwater.flows.texts import embed_missing
from headwater.retrieval.index import advance_index, index_problems, unheld, update_index
from headwater.retrieval.index_step import step_problems
from headwater.retrieval.lexical_writing import Words, words_of
from headwater.storage.changes import Changes, LiveDocument
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.history import live_texts
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectStore
from headwater.storage.tables import count_live

if TYPE_CHECKING:
    from headwater.config import IndexConfig

INDEX_GATE = "index-complete"


@dataclass(frozen=True)
class Work:
    """What an index is built from.

    Attributes:
        objects: the store's objects.
        parent: the snapshot before, or None for the first.
        draft: the snapshot in the making, its tables written.
        changes: per source, from the parent to the draft.
        live: the parent's documents: source -> key -> document.
        pairs: the hashes of all chunks of the draft (`headwater.storage.lookup.PAIRS`).
        encoding: cuts and embeds.
        config: when to merge, when to build a graph.
        progress: called with (texts embedded, texts to embed).
    """

    objects: ObjectStore
    parent: Manifest | None
    draft: Manifest
    changes: Sequence[Changes]
    live: Mapping[str, Mapping[str, LiveDocument]]
    pairs: pa.Table
    encoding: Encoding
    config: IndexConfig
    progress: Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """An index, what its gate says, and what the snapshot counts.

    Attributes:
        segments: of the index.
        problems: why it must not be published; empty when it is whole.
        embedded: texts that had to be embedded.
        texts, chunks: live ones.
        documents: source -> live ones.
    """

    segments: tuple[Segment, ...]
    problems: list[str]
    embedded: int
    texts: int
    chunks: int
    documents: Mapping[str, int]


def build_index(work: Work) -> Built:
    """Bring the index to where the draft is, by the cheaper way that is sound.

    Raises:
        StorageUnavailableError: the disk is full or read-only; the vectors made so far are kept.
        ModelError: the model is not the one the vectors were made with.
        CorruptObjectError: something of the parent is damaged.
    """
    if work.parent is None:
        return anew(work)
    parent = _with_its_words(work.parent, work.draft)
    if _may_advance(parent, work.encoding):
        return advanced(work, parent)
    return anew(replace(work, parent=parent))


def _words(work: Work) -> Words | None:
    return words_of(work.objects, work.draft)


def _with_its_words(parent: Manifest, draft: Manifest) -> Manifest:
    """The parent; its segments without their words, where the draft cuts words in another way."""
    if parent.lexical == draft.lexical:
        return parent
    return replace(parent, segments=tuple(replace(s, lexical=()) for s in parent.segments))


def same_space(parent: Manifest | None, encoding: Encoding) -> tuple[Segment, ...]:
    """The parent's segments, if their vectors are of this encoding's space."""
    if parent is None or parent.encoder is None:
        return ()
    same = parent.encoder.fingerprint == encoding.encoder.fingerprint
    return parent.segments if same else ()


def _may_advance(parent: Manifest, encoding: Encoding) -> bool:
    return (
        parent.encoder is not None
        and parent.encoder.fingerprint == encoding.encoder.fingerprint
        and parent.chunker == encoding.cutter.name
        and {"texts", "chunks"} <= parent.counts.keys()
        and (parent.segments or not parent.counts["texts"])
        and any(gate.name == INDEX_GATE and gate.passed for gate in parent.gates)
    )


def advanced(work: Work, parent: Manifest) -> Built:
    """The parent's index and counts, and what the step changes about them."""
    objects = work.objects
    delta = text_delta(work.pairs, work.changes, work.live)
    cache, embedded = _embedded(work, unheld(objects, parent.segments, delta.added))
    segments = advance_index(
        objects,
        parent=parent.segments,
        added=delta.added,
        removed=delta.removed,
        cache=cache,
        config=work.config,
        words=_words(work),
    )
    texts = parent.counts["texts"] + len(delta.added) - len(delta.removed)
    problems = step_problems(
        objects,
        replace(work.draft, encoder=work.encoding.encoder, segments=segments),
        parent=parent.segments,
        added=delta.added,
        removed=delta.removed,
        texts=texts,
    )
    chunks = parent.counts["chunks"] + delta.chunks
    documents = live_documents(work.changes, work.live)
    return Built(segments, problems, embedded, texts, chunks, documents)


def anew(work: Work) -> Built:
    """The index and the counts from all that is live, checked as a whole."""
    objects = work.objects
    live = live_texts(objects, work.draft)
    parent = same_space(work.parent, work.encoding)
    cache, embedded = _embedded(work, unheld(objects, parent, live))
    segments = update_index(
        objects,
        parent=parent,
        live=live,
        cache=cache,
        config=work.config,
        words=_words(work),
    )
    candidate = replace(work.draft, encoder=work.encoding.encoder, segments=segments)
    problems = index_problems(objects, candidate, live)
    documents, chunks, _ = count_live(objects, work.draft)
    return Built(segments, problems, embedded, len(live), chunks, documents)


def _embedded(work: Work, wanted: list[bytes]) -> tuple[EmbeddingCache, int]:
    """A cache with a vector for each of `wanted`, and how many had none."""
    encoder = work.encoding.encoder
    cache = EmbeddingCache(work.objects, space=encoder.fingerprint, dim=encoder.dim)
    embedded = embed_missing(
        work.objects,
        work.draft,
        wanted,
        cache=cache,
        embedder=work.encoding.embedder,
        progress=work.progress,
    )
    return cache, embedded
