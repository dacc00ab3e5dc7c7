"""What a candidate is asked before it may be published, and what comes of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import config
from headwater.errors import ConfigError
from headwater.flows import draft
from headwater.flows.encoding import twin_encoding
from headwater.flows.quality import Candidate, opening, quality_gates
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.lexical_writing import words_of
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.segments import open_vectors
from headwater.storage.manifest import Gate
from headwater.storage.store import Store

NEW = {"new-text-found", "new-words-found"}
GATES = {"golden-queries", *NEW, "old-text-gone", "graph-recall"}


class Counting(HashEmbedder):
    """The twin, which counts how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return super().encode(texts)


class World:
    """A knowledge base over two sources in memory."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.a, self.b = MemorySource.of(), MemorySource.of()
        self.model = Counting()
        self.configure()

    def configure(self, **gates: Any) -> None:
        said = ", ".join(f"{name}: {value}" for name, value in gates.items())
        (self.root / "headwater.yaml").write_text(
            f"name: w\nsources: {{a: {{kind: memory}}, b: {{kind: memory}}}}\ngates: {{{said}}}\n"
            "index: {graph_from: 50}\n"
        )

    def golden(self, text: str) -> None:
        (self.root / "golden.yaml").write_text(text)

    def put(self, source: str = "a", **texts: str) -> None:
        records = [Record(key=key, text=text) for key, text in texts.items()]
        getattr(self, source).records = records

    def refresh(self, **options: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            encoding = twin_encoding(*args, **kwargs)

            def opened() -> Counting:
                self.model.opened += 1
                return self.model

            return replace(encoding, embedder=opened)

        return refresh(
            config.load(self.root),
            RefreshOptions(**options),
            encoding=counted,
            sources={"a": self.a, "b": self.b},
        )

    @property
    def store(self) -> Store:
        return Store.open(self.root / "store")


def gates(report: Any) -> dict[str, Gate]:
    """The quality gates of a report, by name."""
    return {gate.name: gate for gate in report.gates if gate.name in GATES}


@pytest.fixture
def world(tmp_path):
    """An empty one."""
    return World(tmp_path)


# --- golden queries -------------------------------------------------------------------------------


def test_a_golden_query_that_finds_nothing_keeps_the_candidate(world):
    """Critical by default: the candidate is named and kept, the last snapshot stays served."""
    world.golden("- {query: what lifts water, expect: pump, k: 1}\n")
    world.put(pump="A pump lifts water.", gate="A gate holds it back.")
    first = world.refresh()
    assert first.published and gates(first)["golden-queries"].passed
    world.put(pump="Nothing of use is said here.", gate="A gate lifts water.")
    second = world.refresh()
    assert (second.published, second.exit_code) == (False, 4)
    gate = gates(second)["golden-queries"]
    assert (gate.passed, gate.severity) == (False, "critical")
    assert "line 1 (pump)" in gate.detail and "lifts water" not in gate.detail
    assert world.store.current_name() == first.snapshot
    assert second.candidate in world.store.candidates()
    assert gate in world.store.manifest(second.candidate).gates


def test_a_golden_warning_is_published_and_reported(world):
    """The knowledge base says how severe a gate is."""
    world.configure(golden_severity="warning")
    world.golden("- {query: what lifts water, expect: pump}\n")
    world.put(gate="A gate holds water back.")
    report = world.refresh()
    assert report.published and not gates(report)["golden-queries"].passed


def test_a_share_of_golden_queries_may_fail(world):
    """The bar is the knowledge base's own."""
    world.golden("- {query: pump, expect: a}\n- {query: pump, expect: gone}\n")
    world.put(a="A pump lifts water.")
    world.configure(golden_share=0.6)
    assert not world.refresh().published
    world.configure(golden_share=0.5)
    assert world.refresh().published


@pytest.mark.parametrize(
    ("expect", "source", "found"),
    [
        ("pump", "", True),
        ("a/pump", "", True),
        ("b/pump", "", False),
        ("[nothing, pump]", "", True),
        ("pump", "a", True),
        ("other", "a", False),
        ("other", "b", True),
        ("deep/name", "", True),
    ],
)
def test_what_is_expected_is_a_key_or_a_source_and_a_key(world, expect, source, found):
    """Any of several will do; a query may be asked of one source alone."""
    world.golden(
        f"- {{query: what lifts water, expect: {expect}, k: 3{f', source: {source}' * bool(source)}}}\n"
    )
    world.put("a", pump="A pump lifts water.", **{"deep/name": "What lifts water lies deep."})
    world.put("b", other="Water is heavy.")
    assert gates(world.refresh())["golden-queries"].passed is found


