"""Which model embeds, whether it is still the same, and what happens when it is not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from chat_server import refuses, sleeps
from embedding_behaviours import embeds
from tiny_models import tiny_model

from headwater.config import load
from headwater.errors import ConfigError, EndpointError, ModelError
from headwater.flows.encoding import open_encoding, twin_encoding
from headwater.flows.encoding.canary import put_canary
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.retrieval import Retriever
from headwater.retrieval.embedding import (
    CANARY_TEXTS,
    HashEmbedder,
    SentenceTransformersEmbedder,
    canary_vectors,
)
from headwater.retrieval.embedding.gpu import GpuForMany
from headwater.retrieval.normalisation import normalise
from headwater.storage.store import Store

NOTES = {
    "pump": "The pump feeds hall three, and is oiled every second Monday.",
    "valve": "The valve is closed before the gauge is read at nine.",
}


class Base:
    """A knowledge base of notes, embedded as its configuration says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "notes").mkdir()
        for name, text in NOTES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.root / "notes" / f"{name}.md").write_text(text)

    def configure(self, **settings) -> None:
        sources = {"notes": {"kind": "documents", "root": "notes"}}
        config = {"name": "base", "sources": sources, "gates": {"change_queries": 0}, **settings}
        (self.root / "headwater.yaml").write_text(yaml.safe_dump(config))

    def at(self, url: str, **endpoint) -> None:
        settings = {"url": url, "model": "m", "retries": 0, "timeout": "1s"}
        self.configure(embedding={"endpoint": {**settings, **endpoint}})

    def refresh(self, encoding=open_encoding, **options):
        return refresh(load(self.root), RefreshOptions(**options), encoding=encoding)

    @property
    def store(self) -> Store:
        return Store.open(self.root / "store")

    def found(self, query: str, **options) -> list[str]:
        with Retriever.open(self.root) as retriever:
            return [hit.key for hit in retriever.search(query, **options)]


@pytest.fixture
def base(tmp_path):
    """Two notes."""
    return Base(tmp_path)


# --- an endpoint ------------------------------------------------------------------------------


def test_an_endpoint_embeds_texts_and_queries_and_only_what_is_new(base, chat, monkeypatch):
    """From a first refresh to a search; the store holds the name of the key's variable alone."""
    monkeypatch.setenv("EMBED_KEY", "sk-never-stored")
    chat.does(embeds())
    base.at(chat.url, api_key="${EMBED_KEY}")
    assert base.refresh().embedded == 2
    encoder = base.store.current().encoder
    assert (encoder.backend, encoder.dim, encoder.model) == ("openai", 32, "m")
    assert base.found("who feeds hall three", mode="dense")[0] == "pump.md"
    assert chat.requests[-1]["input"] == ["who feeds hall three", CANARY_TEXTS[1]]
    chat.does(embeds())
    assert not base.refresh().published and chat.requests == []
    base.write("gauge", "The gauge in hall two is read twice a day.")
    assert base.refresh().embedded == 1
    asked = [text for request in chat.requests for text in request["input"]]
    known = {normalise(text) for text in CANARY_TEXTS}
    # The longest of them is cut where the model stops reading.
    new = [text for text in asked if not any(one.startswith(text) for one in known)]
    assert new == ["The gauge in hall two is read twice a day."]
    held = b"".join(p.read_bytes() for p in (base.root / "store").rglob("*") if p.is_file())
    assert b"sk-never-stored" not in held and b"${EMBED_KEY}" in held


def test_an_endpoint_that_moved_is_told_to_readers_and_nothing_is_embedded(base, chat):
    """Where a model is, and how its tokens are counted, is no part of the space."""
    chat.does(embeds())
    base.at(chat.url)
    base.refresh()
    space = base.store.current().encoder.fingerprint
    base.at(chat.url + "/")
    report = base.refresh()
    assert report.published and report.embedded == 0
    encoder = base.store.current().encoder
    told = base.store.objects.path(encoder.files["endpoint"]).read_text()
    assert encoder.fingerprint == space and f'"{chat.url}/"' in told
    assert not base.refresh().published
    assert base.found("who feeds hall three", mode="dense")[0] == "pump.md"


