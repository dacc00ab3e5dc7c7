"""Does the model still give the vectors that the store holds? Asked at its opening and before publication."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from headwater.retrieval.embedding import Embedder, agreement, least_agreement
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.encoders import canary_agreement
from headwater.storage.manifest import Encoder, Gate
from headwater.storage.objects import ObjectEntry, ObjectStore

GATE: Final = "embedding-canary"
CANARY: Final = "canary.f32"
"""The kind of the objects that hold what a model said of the canary texts."""


def put_canary(objects: ObjectStore, vectors: Vectors) -> ObjectEntry:
    """Store what a model says of the canary texts: float32 (texts, dim)."""
    data = np.ascontiguousarray(vectors, dtype="<f4")
    return objects.put_bytes(data.tobytes(), CANARY, rows=len(data))


def earlier_canary(objects: ObjectStore, vectors: Vectors, least: float) -> ObjectEntry | None:
    """What the same model said of the canary texts before, where that is still there.

    A run that failed may have paid for many vectors of the space that is known by it.
    """
    for entry, path in objects.listing():
        if entry.kind == CANARY and entry.bytes == 4 * vectors.size:
            held = np.frombuffer(path.read_bytes(), "<f4").reshape(vectors.shape)
            if agreement(vectors, held) >= least:
                return replace(entry, rows=len(vectors))
    return None


def canary_gates(objects: ObjectStore, encoder: Encoder, embedder: Embedder) -> tuple[Gate, ...]:
    """Whether the model is the same after embedding as it was before; nothing is asked of the twin.

    Raises:
        EndpointError: it cannot be asked.
    """
    if "canary" not in encoder.files:
        return ()
    found = canary_agreement(embedder, encoder, objects)
    least = least_agreement(encoder.backend)
    told = f"cosine {found:.5f}, at least {least} is needed"
    return (Gate(GATE, found >= least, detail=told),)
