"""What a step changes, against what a look at everything finds."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater import config
from headwater.flows import draft as drafting
from headwater.flows import index_build
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval.index import index_problems
from headwater.storage.history import live_texts
from headwater.storage.lookup import PAIRS
from headwater.storage.manifest import Manifest
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS, CONTENTS, count_live
from headwater.storage.verify import verify

YAML = """\
name: two
sources:
  a: {kind: memory, deletion_guard: {max_count: 100}}
  b: {kind: memory, deletion_guard: {max_count: 100}}
index: {graph_from: 1000, max_flat_segments: 2}
"""
# Chunks that several texts share, so that a text may end while its chunk stays.
PARTS = [f"## Part {n}\n\n" + " ".join(f"word{n}x{i}" for i in range(200)) for n in range(6)]
TEXTS = ["\n\n".join(PARTS[i] for i in (n % 6, n // 6)) for n in range(18)]


def kb_in(folder):
    (folder / "headwater.yaml").write_text(YAML)
    return config.load(folder)


def opened(state: dict[str, dict[str, int]]) -> dict[str, MemorySource]:
    return {
        name: MemorySource.of(
            [Record(key=f"k{key}", text=TEXTS[text]) for key, text in held.items()]
        )
        for name, held in state.items()
    }


def advance(kb, state: dict[str, dict[str, int]]):
    return refresh(kb, RefreshOptions(), encoding=twin_encoding, sources=opened(state))


def assert_as_if_anew(store: Store, manifest: Manifest) -> None:
    """The counts and the index are those that a look at all the tables gives."""
    objects = store.objects
    texts = live_texts(objects, manifest)
    documents, chunks, _ = count_live(objects, manifest)
    assert index_problems(objects, manifest, texts) == []
    counts = {name: manifest.counts[name] for name in ("texts", "chunks", "documents")}
    assert counts == {
        "texts": len(texts),
        "chunks": chunks,
        "documents": sum(documents.values()),
    }
    assert {n: s.documents for n, s in manifest.sources.items() if s.documents} == documents


documents = st.dictionaries(st.integers(0, 7), st.integers(0, len(TEXTS) - 1), max_size=8)
states = st.fixed_dictionaries({"a": documents, "b": documents})


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(states, min_size=2, max_size=7), st.integers(0, 6))
def test_any_history_of_two_sources_is_counted_and_indexed_as_if_anew(
    tmp_path_factory, history, back
):
    """Renames, reverts, duplicates in both sources, rollbacks: never off by one text or chunk."""
    kb = kb_in(tmp_path_factory.mktemp("kb"))
    for number, state in enumerate(history):
        advance(kb, state)
        store = Store.open(kb.store)
        assert_as_if_anew(store, store.current())
        if number == back and store.current().seq > 1:
            assert_as_if_anew(store, store.rollback("1", run_id="someone"))
    assert verify(Store.open(kb.store), deep=True, index_check=index_problems).problems == ()


def test_the_cases_that_names_alone_would_get_wrong(tmp_path, monkeypatch):
    """A text leaves when its last holder does, and the first step alone looks at everything."""
    kb = kb_in(tmp_path)
    whole = counting(monkeypatch, "anew")
    steps = [
        {"a": {0: 0, 1: 1, 2: 7}, "b": {0: 0}},
        {"a": {1: 1, 2: 7}, "b": {0: 0}},  # still held by the other source
        {"a": {1: 1, 2: 7}, "b": {0: 1}},  # its last holder goes, a duplicate comes
        {"a": {3: 1, 2: 7}, "b": {0: 1}},  # renamed
        {"a": {3: 7, 2: 1}, "b": {0: 1}},  # swapped
        {"a": {0: 0, 3: 7}, "b": {}},  # reverted
        {"a": {}, "b": {5: 13}},  # a source becomes empty; chunks are shared
    ]
    for state in steps:
        assert advance(kb, state).published
        store = Store.open(kb.store)
        assert_as_if_anew(store, store.current())
    assert len(whole) == 1


def counting(monkeypatch, name: str) -> list[int]:
    """Grows by one with each call of that function of `index_build`."""
    calls: list[int] = []
    original = getattr(index_build, name)

    def counted(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(index_build, name, counted)
    return calls


def test_after_an_index_that_failed_its_gate_everything_is_looked_at(tmp_path, monkeypatch):
    """A snapshot that a person let through proves nothing about the next one."""
    kb = kb_in(tmp_path)
    original = index_build.step_problems
    assert advance(kb, {"a": {0: 0, 1: 3}, "b": {}}).published
    monkeypatch.setattr(index_build, "step_problems", lambda *_, **__: ["something is wrong"])
    stopped = advance(kb, {"a": {0: 0, 1: 4}, "b": {}})
    assert not stopped.published and stopped.candidate
    Store.open(kb.store).publish(stopped.candidate, override=True)
    monkeypatch.setattr(index_build, "step_problems", original)
    whole = counting(monkeypatch, "anew")
    for text in (5, 6):
        assert advance(kb, {"a": {0: 0, 1: text}, "b": {}}).published
        store = Store.open(kb.store)
        assert_as_if_anew(store, store.current())
    assert len(whole) == 1


def test_an_index_that_lacks_a_text_is_not_published(tmp_path, monkeypatch):
    """Whatever goes wrong while the index is advanced, readers stay on a whole snapshot."""
    kb = kb_in(tmp_path)
    assert advance(kb, {"a": {0: 0, 1: 3}, "b": {}}).published
    monkeypatch.setattr(index_build, "advance_index", lambda objects, *, parent, **_: parent)
    report = advance(kb, {"a": {0: 0, 1: 4}, "b": {}})
    assert not report.published
    (gate,) = [gate for gate in report.gates if gate.name == "index-complete"]
    assert not gate.passed and "added texts are missing from the index" in gate.detail


def test_a_content_without_chunks_is_looked_for_among_the_contents(tmp_path):
    """What the hashes of the chunks cannot tell is not stored a second time."""
    kb = kb_in(tmp_path)
    advance(kb, {"a": {0: 0, 1: 3}, "b": {}})
    store = Store.open(kb.store)
    parent = store.current()
    (entry,) = parent.contents
    stored = store.objects.read_table(entry).cast(CONTENTS)
    chunks = CHUNKS.empty_table()
    step = SimpleNamespace(parent=parent)
    for name in (parent.chunker, "another"):
        cutter = SimpleNamespace(name=name)
        new, _ = drafting._unknown(
            store.objects, step, (stored, chunks), PAIRS.empty_table(), cutter
        )
        assert new.num_rows == 0
    step = SimpleNamespace(parent=None)
    new, _ = drafting._unknown(store.objects, step, (stored, chunks), PAIRS.empty_table(), cutter)
    assert new.num_rows == 2


def test_what_would_be_embedded_is_what_is_embedded(tmp_path):
    """The plan of a dry run holds, reverts and duplicates included."""
    kb = kb_in(tmp_path)
    rng = random.Random(3)
    for _ in range(6):
        state = {name: {key: rng.randrange(18) for key in rng.sample(range(8), 4)} for name in "ab"}
        planned = refresh(
            kb, RefreshOptions(), encoding=twin_encoding, sources=opened(state), dry_run=True
        )
        assert planned.embedded == advance(kb, state).embedded
