"""The exported graph in bulk: every core at work, and a text's vector the same in any company."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from headwater.retrieval.embedding.canary import CANARY_TEXTS
from headwater.retrieval.embedding.protocol import in_groups
from headwater.retrieval.encoder import QueryEncoder, Vectors
from headwater.retrieval.space import Space


class OpenVinoEmbedder:
    """The exported graph, one run per core at a time, texts of equal length together.

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
            probes=CANARY_TEXTS,
        )

    @property
    def precision(self) -> str:
        """What the graph runs in: `bf16` or `f32`."""
        return self._encoder.precision

    @property
    def batched(self) -> bool:
        """Whether texts of equal length are run together: only where that changes no vector."""
        return self._encoder.batched

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`; the document prompt is applied."""
        return self._encoder.encode(texts)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`."""
        yield from in_groups(self, texts)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