def test_a_golden_query_follows_the_step(world):
    """Renamed, changed and untouched documents are known by the keys that they have now."""
    world.put(one="A pump lifts water.", two="A gate holds it back.", three="The gauge reads zero.")
    world.refresh()
    world.golden(
        "- {query: lifts water, expect: new, k: 1}\n- {query: gate opened, expect: two, k: 1}\n"
        "- {query: gauge, expect: three, k: 1, source: a}\n- {query: pump, expect: one, k: 5}\n"
    )
    world.put(new="A pump lifts water.", two="A gate is opened.", three="The gauge reads zero.")
    gate = gates(world.refresh())["golden-queries"]
    assert not gate.passed
    assert "3 of 4" in gate.detail and "line 4 (one)" in gate.detail


def test_a_wrong_golden_file_is_refused_before_anything_is_pulled(world):
    """Nobody waits for a pull to learn of a typing error."""
    world.put(one="A pump.")
    world.golden("- query: pump\n  expekt: one\n")
    with pytest.raises(ConfigError) as caught:
        world.refresh()
    assert "golden.yaml:2" in str(caught.value)
    assert world.a.requests == [] and not (world.root / "store").exists()


# --- queries from the change ----------------------------------------------------------------------


def test_new_texts_are_asked_for_and_old_ones_are_gone(world):
    """An edit asks both questions; an addition only the first, a deletion only the second."""
    world.put(one="A pump lifts water.", two="A gate holds it back.")
    assert set(gates(world.refresh())) == NEW
    world.put(one="A pump lifts oil.", two="A gate holds it back.")
    found = gates(world.refresh())
    assert set(found) == {*NEW, "old-text-gone"}
    assert all(gate.passed for gate in found.values())
    world.put(one="A pump lifts oil.")
    assert set(gates(world.refresh())) == {"old-text-gone"}


def test_an_index_that_was_not_brought_forward_fails_both_questions(world, monkeypatch):
    """The questions are real: the parent's index, passed off as the candidate's, is found out."""
    seen: list[Candidate] = []

    def spy(candidate: Candidate, **rest: Any) -> tuple[Gate, ...]:
        seen.append(candidate)
        return quality_gates(candidate, **rest)

    monkeypatch.setattr(draft, "quality_gates", spy)
    world.put(one="A pump lifts water.", two="A gate holds it back.")
    world.refresh()
    world.put(one="A pump lifts oil.", two="A gate holds it back.")
    world.refresh()
    _, good = seen
    assert good.parent is not None
    stale = replace(good, manifest=replace(good.manifest, segments=good.parent.segments))
    settings = config.load(world.root).config
    found = {g.name: g for g in quality_gates(stale, golden=(), config=settings)}
    assert not found["new-text-found"].passed and "a/one" in found["new-text-found"].detail
    assert not found["new-words-found"].passed and "a/one" in found["new-words-found"].detail
    assert not found["old-text-gone"].passed
    assert found["old-text-gone"].severity == "critical"


def test_words_under_the_wrong_rows_are_found_out(world, monkeypatch):
    """An index of words that is whole, and of other rows than its segment: only words tell."""
    seen: list[Candidate] = []

    def spy(candidate: Candidate, **rest: Any) -> tuple[Gate, ...]:
        seen.append(candidate)
        return quality_gates(candidate, **rest)

    monkeypatch.setattr(draft, "quality_gates", spy)
    names = [
        "amber",
        "basalt",
        "cedar",
        "dune",
        "ember",
        "fjord",
        "glade",
        "heath",
        "islet",
        "jetty",
        "kelp",
        "lagoon",
    ]
    world.put(**{name: f"The {name} is seen from the {name} tower." for name in names})
    world.refresh()
    (good,) = seen
    (segment,) = good.manifest.segments
    words = words_of(good.objects, good.manifest)
    assert words is not None
    hashes = open_vectors(good.objects, segment.vectors).hashes
    turned = replace(segment, lexical=words.write(np.roll(hashes, 1)))
    wrong = replace(good, manifest=replace(good.manifest, segments=(turned,)))
    settings = config.load(world.root).config
    monkeypatch.setattr("headwater.flows.quality._K", 1)
    found = {g.name: g for g in quality_gates(wrong, golden=(), config=settings)}
    assert found["new-text-found"].passed and not found["new-words-found"].passed
    found = {g.name: g for g in quality_gates(good, golden=(), config=settings)}
    assert found["new-text-found"].passed and found["new-words-found"].passed


def test_a_golden_query_is_asked_as_a_reader_asks(world):
    """For its words as well as its meaning: the twin's vectors know no endings, words do."""
    texts = {f"d{n}": f"Fault {n} of the pump is told by a lamp, number {n}." for n in range(60)}
    texts["code"] = "A valve sticks where the water is hard and the winters are long."
    world.golden("- {query: sticking valves, expect: code, k: 1}\n")
    world.put(**texts)
    report = world.refresh()
    assert report.published and gates(report)["golden-queries"].passed
    with Retriever.open(world.root) as retriever:
        (near,) = retriever.search("sticking valves", 1, mode="dense")
        (both,) = retriever.search("sticking valves", 1)
    assert (near.key == "code", both.key) == (False, "code")
    world.put(**{**texts, "code": "A tap drips where the water is hard and the winters are long."})
    report = world.refresh()
    assert not report.published and not gates(report)["golden-queries"].passed


