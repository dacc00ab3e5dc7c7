"""Embedding before the store changes: texts that a step will need, found and embedded without a claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headwater.flows.encoding import Encoding
from headwater.flows.index_build import same_space
from headwater.flows.texts import cut_contents, embed_into
from headwater.retrieval.index import unheld
from headwater.retrieval.normalisation import normalise
from headwater.storage.changes import Changes
from headwater.storage.embedding_merge import merge_embeddings
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore


@dataclass(frozen=True)
class Wanted:
    """Texts without a vector.

    Attributes:
        hashes: of the texts, sorted.
        texts: normalised, in the same order.
        tokens: of all of them.
    """

    hashes: list[bytes]
    texts: list[str]
    tokens: int


def wanted_texts(
    objects: ObjectStore,
    changes: Sequence[Changes],
    *,
    parent: Manifest | None,
    encoding: Encoding,
) -> Wanted:
    """The distinct texts of new and changed records that have no vector yet."""
    contents = {
        record.content_hash: record.text
        for change in changes
        for record in (*change.added, *change.changed)
        if record.text is not None
    }
    _, chunks = cut_contents(contents, encoding.cutter)
    chunks = chunks.select(["text_hash", "text", "tokens"])
    cache = _cache(objects, encoding)
    hashes = set(chunks["text_hash"].to_pylist())
    missing = sorted(cache.missing(unheld(objects, same_space(parent, encoding), hashes)))
    chosen = chunks.filter(
        pc.is_in(chunks["text_hash"], value_set=pa.array(missing, pa.binary(32)))
    )
    rows = {row["text_hash"]: row for row in chosen.to_pylist()}
    return Wanted(
        missing,
        [normalise(rows[h]["text"]) for h in missing],
        sum(rows[h]["tokens"] for h in missing),
    )


def embed_ahead(
    objects: ObjectStore,
    wanted: Wanted,
    encoding: Encoding,
    *,
    progress: Callable[[int, int], None],
) -> None:
    """Give the texts vectors; they are kept whether or not a snapshot ever holds the texts."""
    if not wanted.hashes:
        return
    cache = _cache(objects, encoding)
    model = encoding.embedder()
    embed_into(cache, wanted.hashes, wanted.texts, model=model, progress=progress)
    merge_embeddings(objects, cache)


def _cache(objects: ObjectStore, encoding: Encoding) -> EmbeddingCache:
    encoder = encoding.encoder
    return EmbeddingCache(objects, space=encoder.fingerprint, dim=encoder.dim)
