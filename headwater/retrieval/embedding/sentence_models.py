"""sentence-transformers: the reference, any model it can load, and a GPU where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from headwater.errors import MissingExtraError, ModelError
from headwater.retrieval.embedding.protocol import GROUP, in_groups
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.space import Space

_BATCH: Final = 8
_GPU_BATCH: Final = 128
_GPU_GROUP: Final = 4096


class SentenceTransformersEmbedder:
    """A model in float32. A text's vector is the same in any batch up to rounding (about 1e-6).

    Args:
        folder: of the model.
        space: of the model.
        device: `cpu` or `cuda`.

    Raises:
        ModelError: the model cannot be loaded.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(self, folder: Path, space: Space, *, device: str = "cpu") -> None:
        try:
            from safetensors import SafetensorError
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtraError.of("sentence-transformers", "pipeline") from None
        self.space = space
        self.device = device
        self._prompt = space.document_prompt
        try:
            with quiet():
                # "eager" attention is the one that exports to the fastest graph.
                self.model: Any = SentenceTransformer(
                    str(folder),
                    device=device,
                    local_files_only=True,
                    model_kwargs={"attn_implementation": "eager"} if device == "cpu" else {},
                )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                "sentence-transformers cannot load the model",
                obj=f"{folder} on {device}",
                todo=f"{str(error).strip() or type(error).__name__}; fetch the model again",
            ) from None

    def with_prompt(self, prompt: str) -> Self:
        """The same, for texts that another prompt is put before."""
        other = copy(self)
        other._prompt = prompt
        return other

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`; the prompt is applied."""
        if not texts:
            return np.empty((0, self.space.dim), dtype=np.float32)
        vectors: Vectors = self.model.encode(
            [self._prompt + normalise(text) for text in texts],
            prompt="",
            batch_size=_BATCH if self.device == "cpu" else _GPU_BATCH,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`; a GPU is given more at a time."""
        yield from in_groups(self, texts, GROUP if self.device == "cpu" else _GPU_GROUP)


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
