from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headwater.config import IndexConfig
from headwater.retrieval.index import alive_rows, index_problems, update_index
from headwater.retrieval.segments import open_vectors, write_vectors
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Manifest, Segment
from headwater.storage.objects import ObjectStore

DIM = 8
CONFIG = IndexConfig(graph_from=60, max_flat_segments=3, recall=0.9)


def text(number: int) -> bytes:
    """A text, by number."""
    return hashlib.sha256(str(number).encode()).digest()


def vector(text_hash: bytes) -> np.ndarray:
    """The one vector of a text."""
    rng = np.random.default_rng(int.from_bytes(text_hash[:8], "little"))
    raw = rng.standard_normal(DIM).astype(np.float32)
    return raw / np.linalg.norm(raw)


class Shop:
    """An object store with a cache that has the vector of whatever is asked for."""

    def __init__(self, root) -> None:
        self.objects = ObjectStore(root)
        self.cache = EmbeddingCache(self.objects, space="test", dim=DIM)

    def update(self, parent, live, config=CONFIG):
        missing = self.cache.missing(sorted(set(live)))
        if missing:
            self.cache.add(missing, np.array([vector(h) for h in missing]))
        return update_index(
            self.objects, parent=parent, live=list(live), cache=self.cache, config=config
        )

    def problems(self, segments, live):
        return index_problems(self.objects, manifest(segments), list(live))

    def served(self, segments):
        found = {}
        for segment in segments:
            held = open_vectors(self.objects, segment.vectors)
            for row in np.flatnonzero(alive_rows(self.objects, segment)):
                name = held.hashes[row].tobytes()
                assert name not in found
                found[name] = held.vectors[row]
        return found


def manifest(segments) -> Manifest:
    """A snapshot with nothing but an index."""
    return Manifest(
        seq=1, parent="", parent_sha256="", observed_at="", created_at="", run_id="", cause="refresh",
        headwater="0", config_sha256="", chunker="", segments=tuple(segments),
    )  # fmt: skip


@pytest.fixture
def shop(tmp_path):
    """A store and its cache."""
    return Shop(tmp_path)


def texts(*numbers) -> set[bytes]:
    """Texts, by number."""
    return {text(n) for n in numbers}


def test_the_same_live_texts_write_nothing_and_give_the_parent_itself(shop):
    """An update with nothing to do is free, in whatever order the texts are listed."""
    live = texts(*range(80))
    parent = shop.update((), live)
    parent = shop.update(parent, live - texts(3))
    written = len(shop.objects.written)
    assert shop.update(parent, sorted(live - texts(3), reverse=True)) is parent
    assert len(shop.objects.written) == written


def test_a_removed_text_costs_a_tombstone_and_comes_back_without_one(shop):
    """Removal and return change neither vectors nor graph."""
    live = texts(*range(100))
    first = shop.update((), live)
    gone = shop.update(first, live - texts(7))
    assert [s.vectors for s in gone] == [s.vectors for s in first]
    assert gone[0].graph == first[0].graph and gone[0].dead == 1
    assert shop.update(gone, live) == first


def test_a_rewritten_segment_keeps_its_vectors_without_asking_the_cache(shop):
    """Merging takes vectors from the old segments: nothing is embedded again."""
    live = texts(*range(20))
    first = shop.update((), live)
    empty = EmbeddingCache(shop.objects, space="another", dim=DIM)
    left = texts(*range(10))
    second = update_index(shop.objects, parent=first, live=list(left), cache=empty, config=CONFIG)
    assert [s.rows for s in second] == [10] and second[0].tombstones is None
    assert all(np.array_equal(v, vector(h)) for h, v in shop.served(second).items())


def test_a_fully_dead_segment_is_dropped_and_no_texts_are_no_segments(shop):
    """An index of nothing has no segments."""
    first = shop.update((), texts(*range(20)))
    assert shop.update(first, ()) == ()
    assert shop.update((), ()) == ()


def test_a_graph_appears_at_the_threshold_over_everything_flat(shop):
    """Small updates stay flat; together they become one segment with a graph."""
    segments = ()
    for step in range(1, 6):
        segments = shop.update(segments, texts(*range(step * 11)))
        assert all(s.graph is None for s in segments)
    segments = shop.update(segments, texts(*range(66)))
    assert [s.rows for s in segments] == [66] and segments[0].graph and segments[0].ef


def test_a_text_without_a_vector_is_an_error_that_writes_no_segment(shop):
    """The caller embeds first; an unknown text is not indexed as nothing."""
    with pytest.raises(KeyError):
        update_index(shop.objects, parent=(), live=[text(1)], cache=shop.cache, config=CONFIG)
    assert not shop.objects.written


def test_problems_are_named(shop):
    """Missing, repeated and strange texts, bad vectors and foreign graphs are each reported."""
    live = texts(*range(70))
    whole = shop.update((), live)
    assert shop.problems(whole, live) == []
    assert shop.problems(whole, live | texts(99)) == ["1 live texts are missing from the index"]
    assert shop.problems(whole, live - texts(3)) == ["1 rows of the index belong to no live text"]
    assert "70 live texts are in the index more than once" in shop.problems(whole * 2, live)

    keys = open_vectors(shop.objects, whole[0].vectors).hashes
    long = write_vectors(shop.objects, keys, np.ones((70, DIM), dtype=np.float32))
    (bad, *_) = shop.problems([Segment(long)], live)
    assert "70 vectors are not of length 1" in bad and long.sha256 in bad

    other = shop.update((), texts(*range(100, 170)))
    (bad,) = shop.problems([replace(whole[0], graph=other[0].graph)], live)
    assert other[0].graph.sha256 in bad


def test_a_damaged_object_is_a_problem_with_its_name(tmp_path):
    """The check reports a damaged file and does not raise."""
    shop = Shop(tmp_path)
    live = texts(*range(70))
    whole = shop.update((), live)
    path = shop.objects.path(whole[0].graph)
    path.write_bytes(path.read_bytes()[:-1])
    problems = index_problems(ObjectStore(tmp_path), manifest(whole), list(live))
    assert any(whole[0].graph.sha256 in p for p in problems)


class IndexMachine(RuleBasedStateMachine):
    """Any history of additions and removals against a plain set."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.shop = Shop(Path(self.folder.name))
        self.live: set[bytes] = set()
        self.segments: tuple[Segment, ...] = ()

    @rule(numbers=st.sets(st.integers(0, 150), max_size=40))
    def add(self, numbers):
        self.live |= texts(*numbers)
        self.segments = self.shop.update(self.segments, self.live)

    @rule(numbers=st.sets(st.integers(0, 150), max_size=60))
    def remove(self, numbers):
        self.live -= texts(*numbers)
        self.segments = self.shop.update(self.segments, self.live)

    @rule(low=st.integers(0, 150), add=st.sets(st.integers(0, 150), max_size=10))
    def replace_many(self, low, add):
        self.live = {t for t in self.live if t[0] > low} | texts(*add)
        self.segments = self.shop.update(self.segments, self.live)

    @invariant()
    def serves_exactly_the_live_texts(self):
        served = self.shop.served(self.segments)
        assert set(served) == self.live
        assert all(np.array_equal(v, vector(h)) for h, v in served.items())
        assert self.shop.problems(self.segments, self.live) == []

    def teardown(self):
        self.folder.cleanup()


IndexMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestIndexMachine = IndexMachine.TestCase
