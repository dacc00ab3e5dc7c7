"""The registry of query encoders: what opens the encoder that a snapshot carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headwater.errors import ModelError
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectEntry, ObjectStore

if TYPE_CHECKING:
    from headwater.retrieval.encoder import TextEncoder

Opener = Callable[[Encoder, ObjectStore], "TextEncoder"]


def open_query_encoder(encoder: Encoder, objects: ObjectStore) -> TextEncoder:
    """Open the encoder of a snapshot.

    Args:
        encoder: as the manifest names it.
        objects: where its files are.

    Returns:
        an object whose `encode(texts)` gives float32 (len(texts), dim), L2-normalised.

    Raises:
        ModelError: no such backend, or a file of the encoder is not named.
        CorruptObjectError: a file is missing or damaged.
    """
    opener = OPENERS.get(encoder.backend)
    if opener is None:
        raise ModelError(
            "This headwater cannot open the snapshot's query encoder",
            obj=f"backend '{encoder.backend}' of {encoder.model}",
            todo=f"upgrade headwater; it knows {', '.join(sorted(OPENERS))}",
        )
    return opener(encoder, objects)


def _openvino(encoder: Encoder, objects: ObjectStore) -> TextEncoder:
    from headwater.retrieval.encoder import QueryEncoder

    return QueryEncoder(
        objects.path(_file(encoder, "graph")),
        objects.path(_file(encoder, "weights")),
        objects.path(_file(encoder, "tokenizer")),
        max_tokens=encoder.max_tokens,
        prompt=encoder.query_prompt,
    )


def _hash(encoder: Encoder, objects: ObjectStore) -> TextEncoder:
    from headwater.retrieval.embedding import HashEmbedder

    return HashEmbedder(dim=encoder.dim)


def _file(encoder: Encoder, role: str) -> ObjectEntry:
    try:
        return encoder.files[role]
    except KeyError:
        raise ModelError(
            f"The snapshot's query encoder has no {role}",
            obj=encoder.model,
            todo="refresh once, or give Retriever.open an encoder",
        ) from None


OPENERS: dict[str, Opener] = {"openvino": _openvino, "hash": _hash}
"""Backend name, as in `Encoder.backend`, to what opens it."""
