"""The in-memory twin of an embedding model, for tests of everything around one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from headwater.retrieval.embedding.protocol import in_groups
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.space import Space


class HashEmbedder:
    """A model-free twin: texts that share words get near vectors, the same ones everywhere.

    It is its own query encoder, and brings its own tokenizer (a token is a word or a run of
    punctuation), so that a whole pipeline runs in a test without a model.

    Args:
        dim: length of a vector.
        max_tokens: the limit for chunks.
    """

    def __init__(self, dim: int = 32, *, max_tokens: int = 254) -> None:
        name = f"hash-{dim}"
        self.space = Space(
            fingerprint=hashlib.sha256(f"headwater/{name}/{max_tokens}".encode()).hexdigest(),
            model=name,
            dim=dim,
            max_tokens=max_tokens,
            pooling="mean",
            normalised=True,
        )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        out = np.zeros((len(texts), self.space.dim), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            words = re.findall(r"\w+", normalise(text).lower()) or [""]
            for word in words:
                row += _word_vector(word, self.space.dim)
            row /= np.linalg.norm(row)
        return out

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`."""
        yield from in_groups(self, texts)

    @property
    def tokenizer(self) -> bytes:
        """A `tokenizer.json` for `Tokenizer`."""
        return json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {"type": "Whitespace"},
                "post_processor": None,
                "decoder": None,
                "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
            }
        ).encode()


@lru_cache(maxsize=65536)
def _word_vector(word: str, dim: int) -> Vectors:
    """Signs drawn from the word's hash, so that two different words are nearly orthogonal."""
    digest = hashlib.shake_128(word.encode()).digest(-(-dim // 8))
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:dim]
    return bits.astype(np.float32) * 2 - 1
