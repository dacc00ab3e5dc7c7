"""Healing a store: what is derived is made again, and counts only if it is the very same bytes.

Objects are named by their content, so a rebuilt object either takes the place of the damaged one or
proves nothing. Nothing is guessed and no manifest changes. A segment some of whose texts are long
dead cannot be made to the byte: the index that needs it is made anew instead, from the cache.
Versions, closures, contents and the quarantine are primary: what they held can only come from a
backup or from the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from headwater.config import KnowledgeBase
from headwater.errors import CorruptObjectError, HeadwaterError
from headwater.flows.draft import put_rows
from headwater.flows.encoding import LOCAL, EncodingOpener, export_again, open_encoding
from headwater.flows.reindex import renew_indexes
from headwater.flows.texts import cut_contents, cutter_of, embed_missing
from headwater.retrieval.graphs import build_graph
from headwater.retrieval.index import alive_rows
from headwater.retrieval.lexical import KINDS as LEXICAL
from headwater.retrieval.lexical_writing import words_of
from headwater.retrieval.segments import (
    find,
    hash_array,
    open_vectors,
    write_tombstones,
    write_vectors,
)
from headwater.storage import files
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.history import live_texts
from headwater.storage.manifest import Encoder, Manifest, Segment
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore
from headwater.storage.retention import needed_objects
from headwater.storage.retired import read_retired
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS
from headwater.storage.unindexed import CachedTexts


@dataclass(frozen=True)
class Repair:
    """What was damaged, and what became of it.

    Attributes:
        healed: objects that are whole again.
        dropped: damaged parts of the embedding cache, removed; vectors that segments still hold
            went into a new part, what snapshots without an index need was embedded again, and the
            others are made when they are needed.
        lost: object, or snapshot that lacks vectors -> why it could not be made again.
        renewed: the snapshot that was published because the current index could not be healed.
        let_go: snapshots that are searched exactly now, because theirs could not be.
    """

    healed: tuple[str, ...]
    dropped: tuple[str, ...]
    lost: Mapping[str, str]
    renewed: str = ""
    let_go: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged any more."""
        return not self.lost

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "ok": self.ok}


def damaged_objects(store: Store) -> dict[str, ObjectEntry]:
    """Every object of the chain, and of the embedding cache, whose bytes are not what they were."""
    chain, retired = list(store.chain()), read_retired(store.root)
    entries = needed_objects((m for m in chain if m.name() not in retired), chain)
    entries |= {e.name: e for e, _ in store.objects.listing() if e.kind == EMBEDDINGS}
    found = {}
    for name, entry in entries.items():
        try:
            store.objects.verify(entry)
        except CorruptObjectError:
            found[name] = entry
    return found


