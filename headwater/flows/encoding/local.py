"""The model on this machine: exported once, carried by every snapshot, embedding in bulk from there.

Whatever embeds in bulk, its vectors must be those of the space: sentence-transformers on a GPU, the
graph in bf16 and the graph in f32 share one, because their canary vectors agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from headwater.config import KnowledgeBase
from headwater.errors import ModelError
from headwater.flows.encoding.canary import (
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
from headwater.retrieval.embedding import (
    Embedder,
    OpenVinoEmbedder,
    SentenceTransformersEmbedder,
    canary_vectors,
    least_agreement,
)
from headwater.retrieval.embedding.gpu import GpuForMany, gpu_seen
from headwater.retrieval.encoders import canary_agreement, require_same
from headwater.retrieval.export import export_encoder, exportable
from headwater.retrieval.models import resolve
from headwater.retrieval.space import Space, space_in, space_of
from headwater.storage import files
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectStore

LOCAL: Final = ("openvino", "sentence-transformers")
"""What opens a local model's queries: its exported graph, or, where it has none, the model itself."""


def local_encoding(
    kb: KnowledgeBase,
    parent: Encoder | None,
    objects: ObjectStore,
    *,
    new_model: bool,
    dry_run: bool,
) -> Encoding:
    """The configured sentence-transformers model; see `EncodingOpener`."""
    if parent is not None and not new_model:
        _require_same_model(kb, parent)
        return _reopened(kb, parent, objects)
    folder = resolve(kb.config.model, root=kb.root)
    space = space_of(folder, model=kb.config.model)
    known = parent is not None and is_model_of(space, parent)
    if parent is not None and known and (dry_run or _agrees(kb, parent, objects)):
        return _reopened(kb, parent, objects)
    backend = _carried(kb, folder)
    if dry_run:
        encoder = encoder_of(space, backend, {})
        tokenizer = (folder / "tokenizer.json").read_bytes()
        return Encoding(encoder, cutter_for(kb, encoder, tokenizer), never)
    encoder = _carry(folder, space, backend, objects)
    if known:
        # The same model, and yet other vectors: a space of their own, known by what they are.
        mark = known_by(space.fingerprint, encoder.files["canary"].sha256)
        encoder = replace(encoder, fingerprint=mark)
    return _reopened(kb, encoder, objects)


def is_model_of(space: Space, encoder: Encoder) -> bool:
    """Whether a snapshot's encoder was made from the model of this space."""
    if encoder.backend not in LOCAL:
        return False
    mark = known_by(space.fingerprint, encoder.files["canary"].sha256)
    return encoder.fingerprint in (space.fingerprint, mark)


def export_again(encoder: Encoder, objects: ObjectStore, *, root: Path) -> Encoder:
    """Make what a snapshot carries of its model once more; the same model gives the same objects.

    Raises:
        ModelError: this machine does not have that very model.
    """
    folder = resolve(encoder.model, root=root)
    space = space_of(folder, model=encoder.model)
    if not is_model_of(space, encoder):
        raise ModelError("This machine holds another version of the model", obj=encoder.model)
    return _carry(folder, space, encoder.backend, objects)


def _require_same_model(kb: KnowledgeBase, parent: Encoder) -> None:
    """Refuse a model that is another one, or that changed under the same name."""
    if parent.model != kb.config.model or parent.backend not in LOCAL:
        raise another_model(f"{kb.config.model} instead of {parent.model}")
    try:
        folder = resolve(kb.config.model, root=kb.root)
    except ModelError:
        # The snapshot's own copy is complete, so a machine without the model may refresh too.
        return
    if not is_model_of(space_of(folder, model=kb.config.model), parent):
        raise another_model(f"{kb.config.model} in {folder}")


def _carried(kb: KnowledgeBase, folder: Path) -> str:
    """What a snapshot's queries are to be opened with."""
    exports = exportable(folder) or kb.config.embedding.backend == "openvino"
    return "openvino" if exports else "sentence-transformers"


def _carry(folder: Path, space: Space, backend: str, objects: ObjectStore) -> Encoder:
    """What a snapshot carries of a model, made and stored."""
    if backend == "sentence-transformers":
        model = SentenceTransformersEmbedder(folder, space)
        tokenizer = (folder / "tokenizer.json").read_bytes()
        roles = {
            "tokenizer": objects.put_bytes(tokenizer, "tokenizer.json"),
            "canary": put_canary(objects, canary_vectors(model)),
        }
        return encoder_of(space, backend, roles)
    work = objects.draft("export")
    found = export_encoder(folder, space, work)
    graph = OpenVinoEmbedder(found.xml, found.weights, found.tokenizer, space=space)
    canary = canary_vectors(graph)
    roles = {
        "graph": objects.adopt(found.xml, "encoder.xml"),
        "weights": objects.adopt(found.weights, "encoder.bin"),
        "tokenizer": objects.adopt(found.tokenizer, "tokenizer.json"),
        "canary": put_canary(objects, canary),
    }
    files.remove_tree(work)
    return encoder_of(space, backend, roles)


def _reopened(kb: KnowledgeBase, encoder: Encoder, objects: ObjectStore) -> Encoding:
    tokenizer = objects.path(encoder.files["tokenizer"]).read_bytes()
    return Encoding(
        encoder, cutter_for(kb, encoder, tokenizer), _opener(kb, encoder, objects, check=True)
    )


def _agrees(kb: KnowledgeBase, encoder: Encoder, objects: ObjectStore) -> bool:
    found = canary_agreement(_opener(kb, encoder, objects, check=False)(), encoder, objects)
    return bool(found >= least_agreement(encoder.backend))


def _opener(
    kb: KnowledgeBase, encoder: Encoder, objects: ObjectStore, *, check: bool
) -> Callable[[], Embedder]:
    """What opens the embedder that the configuration asks for, and this machine can have."""
    wanted, device = kb.config.embedding.backend, kb.config.embedding.device

    def checked(embedder: Embedder) -> Embedder:
        if check:
            require_same(embedder, encoder, objects)
        return embedder

    def model(device: str) -> Embedder:
        folder = resolve(encoder.model, root=kb.root)
        return checked(SentenceTransformersEmbedder(folder, space_in(encoder), device=device))

    def graph() -> Embedder:
        paths = [objects.path(encoder.files[role]) for role in ("graph", "weights", "tokenizer")]
        return checked(OpenVinoEmbedder(*paths, space=space_in(encoder)))

    def for_many() -> Embedder | None:
        # Without the model's folder the graph does it all.
        return model("cuda") if gpu_seen() and _is_here(encoder.model, kb.root) else None

    if encoder.backend != "openvino" and wanted == "openvino":
        raise ModelError(
            "The model cannot be exported, and openvino cannot run it",
            obj=encoder.model,
            todo="leave 'embedding.backend' out, and the model itself embeds and answers",
        )
    if encoder.backend != "openvino" or wanted == "sentence-transformers" or device == "cuda":
        return lambda: model(_device(device))
    if wanted == "openvino" or device == "cpu":
        return graph
    return lambda: GpuForMany(graph(), for_many)


def _device(asked: str) -> str:
    if asked == "cuda" and not gpu_seen():
        raise ModelError(
            "torch sees no GPU", obj="embedding.device: cuda", todo="leave it out, or write cpu"
        )
    return "cpu" if asked == "cpu" or not gpu_seen() else "cuda"


def _is_here(model: str, root: Path) -> bool:
    try:
        resolve(model, root=root)
    except ModelError:
        return False
    return True
