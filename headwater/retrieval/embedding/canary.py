"""Do two encoders speak of the same space? Asked with a dozen texts that differ in every way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from headwater.retrieval.encoder import TextEncoder, Vectors

SAME_SPACE: Final = 0.9999
"""Backends whose canary vectors agree at least this well share a space and its cached vectors."""
SAME_MODEL: Final = 0.999
"""An endpoint whose canary vectors agree at least this well has the same model as before: hosted ones
sum in another order from one request to the next, and another model is nowhere near."""

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


def least_agreement(backend: str) -> float:
    """How well a model must agree with what was stored of it, by what opens a snapshot's queries."""
    return SAME_MODEL if backend == "openai" else SAME_SPACE