def test_a_model_that_changed_under_its_name_is_refused_until_a_new_index_is_asked_for(base, chat):
    """Nothing is mixed: not by a refresh, not by a query; a new index is one publication."""
    chat.does(embeds())
    base.at(chat.url)
    base.refresh()
    before = base.store.current()
    chat.does(embeds(turned=3))
    base.write("pump", NOTES["pump"] + " It is new.")
    with pytest.raises(ModelError, match="other vectors") as caught:
        base.refresh()
    assert "--new-model" in caught.value.todo
    with pytest.raises(ModelError, match="other vectors"):
        base.found("who feeds hall three", mode="dense")
    assert base.found("feeds hall three", mode="lexical")[0] == "pump.md"
    assert base.store.current() == before
    report = base.refresh(new_model=True)
    assert report.published and report.embedded == 2
    after = base.store.current()
    assert after.encoder.fingerprint != before.encoder.fingerprint
    assert base.found("who feeds hall three", mode="dense")[0] == "pump.md"
    assert not base.refresh().published
    # Asked for once more, with the model still the same: there is nothing to do but to say so.
    assert base.refresh(new_model=True).embedded == 0


def test_a_new_model_is_built_beside_the_old_one_which_serves_until_it_is_whole(base, chat):
    """The new one's endpoint breaks down half-way; a later run goes on from what was paid for."""
    chat.does(embeds())
    base.at(chat.url)
    for number in range(400):
        base.write(f"note{number}", f"The pump number {number} lifts water to hall {number}.")
    base.refresh()
    before = base.store.current_name()
    with Retriever.open(base.root) as retriever:
        base.at(chat.url, model="other", batch=64, parallel=1)
        with pytest.raises(ModelError, match="other instead of m"):
            base.refresh()
        # Hosted models never say quite the same twice.
        chat.does(*[embeds(64)] * 7, refuses(500))
        with pytest.raises(EndpointError):
            base.refresh(new_model=True)
        assert base.store.current_name() == before
        chat.does(embeds())
        assert retriever.search("pump number 7 lifts water", k=1, mode="dense")
        chat.does(embeds(64, noise=1e-4))
        report = base.refresh(new_model=True)
        assert report.published and report.embedded == 402 - 256
        assert base.store.current().encoder.dim == 64
        hits = retriever.search("pump number 7 lifts water", k=1, mode="dense")
        assert [hit.snapshot for hit in hits] == [report.snapshot]


def test_while_an_endpoint_sleeps_words_are_still_found(base, chat):
    """A dense search is a clear error, and the next one is answered as soon as it is awake."""
    chat.does(embeds())
    base.at(chat.url)
    base.refresh()
    with Retriever.open(base.root) as retriever:
        chat.does(sleeps)
        began = time.monotonic()
        with pytest.raises(EndpointError, match="too slow"):
            retriever.search("hall three")
        assert time.monotonic() - began < 10
        assert retriever.search("hall three", mode="lexical")[0].key == "pump.md"
        chat.does(embeds())
        assert retriever.search("hall three", mode="dense")[0].key == "pump.md"


def test_a_plan_asks_no_endpoint(base, chat):
    """Also before the first refresh, when nothing is known of the model."""
    chat.does(refuses(500))
    base.at(chat.url)
    assert refresh(load(base.root), dry_run=True).embedded == 2
    assert chat.requests == []


def test_a_tokenizer_may_be_named_and_exchanging_it_cuts_anew(base, chat):
    """Chunks follow the tokenizer; texts that stay the same are not embedded again."""
    chat.does(embeds())
    base.at(chat.url)
    base.refresh()
    (base.root / "tokenizer.json").write_bytes(HashEmbedder().tokenizer)
    base.at(chat.url, tokenizer="tokenizer.json")
    report = base.refresh()
    assert report.published and report.embedded == 0
    assert not base.refresh().published
    base.at(chat.url, tokenizer="nowhere.json")
    with pytest.raises(ConfigError, match="tokenizer"):
        base.refresh()


