"""Exporting a sentence-transformers model as one graph that needs no torch.

Transformer, pooling and L2 normalisation become an OpenVINO IR with fp16 weights: half the size on
disk, and within 1e-4 of the original in cosine, which every export proves before it is used.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.errors import MissingExtraError, ModelError, StorageUnavailableError
from headwater.retrieval.embedding import (
    SAME_SPACE,
    SentenceTransformersEmbedder,
    agreement,
    canary_vectors,
    quiet,
)
from headwater.retrieval.encoder import QueryEncoder, import_converter, import_openvino
from headwater.retrieval.space import Space, module_kinds

_GRAPH: Final = "encoder.xml"
_WEIGHTS: Final = "encoder.bin"
_TOKENIZER: Final = "tokenizer.json"
_SUPPORTED: Final = frozenset({"Transformer", "Pooling", "Normalize"})


@dataclass(frozen=True, slots=True)
class Exported:
    """The three files a query encoder needs.

    Attributes:
        xml: the graph.
        weights: its fp16 weights.
        tokenizer: a copy of the model's `tokenizer.json`.
        agreement: lowest cosine to sentence-transformers over the canary texts; 1.0 when the files
            were already there.
    """

    xml: Path
    weights: Path
    tokenizer: Path
    agreement: float = 1.0


def exportable(model_folder: Path) -> bool:
    """Whether the model is made of nothing but what can be exported.

    Raises:
        ModelError: `modules.json` cannot be read.
    """
    return set(module_kinds(model_folder)) <= _SUPPORTED


def export_encoder(model_folder: Path, space: Space, out: Path) -> Exported:
    """Export the model in `model_folder` into the folder `out`.

    The same model and library versions give the same bytes. The files take their names only once
    they have been checked against sentence-transformers.

    Args:
        model_folder: as `models.resolve` returns it.
        space: of that model.
        out: created if missing.

    Raises:
        ModelError: a module of the model is not supported, or the graph disagrees with the model.
        MissingExtraError: sentence-transformers or OpenVINO is not installed.
        StorageUnavailableError: `out` cannot be written.
    """
    strange = [kind for kind in module_kinds(model_folder) if kind not in _SUPPORTED]
    if strange:
        raise ModelError(
            f"A model with the module {strange[0]} cannot be exported",
            obj=str(model_folder),
            todo="leave 'embedding.backend' out, and the model itself embeds and answers",
        )
    reference = SentenceTransformersEmbedder(model_folder, space)
    draft = out / "draft"
    try:
        draft.mkdir(parents=True, exist_ok=True)
        _save(_convert(reference.model), draft)
        shutil.copyfile(model_folder / _TOKENIZER, draft / _TOKENIZER)
        found = _prove(reference, space, draft)
        for name in (_WEIGHTS, _TOKENIZER, _GRAPH):
            (draft / name).replace(out / name)
    except OSError as error:
        raise StorageUnavailableError.of(error, out) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Exported(out / _GRAPH, out / _WEIGHTS, out / _TOKENIZER, found)


def _prove(reference: SentenceTransformersEmbedder, space: Space, draft: Path) -> float:
    encoder = QueryEncoder(
        draft / _GRAPH,
        draft / _WEIGHTS,
        draft / _TOKENIZER,
        max_tokens=space.max_tokens,
        prompt=space.document_prompt,
    )
    found = agreement(canary_vectors(reference), canary_vectors(encoder))
    # "not >=" also refuses a NaN.
    if not found >= SAME_SPACE:
        raise ModelError(
            f"The exported graph disagrees with the model (cosine {found:.5f})",
            obj=space.model,
            todo="name another model, and please report this one",
        )
    return found


def _convert(model: Any) -> Any:
    """The OpenVINO model of a `SentenceTransformer`."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError.of("torch", "pipeline") from None
    convert_model = import_converter()
    typed = "token_type_ids" in model.tokenizer.model_input_names

    class Sentence(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList(list(model))

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                features["token_type_ids"] = token_type_ids
            for step in self.steps:
                features = step(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], p=2, dim=1)

    # Two rows of unequal length, so that nothing about shape or mask is traced as a constant.
    ids = torch.ones((2, 7), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    example = {"input_ids": ids, "attention_mask": mask}
    if typed:
        example["token_type_ids"] = torch.zeros_like(ids)
    with quiet():
        try:
            return convert_model(Sentence().eval(), example_input=example)
        except Exception as error:  # noqa: BLE001
            # Tracing runs code of the model; what it may raise is not known here.
            raise ModelError(
                "The model cannot be converted to OpenVINO",
                obj=type(model[0]).__name__,
                todo=f"{error}; name another model",
            ) from None


def _save(model: Any, folder: Path) -> None:
    """Write the IR under names that do not count the conversions this process has made."""
    model.set_friendly_name("encoder")
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind != "Parameter":
            node.set_friendly_name(f"{kind}_{index}")
    import_openvino().save_model(model, str(folder / _GRAPH), compress_to_fp16=True)
