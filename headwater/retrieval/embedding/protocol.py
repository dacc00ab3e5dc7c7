"""Embedding in bulk: what a refresh needs of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from headwater.retrieval.encoder import TextEncoder, Vectors
from headwater.retrieval.space import Space

GROUP: Final = 256
"""Texts between two commits of vectors."""


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


def groups_by_length(texts: Sequence[str], size: int = GROUP) -> Iterator[list[int]]:
    """Positions in groups of `size`, texts of like length together, so that padding costs little."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    return (order[start : start + size] for start in range(0, len(order), size))


def in_groups(
    encoder: TextEncoder, texts: Sequence[str], size: int = GROUP
) -> Iterator[tuple[list[int], Vectors]]:
    """`Embedder.embed` of a backend that has nothing better than its `encode`."""
    for group in groups_by_length(texts, size):
        yield group, encoder.encode([texts[index] for index in group])
