"""The model at an endpoint: its space is known by its name and by what it says of the canary texts.

Nobody can look at the weights of a hosted model. So its first canary vectors are part of the
fingerprint: what it says later must agree with them, and a model that changed under the same name
is refused until a person asks for a new index.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from headwater.config import EmbeddingEndpoint, KnowledgeBase
from headwater.errors import ConfigError
from headwater.flows.encoding.canary import (
    earlier_canary,
    put_canary,
)
from headwater.flows.encoding.value import (
    Encoding,
    another_model,
    encoder_of,
    known_by,
    never,
)
from headwater.flows.texts import cutter_for
from headwater.retrieval.embedding import Embedder, canary_vectors, least_agreement
from headwater.retrieval.embedding.endpoint import EndpointEmbedder
from headwater.retrieval.encoders import canary_agreement, require_same, stored_canary
from headwater.retrieval.space import Space, space_in
from headwater.retrieval.tokens import ESTIMATING
from headwater.storage.files import sha256
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectEntry, ObjectStore

_BACKEND: Final = "openai"
_TOLD: Final = {"url", "model", "api_key", "timeout", "dimensions"}
"""What a reader needs to know of an endpoint to embed a query there."""


def endpoint_encoding(
    kb: KnowledgeBase,
    parent: Encoder | None,
    objects: ObjectStore,
    *,
    new_model: bool,
    dry_run: bool,
) -> Encoding:
    """The model of `embedding.endpoint`; see `EncodingOpener`."""
    endpoint = kb.config.embedding.endpoint
    assert endpoint is not None
    known = parent if parent is not None and is_endpoint_of(endpoint, parent) else None
    if parent is not None and known is None and not new_model:
        raise another_model(f"{endpoint.model} instead of {parent.model}")
    tokenizer = tokenizer_of(endpoint, root=kb.root)
    if dry_run:
        planned = known or encoder_of(_space(endpoint), _BACKEND, {})
        return Encoding(planned, cutter_for(kb, planned, tokenizer), never)
    told = {
        "tokenizer": objects.put_bytes(tokenizer, "tokenizer.json"),
        "endpoint": objects.put_bytes(endpoint_file(endpoint), "endpoint.json"),
    }
    encoder = None
    if known is not None:
        files = {**known.files, **told}
        encoder = replace(known, max_tokens=endpoint.max_tokens, files=files)
    if encoder is None or (new_model and not _agrees(endpoint, encoder, objects, tokenizer)):
        encoder = _asked(endpoint, objects, tokenizer, told)

    def opened(encoder: Encoder = encoder) -> Embedder:
        embedder = EndpointEmbedder(endpoint, space_in(encoder), tokenizer)
        require_same(embedder, encoder, objects)
        return embedder.expecting(stored_canary(encoder, objects))

    return Encoding(encoder, cutter_for(kb, encoder, tokenizer), opened)


def _agrees(
    endpoint: EmbeddingEndpoint, encoder: Encoder, objects: ObjectStore, tokenizer: bytes
) -> bool:
    """Whether the model is still the one that the store was built with."""
    embedder = EndpointEmbedder(endpoint, space_in(encoder), tokenizer)
    return canary_agreement(embedder, encoder, objects) >= least_agreement(encoder.backend)


def _asked(
    endpoint: EmbeddingEndpoint,
    objects: ObjectStore,
    tokenizer: bytes,
    told: dict[str, ObjectEntry],
) -> Encoder:
    """A space of its own, known by what the model says of the canary texts."""
    vectors = canary_vectors(EndpointEmbedder(endpoint, _space(endpoint), tokenizer))
    canary = earlier_canary(objects, vectors, least_agreement(_BACKEND))
    canary = canary or put_canary(objects, vectors)
    mark = known_by(identity_of(endpoint), canary.sha256)
    space = replace(_space(endpoint), fingerprint=mark, dim=vectors.shape[1])
    return encoder_of(space, _BACKEND, {**told, "canary": canary})


def is_endpoint_of(endpoint: EmbeddingEndpoint, encoder: Encoder) -> bool:
    """Whether a snapshot was embedded by the model that this endpoint names."""
    canary = encoder.files.get("canary")
    return (
        encoder.backend == _BACKEND
        and canary is not None
        and known_by(identity_of(endpoint), canary.sha256) == encoder.fingerprint
    )


def is_told(endpoint: EmbeddingEndpoint, encoder: Encoder, *, root: Path) -> bool:
    """Whether a snapshot says of the endpoint and its tokenizer what the configuration says."""
    now = {"endpoint": endpoint_file(endpoint), "tokenizer": tokenizer_of(endpoint, root=root)}
    return all(
        role in encoder.files and encoder.files[role].sha256 == sha256(data)
        for role, data in now.items()
    )


def endpoint_file(endpoint: EmbeddingEndpoint) -> bytes:
    """What a snapshot says of an endpoint: the variable that holds its key, and never the key."""
    told = endpoint.model_dump(mode="json", include=_TOLD, exclude_none=True)
    return (json.dumps(told, sort_keys=True) + "\n").encode()


def identity_of(endpoint: EmbeddingEndpoint) -> str:
    """What of an endpoint makes its vectors; where it is does not."""
    parts = (endpoint.model, endpoint.dimensions, endpoint.query_prompt, endpoint.document_prompt)
    return json.dumps(["openai", *parts])


def tokenizer_of(endpoint: EmbeddingEndpoint, *, root: Path) -> bytes:
    """The bytes of the configured `tokenizer.json`, or of the one that estimates from above.

    Raises:
        ConfigError: the file cannot be read.
    """
    if endpoint.tokenizer is None:
        return ESTIMATING
    path = root / endpoint.tokenizer
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            "The tokenizer of the endpoint's model cannot be read",
            obj=str(path),
            todo=f"{error.strerror}; see embedding.endpoint.tokenizer",
        ) from None


def _space(endpoint: EmbeddingEndpoint) -> Space:
    """Its space before the first reply: nothing is known of its fingerprint and length."""
    return Space(
        fingerprint=known_by(identity_of(endpoint), ""),
        model=endpoint.model,
        dim=endpoint.dimensions or 0,
        max_tokens=endpoint.max_tokens,
        pooling="endpoint",
        normalised=True,
        query_prompt=endpoint.query_prompt,
        document_prompt=endpoint.document_prompt,
    )
