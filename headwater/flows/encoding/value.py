"""What an encoding is, and what opens one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from headwater.config import KnowledgeBase
from headwater.errors import ModelError
from headwater.flows.texts import Cutter
from headwater.retrieval.embedding import Embedder
from headwater.retrieval.space import Space
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectEntry, ObjectStore


@dataclass(frozen=True)
class Encoding:
    """How this run cuts and embeds.

    Attributes:
        encoder: for the manifest; `files` is empty in a dry run that would have to export first.
        cutter: the chunker with the model's tokenizer.
        embedder: opens the model; called only when a text needs a vector.
    """

    encoder: Encoder
    cutter: Cutter
    embedder: Callable[[], Embedder]


class EncodingOpener(Protocol):
    """Decides on the encoding of a run."""

    def __call__(
        self,
        kb: KnowledgeBase,
        parent: Encoder | None,
        objects: ObjectStore,
        *,
        new_model: bool,
        dry_run: bool,
    ) -> Encoding:
        """Open the encoding.

        Args:
            kb: names the model.
            parent: the encoder of the current snapshot.
            objects: where exported files go.
            new_model: another model than the parent's is wanted.
            dry_run: write nothing.

        Raises:
            ModelError: there is no such model, or it is not the parent's and `new_model` is unset.
            EndpointError: the model is at an endpoint, which cannot be used.
        """
        ...


def encoder_of(space: Space, backend: str, files: dict[str, ObjectEntry]) -> Encoder:
    """The encoder of a manifest: a space, what opens it, and the files for that."""
    return Encoder(
        fingerprint=space.fingerprint,
        model=space.model,
        dim=space.dim,
        max_tokens=space.max_tokens,
        backend=backend,
        files=files,
        query_prompt=space.query_prompt,
        document_prompt=space.document_prompt,
        pooling=space.pooling,
        normalised=space.normalised,
    )


def known_by(identity: str, canary_sha256: str) -> str:
    """The fingerprint of a space that only its canary vectors tell from others of one identity."""
    return hashlib.sha256(f"{identity}\0{canary_sha256}".encode()).hexdigest()


def another_model(what: str) -> ModelError:
    """The refusal of a model that is not the store's, or changed under the same name."""
    return ModelError(
        "The embedding model is not the one the store was built with",
        obj=what,
        todo="restore it, or build the index anew with: headwater refresh --new-model",
    )


def never() -> Embedder:
    """The embedder of a dry run."""
    raise ModelError("A plan does not embed", obj="dry run")