def repair(
    kb: KnowledgeBase,
    store: Store,
    *,
    encoding: EncodingOpener = open_encoding,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Repair:
    """Make again what is damaged and can be made again.

    Args:
        kb: says where models are looked for.
        store: the store; readers and refreshes may go on meanwhile.
        encoding: opens the model where a snapshot that let go of its index lacks vectors.
        progress: called with (objects dealt with, damaged objects).

    Raises:
        StoreError: a manifest is damaged; roll back to a snapshot that is whole.
        StorageUnavailableError: the disk is full or read-only.
    """
    damaged = damaged_objects(store)
    manifests = list(store.chain())
    healed: list[str] = []
    dropped: list[str] = []
    lost: dict[str, str] = {}
    # In the order of derivation: chunks are needed to know which texts live, vectors for graphs.
    for done, name in enumerate(sorted(damaged, key=lambda n: (_rank(damaged[n].kind), n))):
        entry = damaged[name]
        if entry.kind == EMBEDDINGS:
            _drop(store.objects, entry, manifests)
            dropped.append(name)
        else:
            why = _heal(kb, store.objects, entry, manifests)
            if why:
                lost[name] = why
            else:
                healed.append(name)
        progress(done + 1, len(damaged))
    retired = read_retired(store.root)
    unindexed = [m for m in manifests if m.unindexed and m.name() not in retired]
    renewed, let_go = renew_indexes(kb, store, [n for n in lost if damaged[n].kind in _INDEX])
    if let_go:
        named = needed_names(store)
        lost = {name: why for name, why in lost.items() if name in named}
    lost |= _embed_again(kb, store.objects, unindexed, encoding)
    store.objects.discard_drafts()
    return Repair(tuple(healed), tuple(dropped), lost, renewed, let_go)


def needed_names(store: Store) -> set[str]:
    """Names of the objects that the chain needs today."""
    chain, retired = list(store.chain()), read_retired(store.root)
    return set(needed_objects((m for m in chain if m.name() not in retired), chain))


def _heal(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifests: list[Manifest]
) -> str:
    """Try every way to make `entry` again; returns why none worked, or nothing."""
    maker = _MAKERS.get(entry.kind)
    if maker is None:
        return "it is primary: restore it from a backup"
    why = "nothing in the store says what it held"
    for manifest in reversed(manifests):
        if entry not in manifest.objects():
            continue
        try:
            for made in maker(kb, objects, entry, manifest):
                if made == entry:
                    return ""
                why = "what was made again has other bytes; other versions of the libraries?"
        except HeadwaterError as error:
            why = f"{error.what}: {error.obj}"
        except KeyError:
            why = "a vector is missing from the embedding cache"
    return why


def _chunks(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifest: Manifest
) -> Iterator[ObjectEntry]:
    """Cut again: what no other object of chunks covers; failing that, contents by contents.

    The first is right whatever was merged, if the other objects are whole. Chunks are merged with
    their contents, so where several are damaged each mostly belongs to one object of contents.
    """
    cutter = cutter_of(manifest, objects)
    if cutter is None:
        return
    covered = _covered(objects, [other for other in manifest.chunks if other != entry])
    parts = [_texts(objects, contents) for contents in manifest.contents]
    everything = {name: text for part in parts for name, text in part.items()}
    for texts in (everything, *parts):
        rest = {name: text for name, text in texts.items() if name not in covered}
        yield from put_rows(objects, [cut_contents(rest, cutter)[1]], CHUNKS, entry.kind)
    for texts in (*parts, everything):
        if covered.isdisjoint(texts):
            continue
        yield from put_rows(objects, [cut_contents(texts, cutter)[1]], CHUNKS, entry.kind)


def _covered(objects: ObjectStore, chunks: Sequence[ObjectEntry]) -> set[bytes]:
    """The contents whose chunks stand in one of these objects; damaged ones say nothing."""
    found: set[bytes] = set()
    for entry in chunks:
        with suppress(CorruptObjectError):
            found.update(objects.read_table(entry, ["content_hash"])["content_hash"].to_pylist())
    return found


def _texts(objects: ObjectStore, contents: ObjectEntry) -> dict[bytes, str]:
    table = objects.read_table(contents)
    pairs = zip(table["content_hash"].to_pylist(), table["text"].to_pylist(), strict=True)
    return dict(pairs)


def _vectors(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifest: Manifest
) -> Iterator[ObjectEntry]:
    """A segment without tombstones holds exactly the live texts that no other segment serves."""
    segment = _segment(manifest, lambda s: s.vectors == entry)
    if segment is None or segment.tombstones or manifest.encoder is None:
        return
    wanted = np.unique(hash_array(live_texts(objects, manifest)))
    for other in manifest.segments:
        if other != segment:
            held = open_vectors(objects, other.vectors).hashes[alive_rows(objects, other)]
            wanted = wanted[find(held, wanted) < 0]
    cache = _cache(objects, manifest.encoder)
    rows = np.ascontiguousarray(wanted).view(np.uint8).reshape(len(wanted), -1)
    yield write_vectors(objects, wanted, cache.vectors([row.tobytes() for row in rows]))


def _graph(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifest: Manifest
) -> Iterator[ObjectEntry]:
    """The same vectors give the same graph, byte for byte."""
    segment = _segment(manifest, lambda s: s.graph == entry)
    if segment is not None:
        vectors = open_vectors(objects, segment.vectors).vectors
        yield build_graph(objects, vectors, recall=kb.config.index.recall)[0]


def _words(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifest: Manifest
) -> Iterator[ObjectEntry]:
    """The same texts give the same words, byte for byte."""
    segment = _segment(manifest, lambda s: entry in s.lexical)
    words = words_of(objects, manifest)
    if segment is not None and words is not None:
        yield from words.write(open_vectors(objects, segment.vectors).hashes)


def _tombstones(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifest: Manifest
) -> Iterator[ObjectEntry]:
    """Rows whose text is not live, or is served by an earlier segment."""
    wanted = np.unique(hash_array(live_texts(objects, manifest)))
    for segment in manifest.segments:
        hashes = open_vectors(objects, segment.vectors).hashes
        dead = find(wanted, hashes) < 0
        made = write_tombstones(objects, np.flatnonzero(dead))
        if made is not None:
            yield made
        wanted = wanted[find(hashes, wanted) < 0]


def _encoder(
    kb: KnowledgeBase, objects: ObjectStore, entry: ObjectEntry, manifest: Manifest
) -> Iterator[ObjectEntry]:
    """The same model, exported again."""
    if manifest.encoder is not None and manifest.encoder.backend in LOCAL:
        yield from export_again(manifest.encoder, objects, root=kb.root).files.values()


Maker = Callable[[KnowledgeBase, ObjectStore, ObjectEntry, Manifest], Iterator[ObjectEntry]]
_MAKERS: Final[dict[str, Maker]] = {
    "tokenizer.json": _encoder,
    "encoder.xml": _encoder,
    "encoder.bin": _encoder,
    "canary.f32": _encoder,
    "chunks.parquet": _chunks,
    "vectors.arrow": _vectors,
    "tombstones.u32": _tombstones,
    "graph.hnsw": _graph,
    **dict.fromkeys(LEXICAL, _words),
}
"""What is derived, in the order in which one needs the other; every other kind is primary."""


_INDEX: Final = ("vectors.arrow", "graph.hnsw", "tombstones.u32", *LEXICAL)
"""What can be done without: an index is made anew from the cache, or searched without."""


def _rank(kind: str) -> int:
    order = list(_MAKERS)
    return order.index(kind) if kind in order else -1


def _drop(objects: ObjectStore, entry: ObjectEntry, manifests: list[Manifest]) -> None:
    """Remove a damaged part of the cache, after saving what segments hold of it elsewhere."""
    files.remove(objects.root / entry.name)
    for encoder in {m.encoder.fingerprint: m.encoder for m in manifests if m.encoder}.values():
        cache = _cache(objects, encoder)
        saved: dict[bytes, np.ndarray] = {}
        for segment in _segments(manifests, encoder.fingerprint):
            try:
                held = open_vectors(objects, segment.vectors)
            except CorruptObjectError:
                continue
            names = np.ascontiguousarray(held.hashes).view(np.uint8).reshape(segment.rows, -1)
            for name, vector in zip(names, held.vectors, strict=True):
                saved[name.tobytes()] = vector
        missing = cache.missing(list(saved))
        if missing:
            cache.add(missing, np.stack([saved[name] for name in missing]))


def _embed_again(
    kb: KnowledgeBase, objects: ObjectStore, unindexed: list[Manifest], encoding: EncodingOpener
) -> dict[str, str]:
    """Embed what snapshots without an index need; returns snapshot -> why that did not work."""
    cached = CachedTexts(objects)
    lost = {}
    for manifest in unindexed:
        encoder = manifest.encoder
        try:
            if encoder is None or not cached.lacking(manifest):
                continue
            opened = encoding(kb, encoder, objects, new_model=False, dry_run=False)
            embed_missing(
                objects,
                manifest,
                live_texts(objects, manifest),
                cache=_cache(objects, encoder),
                embedder=opened.embedder,
                progress=lambda done, total: None,
            )
            cached.look_again()
        except HeadwaterError as error:
            lost[f"snapshots/{manifest.name()}"] = f"{error.what}: {error.obj}"
    return lost


def _segments(manifests: list[Manifest], fingerprint: str) -> list[Segment]:
    found = {
        segment.vectors.name: segment
        for manifest in manifests
        if manifest.encoder and manifest.encoder.fingerprint == fingerprint
        for segment in manifest.segments
    }
    return list(found.values())


def _segment(manifest: Manifest, wanted: Callable[[Segment], bool]) -> Segment | None:
    return next((segment for segment in manifest.segments if wanted(segment)), None)


def _cache(objects: ObjectStore, encoder: Encoder) -> EmbeddingCache:
    return EmbeddingCache(objects, space=encoder.fingerprint, dim=encoder.dim)
