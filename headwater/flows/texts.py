"""From new contents to chunks to vectors: the costly step, and the one that never repeats itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headwater.config import KnowledgeBase
from headwater.retrieval.chunking import CHUNKER_ID, Chunk, chunk
from headwater.retrieval.embedding import Embedder
from headwater.retrieval.normalisation import normalise, text_hash
from headwater.retrieval.tokens import Tokenizer
from headwater.storage.embedding_merge import merge_embeddings
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.lookup import rows_with
from headwater.storage.manifest import Encoder, Manifest
from headwater.storage.objects import ObjectStore
from headwater.storage.tables import CHUNKS, CONTENTS

COMMIT_EVERY = 256
"""Texts between two commits of vectors: what a killed run can lose at most."""

_TEXTS = pa.schema([CHUNKS.field("text_hash"), CHUNKS.field("text")])


@dataclass(frozen=True)
class Cutter:
    """How texts are cut; its `name` is part of every snapshot."""

    tokenizer: Tokenizer
    max_tokens: int
    min_tokens: int
    name: str

    def cut(self, text: str) -> tuple[Chunk, ...]:
        """The chunks of one text."""
        return chunk(
            text,
            tokenizer=self.tokenizer,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
        )


def cutter_for(kb: KnowledgeBase, encoder: Encoder, tokenizer: bytes) -> Cutter:
    """What cuts for an encoder, as the configuration has it.

    Args:
        kb: says how large a chunk may be.
        encoder: how long a text the model reads.
        tokenizer: its `tokenizer.json`.
    """
    low, limit = _limits(kb, encoder)
    return Cutter(Tokenizer(tokenizer), limit, low, cutter_name(kb, encoder))


def cutter_name(kb: KnowledgeBase, encoder: Encoder) -> str:
    """What tells the chunks of one cutter from those of another."""
    low, limit = _limits(kb, encoder)
    mark = encoder.fingerprint
    if encoder.backend == "openai" and "tokenizer" in encoder.files:
        # Elsewhere the space knows its tokenizer; this one may be exchanged without the model.
        mark = encoder.files["tokenizer"].sha256
    return f"{CHUNKER_ID}:{low}-{limit}:{mark[:16]}"


def cutter_of(manifest: Manifest, objects: ObjectStore) -> Cutter | None:
    """The cutter that made a snapshot's chunks, or None when this version cannot cut like it."""
    chunker, _, rest = manifest.chunker.partition(":")
    low, _, limit = rest.partition(":")[0].partition("-")
    if chunker != CHUNKER_ID or manifest.encoder is None or not (low.isdigit() and limit.isdigit()):
        return None
    tokenizer = objects.path(manifest.encoder.files["tokenizer"]).read_bytes()
    return Cutter(Tokenizer(tokenizer), int(limit), int(low), manifest.chunker)


def _limits(kb: KnowledgeBase, encoder: Encoder) -> tuple[int, int]:
    """The smallest and largest chunk, in tokens."""
    wanted = kb.config.chunking
    limit = min(wanted.max_tokens or encoder.max_tokens, encoder.max_tokens)
    return min(wanted.min_tokens, limit // 2), limit


def cut_contents(contents: Mapping[bytes, str], cutter: Cutter) -> tuple[pa.Table, pa.Table]:
    """The rows of `CONTENTS` and `CHUNKS` for texts under their content hashes, sorted by hash."""
    rows: list[dict[str, object]] = []
    order = sorted(contents)
    for content_hash in order:
        for piece in cutter.cut(contents[content_hash]):
            rows.append(
                {
                    "content_hash": content_hash,
                    "ordinal": piece.ordinal,
                    "text_hash": text_hash(piece.text),
                    "heading_path": list(piece.heading_path),
                    "start": piece.start,
                    "end": piece.end,
                    "tokens": piece.tokens,
                    "text": piece.text,
                }
            )
    texts = [contents[h] for h in order]
    stored = pa.table(
        {"content_hash": order, "chars": [len(t) for t in texts], "text": texts}, schema=CONTENTS
    )
    return stored, pa.Table.from_pylist(rows, schema=CHUNKS)


def embed_missing(
    objects: ObjectStore,
    draft: Manifest,
    wanted: Iterable[bytes],
    *,
    cache: EmbeddingCache,
    embedder: Callable[[], Embedder],
    progress: Callable[[int, int], None],
) -> int:
    """Give every text a vector; returns how many had none.

    Args:
        objects: the store's objects.
        draft: the snapshot in the making; its chunks hold the texts.
        wanted: hashes of the texts that need one.
        cache: where vectors are looked up and committed, every `COMMIT_EVERY` texts.
        embedder: opened only when something is missing.
        progress: called with (done, total).
    """
    missing = cache.missing(list(wanted))
    if not missing:
        return 0
    texts = _texts(objects, draft, missing)
    embed_into(cache, missing, texts, model=embedder(), progress=progress)
    merge_embeddings(objects, cache)
    return len(missing)


def embed_into(
    cache: EmbeddingCache,
    missing: Sequence[bytes],
    texts: Sequence[str],
    *,
    model: Embedder,
    progress: Callable[[int, int], None],
) -> None:
    """Embed texts and commit their vectors, every `COMMIT_EVERY` texts.

    Args:
        cache: where they go.
        missing: the hashes of the texts.
        texts: normalised, in the same order.
        model: what embeds them.
        progress: called with (done, total).
    """
    hashes: list[bytes] = []
    vectors: list[np.ndarray] = []
    done = 0
    progress(0, len(missing))
    for indices, block in model.embed(texts):
        hashes += [missing[i] for i in indices]
        vectors.append(block)
        if len(hashes) >= COMMIT_EVERY:
            cache.add(hashes, np.concatenate(vectors))
            done += len(hashes)
            hashes, vectors = [], []
            progress(done, len(missing))
    if hashes:
        cache.add(hashes, np.concatenate(vectors))
        progress(len(missing), len(missing))


def _texts(objects: ObjectStore, draft: Manifest, hashes: list[bytes]) -> list[str]:
    """The normalised texts of `hashes`, in their order; the newest chunks are searched first."""
    found: dict[bytes, str] = {}
    left = set(hashes)
    for entry in reversed(draft.chunks):
        if not left:
            break
        wanted = pa.array(sorted(left), _TEXTS.field("text_hash").type)
        table = rows_with(objects, [entry], "text_hash", wanted, schema=_TEXTS)
        found.update(zip(table["text_hash"].to_pylist(), table["text"].to_pylist(), strict=True))
        left -= found.keys()
    return [normalise(found[h]) for h in hashes]