def test_texts_without_a_word_are_not_asked_by_words(world):
    """A run of characters that is too long for a word has none, and is no fault of the index."""
    world.put(one="水" * 60 + "。", two="🚢 🚢 🚢")
    found = gates(world.refresh())
    assert set(found) == {"new-text-found"} and found["new-text-found"].passed


ALIKE = (
    8 * "This page was moved by the editors of the catalogue, and is kept here for reference only, "
)


def test_new_texts_that_nobody_can_tell_apart_are_a_warning(world):
    """Published and reported by default; the knowledge base may make it critical."""
    bodies = {f"d{n}": f"{ALIKE} " + f"word{n} " * (5 + n) for n in range(40)}
    world.put(**bodies)
    report = world.refresh()
    gate = gates(report)["new-text-found"]
    assert report.published and (gate.passed, gate.severity) == (False, "warning")
    world.configure(change_severity="critical")
    world.put(**{key: text + "more" for key, text in bodies.items()})
    assert not world.refresh().published


def test_the_questions_are_bounded_however_much_changed(world):
    """Twenty documents are asked for, and one model is opened for texts and questions."""
    world.golden("- {query: document, expect: d1, k: 100}\n")
    world.put(
        **{f"d{n}": f"Document {n} speaks of thing{n} and of nothing else." for n in range(90)}
    )
    report = world.refresh()
    assert report.published and report.embedded == 90
    assert len(world.model.asked) == 90 + 20 + 1
    assert world.model.opened == 1
    assert "20 of 20" in gates(report)["new-text-found"].detail


def test_nothing_is_asked_when_nothing_changed(world):
    """No gate runs, and no model is opened."""
    world.golden("- {query: pump, expect: one}\n")
    world.put(one="A pump lifts water.")
    world.refresh()
    world.model.opened = 0
    world.refresh()
    assert world.model.opened == 0


def test_a_text_that_comes_back_is_asked_for_without_a_model(world):
    """What was embedded before asks with its own vector: a revert opens no model."""
    world.put(one="A pump lifts water.", two="A gate holds it back.")
    world.refresh()
    world.put(one="A pump lifts oil.", two="A gate holds it back.")
    world.refresh()
    world.model.opened = 0
    world.put(one="A pump lifts water.", two="A gate holds it back.")
    report = world.refresh()
    assert report.published and report.embedded == 0 and world.model.opened == 0
    assert all(gate.passed for gate in gates(report).values())
    assert set(gates(report)) == {*NEW, "old-text-gone"}


def test_questions_about_the_change_can_be_switched_off(world):
    """With change_queries: 0 only the golden queries and the graphs are asked."""
    world.configure(change_queries=0)
    world.put(one="A pump lifts water.")
    world.refresh()
    world.put(one="A pump lifts oil.")
    assert gates(world.refresh()) == {}


# --- graphs ---------------------------------------------------------------------------------------


def test_only_new_graphs_are_compared_with_the_scan(world):
    """A refresh that keeps a graph does not pay for it again."""
    texts = {f"d{n}": f"Document {n} speaks of thing{n} and thing{n * n}." for n in range(120)}
    world.put(**texts)
    gate = gates(world.refresh())["graph-recall"]
    assert gate.passed and gate.severity == "critical"
    world.put(**texts, more="Something else altogether.")
    assert "graph-recall" not in gates(world.refresh())


def test_a_graph_below_its_bar_stops_the_publication(world):
    """No graph of a thousand near-random vectors finds everything at a tiny width."""
    world.configure(graph_recall=1.0)
    path = world.root / "headwater.yaml"
    path.write_text(path.read_text().replace("graph_from: 50", "graph_from: 50, recall: 0.01"))
    rng = np.random.default_rng(4)
    words = [f"w{n}" for n in range(400)]
    world.put(**{f"d{n}": " ".join(rng.choice(words, 12)) for n in range(1500)})
    report = world.refresh()
    gate = gates(report)["graph-recall"]
    assert not gate.passed and "at least 1" in gate.detail
    assert not report.published


# --- what is asked --------------------------------------------------------------------------------


def test_an_opening_is_the_heading_and_whole_sentences():
    """Enough of them to be told from others, not more."""
    sentence = "The shop opens at nine and closes at six on every day of the week. "
    five = (5 * sentence).strip()
    assert opening(9 * sentence) == five and len(five) > 300
    assert opening("Short.", ("Shop", "Hours")) == "Hours Short."
    assert opening("# Hours\n\nShort.", ("Shop", "Hours")) == "# Hours Short."
    words = "word " * 300
    assert opening(words) == words[:599] and opening("x" * 999) == "x" * 600


@given(st.text(max_size=2000))
def test_an_opening_is_a_part_of_the_text_and_never_long(text):
    """Whatever the text is: a table, a word of a thousand letters, nothing."""
    said = opening(text)
    assert len(said) <= 600
    assert normalise(text).startswith(said.rstrip())