@pytest.mark.parametrize(
    ("embedding", "told"),
    [
        ({"backend": "openai"}, "endpoint"),
        ({"backend": "openvino", "device": "cuda"}, "processor"),
        ({"backend": "abacus"}, "backend"),
        ({"backend": "openvino", "endpoint": {"url": "http://h/v1", "model": "m"}}, "endpoint"),
        ({"endpoint": {"url": "http://h/v1", "model": "m", "api_key": "sk-literal"}}, "api_key"),
        ({"endpoint": {"url": "http://user:pass@h/v1", "model": "m"}}, "url"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(base, embedding, told):
    """With the key that is wrong, and without repeating a secret."""
    base.configure(embedding=embedding)
    with pytest.raises(ConfigError) as caught:
        load(base.root)
    assert told in caught.value.todo and "sk-literal" not in str(caught.value)


# --- the canary gate --------------------------------------------------------------------------


def test_a_model_that_changes_while_it_embeds_is_not_published(base):
    """The canary texts are embedded again before publication; the candidate is kept and named."""

    class Turning(HashEmbedder):
        turned = False

        def encode(self, texts):
            return np.roll(super().encode(texts), 7 * self.turned, axis=1)

        def embed(self, texts):
            yield from super().embed(texts)
            self.turned = True

    def opener(kb, parent, objects, *, new_model, dry_run):
        made = twin_encoding(kb, parent, objects, new_model=new_model, dry_run=dry_run)
        model = Turning()
        files = {**made.encoder.files, "canary": put_canary(objects, canary_vectors(model))}
        return replace(made, encoder=replace(made.encoder, files=files), embedder=lambda: model)

    base.configure()
    report = base.refresh(opener)
    assert not report.published and report.candidate and report.exit_code == 4
    (gate,) = [gate for gate in report.gates if not gate.passed]
    assert gate.name == "embedding-canary" and "cosine" in gate.detail


# --- this machine -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_embeds_and_answers_by_itself(base):
    """Its snapshots carry no graph; a model that changed in its folder is refused."""
    tiny_model(base.root / "tiny", dense=True)
    base.configure(model="./tiny")
    assert base.refresh().embedded == 2
    encoder = base.store.current().encoder
    assert (encoder.backend, encoder.dim) == ("sentence-transformers", 8)
    assert set(encoder.files) == {"tokenizer", "canary"}
    assert base.found(NOTES["pump"], mode="dense")[0] == "pump.md"
    assert not base.refresh().published
    base.configure(model="./tiny", embedding={"backend": "openvino"})
    with pytest.raises(ModelError, match="cannot be exported"):
        base.refresh(new_model=True)


@pytest.mark.slow
def test_the_graph_and_sentence_transformers_share_a_space(base):
    """Built with one and gone on with the other: only what is new is embedded."""
    tiny_model(base.root / "tiny")
    base.configure(model="./tiny")
    assert base.refresh().embedded == 2
    assert base.store.current().encoder.backend == "openvino"
    base.configure(model="./tiny", embedding={"backend": "sentence-transformers"})
    base.write("gauge", "The gauge is read at nine.")
    assert base.refresh().embedded == 1
    assert base.found("gauge is read at nine", mode="dense")[0] in ("gauge.md", "valve.md")
    base.configure(model="./tiny", embedding={"device": "cuda"})
    base.write("hall", "Hall two is new.")
    with pytest.raises(ModelError, match="no GPU"):
        base.refresh()


@pytest.mark.slow
def test_a_machine_that_computes_other_vectors_gets_a_space_of_its_own(base, monkeypatch):
    """It is refused, until a person asks for a new index; from then on it is the same again."""
    tiny_model(base.root / "tiny", dense=True)
    base.configure(model="./tiny")
    base.refresh()
    before = base.store.current().encoder.fingerprint
    plain = SentenceTransformersEmbedder.encode
    monkeypatch.setattr(
        SentenceTransformersEmbedder,
        "encode",
        lambda self, texts: np.roll(plain(self, texts), 1, axis=1),
    )
    base.write("gauge", "The gauge is read at nine.")
    with pytest.raises(ModelError, match="other vectors"):
        base.refresh()
    report = base.refresh(new_model=True)
    assert report.published and report.embedded == 3
    assert base.store.current().encoder.fingerprint != before
    base.write("hall", "Hall two is new.")
    assert base.refresh().embedded == 1
    assert base.found("hall two is new", mode="dense", k=1) == ["hall.md"]


def test_a_gpu_is_taken_for_many_texts_and_where_there_is_one():
    """A handful is embedded before it would have been loaded."""
    opened: list[HashEmbedder] = []

    def many():
        opened.append(HashEmbedder(32))
        return opened[-1]

    few = HashEmbedder(32)
    texts = [f"text {n}" for n in range(2500)]
    places = [p for found, _ in GpuForMany(few, many).embed(texts) for p in found]
    assert sorted(places) == list(range(2500)) and len(opened) == 1
    assert [p for found, _ in GpuForMany(few, many).embed(texts[:9]) for p in found]
    assert len(opened) == 1
    without = GpuForMany(few, lambda: None)
    assert sum(len(found) for found, _ in without.embed(texts)) == 2500
    np.testing.assert_array_equal(without.encode(["a"]), few.encode(["a"]))
