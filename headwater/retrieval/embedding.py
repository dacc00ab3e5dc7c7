"""Embedding in bulk: one narrow protocol, a registry of backends, and an in-memory twin for tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from headwater.errors import ConfigError, MissingExtraError, ModelError
from headwater.retrieval.encoder import QueryEncoder, TextEncoder, Vectors
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.space import Space

# Backends whose canary vectors agree at least this well share a space and its cached vectors.
SAME_SPACE: Final = 0.9999
DEFAULT_BACKEND: Final = "openvino"
_GROUP: Final = 256

CANARY_TEXTS: Final[tuple[str, ...]] = (
    "water",
    "How do I restore a database from last night's backup?",
    "The refund must be requested within 30 days of delivery; after that only store credit is given.",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "| region | 2024 | 2025 |\n|---|---|---|\n| north | 1,204 | 998 |\n| south | 87 | 143 |",
    "Die Maschine darf nur bei geschlossener Schutztür eingeschaltet werden.",
    "El plazo de entrega depende del país de destino y del método de envío.",
    "温度が八十度を超えると、装置は自動的に停止します。",
    "ERROR 0x80070005 at 2026-03-01T04:12:09Z: access denied (pid=4711, uid=33)",
    "No, that is not what the contract says. It says the opposite.",
    " ".join(
        f"Step {n}: open valve {n}, wait {2 * n} seconds, and write the pressure in column {n % 7}."
        for n in range(1, 13)
    ),
    " ".join(f"Section {n} repeats that nothing in it may be changed." for n in range(1, 60)),
)


class Embedder(TextEncoder, Protocol):
    """Turns chunk texts into vectors of one space."""

    space: Space

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """Embed many texts, a few hundred at a time, so that the caller can commit each group.

        Nothing is computed ahead of what is asked for: what was yielded is all that was paid.

        Yields:
            positions in `texts`, and their vectors, float32 (len(positions), dim), L2-normalised.
            Each position comes exactly once, in an order chosen for speed.
        """
        ...


def canary_vectors(encoder: TextEncoder) -> Vectors:
    """The vectors of `CANARY_TEXTS`, float32 (len(CANARY_TEXTS), dim)."""
    return encoder.encode(CANARY_TEXTS)


def agreement(a: Vectors, b: Vectors) -> float:
    """The lowest cosine between rows of equal place; -1.0 when the shapes differ.

    Args:
        a: float32 (n, dim), L2-normalised.
        b: the same texts from another encoder.
    """
    if a.shape != b.shape or not len(a):
        return -1.0
    return float(np.min(np.einsum("ij,ij->i", a.astype(np.float64), b.astype(np.float64))))


def groups_by_length(texts: Sequence[str], size: int = _GROUP) -> Iterator[list[int]]:
    """Positions in groups of `size`, texts of like length together, so that padding costs little."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    return (order[start : start + size] for start in range(0, len(order), size))


class OpenVinoEmbedder:
    """The exported graph, one text per core at a time.

    Args:
        xml: the graph.
        weights: its weights.
        tokenizer: `tokenizer.json`.
        space: of the model it was exported from.
        threads: None takes one per core this process may use.

    Raises:
        ModelError: the tokenizer cannot be read.
    """

    def __init__(
        self, xml: Path, weights: Path, tokenizer: Path, *, space: Space, threads: int | None = None
    ) -> None:
        self.space = space
        threads = threads or _cores()
        self._encoder = QueryEncoder(
            xml,
            weights,
            tokenizer,
            max_tokens=space.max_tokens,
            prompt=space.document_prompt,
            threads=threads,
            streams=threads,
        )

    @property
    def precision(self) -> str:
        """What the graph runs in: `bf16` or `f32`."""
        return self._encoder.precision

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`; the document prompt is applied."""
        return self._encoder.encode(texts)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`."""
        for group in groups_by_length(texts):
            yield group, self.encode([texts[index] for index in group])


class SentenceTransformersEmbedder:
    """sentence-transformers in float32: the reference, and any model it can load.

    Args:
        folder: of the model.
        space: of the model.

    Raises:
        ModelError: the model cannot be loaded.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        try:
            from safetensors import SafetensorError
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtraError.of("sentence-transformers", "pipeline") from None
        self.space = space
        try:
            with quiet():
                # "eager" attention is the one that exports to the fastest graph.
                self.model: Any = SentenceTransformer(
                    str(folder),
                    device="cpu",
                    local_files_only=True,
                    model_kwargs={"attn_implementation": "eager"},
                )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                "sentence-transformers cannot load the model",
                obj=str(folder),
                todo=f"{str(error).strip() or type(error).__name__}; fetch the model again",
            ) from None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`; the document prompt is applied."""
        if not texts:
            return np.empty((0, self.space.dim), dtype=np.float32)
        vectors: Vectors = self.model.encode(
            [self.space.document_prompt + normalise(text) for text in texts],
            prompt="",
            batch_size=8,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`."""
        for group in groups_by_length(texts):
            yield group, self.encode([texts[index] for index in group])


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no remarks of the library about its own future."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
        for group in groups_by_length(texts):
            yield group, self.encode([texts[index] for index in group])

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


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


# --- backends -------------------------------------------------------------------------------------

# A backend is opened with the model's folder, its space, and a folder for what it derives from them.
Opener = Callable[[Path, Space, Path], Embedder]


def _open_openvino(folder: Path, space: Space, work: Path) -> Embedder:
    from headwater.retrieval.export import export_encoder, exported_files

    files = exported_files(work) or export_encoder(folder, space, work)
    return OpenVinoEmbedder(files.xml, files.weights, files.tokenizer, space=space)


def _open_sentence_transformers(folder: Path, space: Space, work: Path) -> Embedder:
    return SentenceTransformersEmbedder(folder, space)


BACKENDS: Final[Mapping[str, Opener]] = {
    "openvino": _open_openvino,
    "sentence-transformers": _open_sentence_transformers,
}


def open_embedder(
    folder: Path, space: Space, *, work: Path, backend: str = DEFAULT_BACKEND
) -> Embedder:
    """Open a backend for the model in `folder`.

    Args:
        folder: as `models.resolve` returns it.
        space: as `space.space_of` returns it.
        work: a folder for this space alone; `openvino` takes its export from there, or puts it there.
        backend: a name in `BACKENDS`.

    Raises:
        ConfigError: no such backend.
        ModelError: the model cannot be exported or loaded.
        MissingExtraError: the backend's library is not installed.
    """
    try:
        opener = BACKENDS[backend]
    except KeyError:
        raise ConfigError(
            "No such embedding backend", obj=backend, todo=f"one of: {', '.join(sorted(BACKENDS))}"
        ) from None
    return opener(folder, space, work)
