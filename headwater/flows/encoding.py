"""Which model turns texts into vectors in this run, and is it still the one the store was built with?

A knowledge base that was built once needs neither torch nor the model's folder again: the snapshot
carries the exported graph, and the refresh embeds with that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from headwater.config import KnowledgeBase
from headwater.errors import ModelError
from headwater.flows.texts import Cutter
from headwater.retrieval.chunking import CHUNKER_ID
from headwater.retrieval.embedding import (
    SAME_SPACE,
    Embedder,
    HashEmbedder,
    OpenVinoEmbedder,
    agreement,
    canary_vectors,
)
from headwater.retrieval.models import resolve
from headwater.retrieval.space import Space, space_of
from headwater.retrieval.tokens import Tokenizer
from headwater.storage import files
from headwater.storage.manifest import Encoder, Manifest
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
        """
        ...


def open_encoding(
    kb: KnowledgeBase,
    parent: Encoder | None,
    objects: ObjectStore,
    *,
    new_model: bool,
    dry_run: bool,
) -> Encoding:
    """The configured sentence-transformers model, exported once; see `EncodingOpener`."""
    if parent is not None and not new_model:
        _require_same_model(kb, parent)
        return _reopened(kb, parent, objects)
    folder = resolve(kb.config.model, root=kb.root)
    space = space_of(folder, model=kb.config.model)
    if parent is not None and parent.fingerprint == space.fingerprint:
        return _reopened(kb, parent, objects)
    if dry_run:
        tokenizer = (folder / "tokenizer.json").read_bytes()
        encoder = _encoder(space, "openvino", {})
        return Encoding(encoder, _cutter(kb, encoder, tokenizer), _never)
    return _reopened(kb, _exported(folder, space, objects), objects)


def twin_encoding(
    kb: KnowledgeBase,
    parent: Encoder | None,
    objects: ObjectStore,
    *,
    new_model: bool,
    dry_run: bool,
) -> Encoding:
    """A deterministic encoding without a model, for tests of everything around it."""
    twin = HashEmbedder()
    kinds = {} if dry_run else {"tokenizer": objects.put_bytes(twin.tokenizer, "tokenizer.json")}
    encoder = _encoder(replace(twin.space, model=kb.config.model), "hash", kinds)
    return Encoding(encoder, _cutter(kb, encoder, twin.tokenizer), lambda: twin)


def _require_same_model(kb: KnowledgeBase, parent: Encoder) -> None:
    """Refuse a model that is another one, or that changed under the same name."""
    what = "The embedding model is not the one the store was built with"
    todo = "restore it, or build the index anew with: headwater refresh --new-model"
    if parent.model != kb.config.model:
        raise ModelError(what, obj=f"{kb.config.model} instead of {parent.model}", todo=todo)
    try:
        folder = resolve(kb.config.model, root=kb.root)
    except ModelError:
        # The snapshot's own copy is complete, so a machine without the model may refresh too.
        return
    if space_of(folder, model=kb.config.model).fingerprint != parent.fingerprint:
        raise ModelError(what, obj=f"{kb.config.model} in {folder}", todo=todo)


def _exported(folder: Path, space: Space, objects: ObjectStore) -> Encoder:
    from headwater.retrieval.export import export_encoder

    work = objects.draft("export")
    found = export_encoder(folder, space, work)
    model = OpenVinoEmbedder(found.xml, found.weights, found.tokenizer, space=space)
    canary = canary_vectors(model).astype("<f4")
    roles = {
        "graph": objects.adopt(found.xml, "encoder.xml"),
        "weights": objects.adopt(found.weights, "encoder.bin"),
        "tokenizer": objects.adopt(found.tokenizer, "tokenizer.json"),
        "canary": objects.put_bytes(canary.tobytes(), "canary.f32", rows=len(canary)),
    }
    files.remove_tree(work)
    return _encoder(space, "openvino", roles)


