"""The registry of query encoders: what opens the encoder that a snapshot carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from headwater.errors import ModelError
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectEntry, ObjectStore

if TYPE_CHECKING:
    from headwater.retrieval.encoder import TextEncoder, Vectors

_RETRIES: Final = 1
"""Of a query's request: whoever searches waits for it."""

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


def _sentence_transformers(encoder: Encoder, objects: ObjectStore) -> TextEncoder:
    from headwater.retrieval.embedding import SentenceTransformersEmbedder
    from headwater.retrieval.models import resolve
    from headwater.retrieval.space import space_of

    # A relative path of a model is one from the folder in which the store lies.
    folder = resolve(encoder.model, root=objects.root.parent.parent)
    space = space_of(folder, model=encoder.model)
    opened = SentenceTransformersEmbedder(folder, space)
    require_same(opened, encoder, objects)
    return opened.with_prompt(encoder.query_prompt)


def _openai(encoder: Encoder, objects: ObjectStore) -> TextEncoder:
    from headwater.config import EmbeddingEndpoint
    from headwater.retrieval.embedding.endpoint import EndpointEmbedder
    from headwater.retrieval.space import space_in

    told = json.loads(objects.path(_file(encoder, "endpoint")).read_bytes())
    endpoint = EmbeddingEndpoint.model_validate({**told, "retries": _RETRIES})
    tokenizer = objects.path(_file(encoder, "tokenizer")).read_bytes()
    opened = EndpointEmbedder(endpoint, space_in(encoder), tokenizer)
    require_same(opened, encoder, objects)
    expecting = opened.expecting(stored_canary(encoder, objects))
    return expecting.with_prompt(encoder.query_prompt)


def canary_agreement(opened: TextEncoder, encoder: Encoder, objects: ObjectStore) -> float:
    """The lowest cosine between what a model says of the canary texts now and what is stored.

    Raises:
        ModelError: the snapshot has no such file.
        CorruptObjectError: it is missing or damaged.
    """
    from headwater.retrieval.embedding import agreement, canary_vectors

    return agreement(canary_vectors(opened), stored_canary(encoder, objects))


def require_same(opened: TextEncoder, encoder: Encoder, objects: ObjectStore) -> None:
    """Refuse a model whose vectors are not those of the store.

    Raises:
        ModelError: it changed under its name, or this machine computes other vectors.
    """
    from headwater.retrieval.embedding import least_agreement

    found = canary_agreement(opened, encoder, objects)
    # "not >=" also refuses a NaN.
    if not found >= least_agreement(encoder.backend):
        who = "The endpoint" if encoder.backend == "openai" else "This machine"
        raise ModelError(
            f"{who} computes other vectors than the store holds (cosine {found:.5f})",
            obj=encoder.model,
            todo="restore the model, or build the index anew with: headwater refresh --new-model",
        )


def stored_canary(encoder: Encoder, objects: ObjectStore) -> Vectors:
    """What the model said of the canary texts when the store was built: float32 (texts, dim).

    Raises:
        ModelError: the snapshot has no such file.
        CorruptObjectError: it is missing or damaged.
    """
    data = objects.path(_file(encoder, "canary")).read_bytes()
    return np.frombuffer(data, "<f4").reshape(-1, encoder.dim)


def _file(encoder: Encoder, role: str) -> ObjectEntry:
    try:
        return encoder.files[role]
    except KeyError:
        raise ModelError(
            f"The snapshot's query encoder has no {role}",
            obj=encoder.model,
            todo="refresh once, or give Retriever.open an encoder",
        ) from None


OPENERS: dict[str, Opener] = {
    "openvino": _openvino,
    "sentence-transformers": _sentence_transformers,
    "openai": _openai,
    "hash": _hash,
}
"""Backend name, as in `Encoder.backend`, to what opens it."""
