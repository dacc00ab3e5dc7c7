"""The embedding space: which vectors may be compared with which."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from headwater.errors import ModelError
from headwater.retrieval.tokens import Tokenizer
from headwater.storage.manifest import Encoder

_TEXT_RULE: Final = "nfc-spaces/1"
_POOLING_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_DOCUMENT_PROMPTS: Final = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class Space:
    """An embedding space.

    Attributes:
        fingerprint: sha256 (hex) over weights, tokenizer, length, pooling, prompts, normalisation.
        model: the name it was asked for under; not part of the fingerprint.
        dim: length of a vector.
        max_tokens: of a text, special tokens and prompt not counted.
        pooling: how token vectors become one: `mean`, `cls`, `cls+mean`.
        normalised: whether the model itself ends in L2 normalisation (headwater always applies it).
        query_prompt: put before a query.
        document_prompt: put before a chunk.
    """

    fingerprint: str
    model: str
    dim: int
    max_tokens: int
    pooling: str
    normalised: bool
    query_prompt: str = ""
    document_prompt: str = ""


def space_of(folder: Path, *, model: str) -> Space:
    """The space of the sentence-transformers model in `folder`, read without torch.

    Args:
        folder: as `models.resolve` returns it.
        model: the name to record.

    Raises:
        ModelError: the folder holds no such model, or lacks a file.
    """
    modules = _modules(folder)
    config = _json(folder / "config.json")
    prompts = _json(folder / "config_sentence_transformers.json", missing={})
    query, document = _prompts(prompts)
    modes, include_prompt = _pooling(folder, modules)
    length = _max_seq_length(folder, config)
    tokenizer_file = folder / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise _broken(tokenizer_file, "headwater needs the fast tokenizer's file")
    tokenizer = Tokenizer(tokenizer_file)
    prompt_tokens = max(tokenizer.count([query, document]))
    normalised = any(kind == "Normalize" for kind, _ in modules)
    identity = {
        "weights": _weights(folder, modules),
        "tokenizer": _sha256(tokenizer_file),
        "max_seq_length": length,
        "modules": [kind for kind, _ in modules],
        "pooling": [*modes, include_prompt],
        "prompts": [query, document],
        "normalised": normalised,
        "text": _TEXT_RULE,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return Space(
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        model=model,
        dim=_dim(folder, modules, config, len(modes)),
        max_tokens=length - tokenizer.specials - prompt_tokens,
        pooling="+".join(modes),
        normalised=normalised,
        query_prompt=query,
        document_prompt=document,
    )


def space_in(encoder: Encoder) -> Space:
    """The space of a snapshot's encoder."""
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


def module_kinds(folder: Path) -> tuple[str, ...]:
    """The class names of the model's modules, in order.

    Raises:
        ModelError: `modules.json` cannot be read.
    """
    return tuple(kind for kind, _ in _modules(folder))


def _modules(folder: Path) -> tuple[tuple[str, Path], ...]:
    path = folder / "modules.json"
    if not path.is_file():
        # sentence-transformers puts mean pooling behind a bare transformer.
        return (("Transformer", folder), ("Pooling", folder / "1_Pooling"))
    try:
        rows = json.loads(path.read_text("utf-8"))
        return tuple((row["type"].rpartition(".")[2], folder / row["path"]) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, str(error)) from None


def _pooling(folder: Path, modules: tuple[tuple[str, Path], ...]) -> tuple[tuple[str, ...], bool]:
    where = next((path for kind, path in modules if kind == "Pooling"), folder / "1_Pooling")
    config = _json(where / "config.json", missing={})
    stated = config.get("pooling_mode")
    if isinstance(stated, str):
        modes: tuple[str, ...] = (stated,)
    elif isinstance(stated, list) and stated:
        modes = tuple(str(mode) for mode in stated)
    else:
        modes = tuple(name for flag, name in _POOLING_FLAGS.items() if config.get(flag))
    return modes or ("mean",), bool(config.get("include_prompt", True))


def _prompts(config: dict[str, Any]) -> tuple[str, str]:
    prompts = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name") or "", "")
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if name in prompts), default)
    return str(prompts.get("query", default)), str(document)


def _max_seq_length(folder: Path, config: dict[str, Any]) -> int:
    own = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    stated = _json(own).get("max_seq_length") if own else None
    if stated is None:
        tokenizer = _json(folder / "tokenizer_config.json", missing={})
        bounds = (tokenizer.get("model_max_length"), config.get("max_position_embeddings"))
        # A tokenizer without a limit of its own says 10**30.
        stated = min((int(b) for b in bounds if b and b < 1_000_000), default=512)
    return int(stated)


def _dim(
    folder: Path, modules: tuple[tuple[str, Path], ...], config: dict[str, Any], modes: int
) -> int:
    dim = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    if not dim:
        raise _broken(folder / "config.json", "it names no hidden_size")
    size = int(dim) * modes
    for kind, path in modules:
        if kind == "Dense":
            size = int(_json(path / "config.json")["out_features"])
    return size


def _weights(folder: Path, modules: tuple[tuple[str, Path], ...]) -> list[str]:
    found: list[Path] = []
    for place in dict.fromkeys((folder, *(path for _, path in modules))):
        files = sorted(place.glob("*.safetensors")) or sorted(place.glob("pytorch_model*.bin"))
        found += files
    if not found:
        raise _broken(folder, "it holds neither model.safetensors nor pytorch_model.bin")
    return [_sha256(path) for path in found]


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    """Hashed once per process and state of the file: weights are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise _broken(path, "the file is missing") from None
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from None
    if not isinstance(value, dict):
        raise _broken(path, "expected a JSON object")
    return value


def _broken(path: Path, why: str) -> ModelError:
    return ModelError(
        "The folder holds no usable model", obj=str(path), todo=f"{why}; fetch the model again"
    )