def _reopened(kb: KnowledgeBase, encoder: Encoder, objects: ObjectStore) -> Encoding:
    paths = {role: objects.path(entry) for role, entry in encoder.files.items()}

    def opened() -> Embedder:
        model = OpenVinoEmbedder(
            paths["graph"], paths["weights"], paths["tokenizer"], space=_space(encoder)
        )
        expected = np.frombuffer(paths["canary"].read_bytes(), "<f4").reshape(-1, encoder.dim)
        found = agreement(canary_vectors(model), expected)
        # "not >=" also refuses a NaN.
        if not found >= SAME_SPACE:
            raise ModelError(
                f"This machine computes other vectors than the store holds (cosine {found:.5f})",
                obj=encoder.model,
                todo="build the index anew with: headwater refresh --new-model",
            )
        return model

    return Encoding(encoder, _cutter(kb, encoder, paths["tokenizer"].read_bytes()), opened)


def is_current(kb: KnowledgeBase, parent: Manifest) -> bool:
    """Whether a snapshot was cut and embedded as the configuration says; loads nothing."""
    encoder = parent.encoder
    return (
        encoder is not None
        and encoder.model == kb.config.model
        and parent.chunker == _cutter_name(encoder, *_limits(kb, encoder))
    )


def cutter_of(manifest: Manifest, objects: ObjectStore) -> Cutter | None:
    """The cutter that made a snapshot's chunks, or None when this version cannot cut like it."""
    chunker, _, rest = manifest.chunker.partition(":")
    low, _, limit = rest.partition(":")[0].partition("-")
    if chunker != CHUNKER_ID or manifest.encoder is None or not (low.isdigit() and limit.isdigit()):
        return None
    tokenizer = objects.path(manifest.encoder.files["tokenizer"]).read_bytes()
    return Cutter(Tokenizer(tokenizer), int(limit), int(low), manifest.chunker)


def export_again(encoder: Encoder, objects: ObjectStore, *, root: Path) -> Encoder:
    """Export the model of a snapshot once more; the same model gives the same objects.

    Raises:
        ModelError: this machine does not have that very model.
    """
    folder = resolve(encoder.model, root=root)
    space = space_of(folder, model=encoder.model)
    if space.fingerprint != encoder.fingerprint:
        raise ModelError("This machine holds another version of the model", obj=encoder.model)
    return _exported(folder, space, objects)


def _limits(kb: KnowledgeBase, encoder: Encoder) -> tuple[int, int]:
    """The smallest and largest chunk, in tokens."""
    wanted = kb.config.chunking
    limit = min(wanted.max_tokens or encoder.max_tokens, encoder.max_tokens)
    return min(wanted.min_tokens, limit // 2), limit


def _cutter_name(encoder: Encoder, low: int, limit: int) -> str:
    return f"{CHUNKER_ID}:{low}-{limit}:{encoder.fingerprint[:16]}"


def _cutter(kb: KnowledgeBase, encoder: Encoder, tokenizer: bytes) -> Cutter:
    low, limit = _limits(kb, encoder)
    return Cutter(Tokenizer(tokenizer), limit, low, _cutter_name(encoder, low, limit))


def _encoder(space: Space, backend: str, roles: dict[str, ObjectEntry]) -> Encoder:
    return Encoder(
        fingerprint=space.fingerprint,
        model=space.model,
        dim=space.dim,
        max_tokens=space.max_tokens,
        backend=backend,
        files=roles,
        query_prompt=space.query_prompt,
        document_prompt=space.document_prompt,
        pooling=space.pooling,
        normalised=space.normalised,
    )


def _space(encoder: Encoder) -> Space:
    return Space(
        fingerprint=encoder.fingerprint,
        model=encoder.model,
        dim=encoder.dim,
        max_tokens=encoder.max_tokens,
        pooling=encoder.pooling,
        normalised=encoder.normalised,
        query_prompt=encoder.query_prompt,
        document_prompt=encoder.document_prompt,
    )


def _never() -> Embedder:
    raise ModelError("A plan does not embed", obj="dry run")
