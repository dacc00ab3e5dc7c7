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
from headwater.errors import CorruptObjectError
from headwater.retrieval.index import (
    advance_index,
    alive_rows,
    index_problems,
    unheld,
    update_index,
)
from headwater.retrieval.index_step import step_problems
from headwater.retrieval.segments import open_vectors, write_tombstones, write_vectors
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

    def advance(self, parent, *, added=(), removed=(), config=CONFIG):
        missing = self.cache.missing(sorted(set(added)))
        if missing:
            self.cache.add(missing, np.array([vector(h) for h in missing]))
        return advance_index(
            self.objects,
            parent=parent,
            added=list(added),
            removed=list(removed),
            cache=self.cache,
            config=config,
        )

    def step(self, parent, segments, *, added=(), removed=(), texts):
        return step_problems(
            self.objects,
            manifest(segments),
            parent=parent,
            added=list(added),
            removed=list(removed),
            texts=texts,
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


def test_texts_that_a_segment_has_a_row_for_need_no_vector(shop):
    """Dead or alive, a row of the parent holds the vector."""
    live = texts(*range(20))
    first = shop.update((), live)
    gone = shop.update(first, live - texts(3))
    assert unheld(shop.objects, gone, texts(3, 4, 90)) == [text(90)]
    assert unheld(shop.objects, (), texts(4)) == [text(4)]


def test_a_step_that_changes_nothing_gives_the_parent_itself(shop):
    """An advance with nothing to do writes nothing."""
    parent = shop.update((), texts(*range(20)))
    written = len(shop.objects.written)
    assert shop.advance(parent) is parent
    assert len(shop.objects.written) == written


def test_a_merged_segment_is_checked_before_its_rows_are_copied(tmp_path):
    """A damaged vector is never copied into a new segment, under whose name it would be whole."""
    shop = Shop(tmp_path)
    first = shop.update((), texts(*range(20)))
    path = shop.objects.path(first[0].vectors)
    data = bytearray(path.read_bytes())
    data[data.index(vector(text(15)).tobytes())] ^= 1
    path.write_bytes(data)
    fresh = Shop(tmp_path)
    assert len(fresh.advance(first, removed=texts(3))) == 1
    with pytest.raises(CorruptObjectError, match=first[0].vectors.sha256):
        fresh.advance(first, removed=texts(*range(10)))


class TestGateOfAStep:
    """The gate of a step trips on whatever the full check would find."""

    @pytest.fixture
    def before(self, shop):
        live = texts(*range(70))
        parent = shop.update((), live)
        parent = shop.update(parent, live - texts(1, 2))
        return parent, live - texts(1, 2)

    def tampered(self, shop, segment, dead):
        return replace(segment, tombstones=write_tombstones(shop.objects, np.sort(dead)))

    def row(self, shop, segment, number):
        hashes = open_vectors(shop.objects, segment.vectors).hashes
        (place,) = np.flatnonzero(hashes == np.frombuffer(text(number), dtype=hashes.dtype))
        return int(place)

    def test_a_whole_step_passes(self, shop, before):
        """An index that holds exactly what it should has no problems."""
        parent, live = before
        step = {"added": texts(2, 80, 81), "removed": texts(5)}
        segments = shop.advance(parent, **step)
        assert shop.step(parent, segments, **step, texts=len(live) + 2) == []
        assert shop.problems(segments, (live | texts(2, 80, 81)) - texts(5)) == []

    def test_an_added_text_that_is_missing(self, shop, before):
        """A segment that lacks an added text is noticed."""
        parent, live = before
        segments = shop.advance(parent, added=texts(80))
        problems = shop.step(parent, segments, added=texts(80, 81), texts=len(live) + 2)
        assert problems[0] == "1 added texts are missing from the index"

    def test_an_added_text_that_is_served_twice(self, shop, before):
        """The same new segment named twice is noticed."""
        parent, _ = before
        segments = shop.advance(parent, added=texts(80))
        problems = shop.step(parent, (*segments, segments[-1]), added=texts(80), texts=69)
        assert "1 added texts are in the index more than once" in problems

    def test_a_removed_text_that_is_still_there(self, shop, before):
        """A text without its tombstone is noticed."""
        parent, live = before
        problems = shop.step(parent, parent, removed=texts(5), texts=len(live) - 1)
        assert problems[0] == "1 removed texts are still in the index"

    @pytest.mark.parametrize("wrong", ["another", "besides", "swapped", "fewer"])
    def test_a_wrong_tombstone(self, shop, before, wrong):
        """Another row's death, or an unasked resurrection, is noticed even if the count is right."""
        parent, live = before
        one, two, five, six = (self.row(shop, parent[0], n) for n in (1, 2, 5, 6))
        dead = {
            "another": [one, two, six],
            "besides": [one, two, five, six],
            "swapped": [two, five, six],
            "fewer": [two, five],
        }[wrong]
        segments = (self.tampered(shop, parent[0], np.array(dead)), *parent[1:])
        assert shop.step(parent, segments, removed=texts(5), texts=len(live) - 1)

    def test_a_segment_that_was_lost(self, shop, before):
        """Texts that nobody took out are missed by their number."""
        parent, live = before
        both = shop.advance(parent, added=texts(80, 81))
        problems = shop.step(both, both[:-1], texts=len(live) + 2)
        assert problems == ["the index serves 68 texts, 70 are live"]

    def test_a_stranger_in_a_new_segment(self, shop, before):
        """A row that was neither served before nor added is noticed."""
        parent, live = before
        other = shop.update((), texts(200))
        segments = (*shop.advance(parent, removed=texts(5)), *other)
        problems = shop.step(parent, segments, removed=texts(5), texts=len(live))
        assert problems == ["1 rows of the index belong to no live text"]

    def test_a_new_segment_is_checked_to_the_last_vector(self, shop, before):
        """What is new is held to what the full check asks."""
        parent, live = before
        hashes = np.sort(np.frombuffer(b"".join(texts(80, 81)), dtype="V32"))
        long = write_vectors(shop.objects, hashes, np.ones((2, DIM), dtype=np.float32))
        segments = (*parent, Segment(long))
        (problem,) = shop.step(parent, segments, added=texts(80, 81), texts=len(live) + 2)
        assert "2 vectors are not of length 1" in problem

    def test_a_damaged_file_is_a_problem_with_its_name(self, tmp_path):
        """The gate reports what it cannot read and does not raise."""
        shop = Shop(tmp_path)
        parent = shop.update((), texts(*range(10)))
        path = shop.objects.path(parent[0].vectors)
        path.write_bytes(path.read_bytes()[:100])
        problems = shop.step(parent, parent, texts=10)
        assert any(parent[0].vectors.sha256 in problem for problem in problems)


class IndexMachine(RuleBasedStateMachine):
    """Any history of additions and removals against a plain set."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.shop = Shop(Path(self.folder.name))
        self.live: set[bytes] = set()
        self.segments: tuple[Segment, ...] = ()
        self.past: list[tuple[set[bytes], tuple[Segment, ...]]] = [(set(), ())]

    def become(self, live):
        """Update in both ways: the advance gives the very segments of the full update."""
        step = {"added": live - self.live, "removed": self.live - live}
        parent, self.live = self.segments, live
        self.segments = self.shop.update(parent, live)
        assert self.shop.advance(parent, **step) == self.segments
        assert self.shop.step(parent, self.segments, **step, texts=len(live)) == []
        self.past.append((self.live, self.segments))

    @rule(numbers=st.sets(st.integers(0, 150), max_size=40))
    def add(self, numbers):
        self.become(self.live | texts(*numbers))

    @rule(numbers=st.sets(st.integers(0, 150), max_size=60))
    def remove(self, numbers):
        self.become(self.live - texts(*numbers))

    @rule(low=st.integers(0, 150), add=st.sets(st.integers(0, 150), max_size=10))
    def replace_many(self, low, add):
        self.become({t for t in self.live if t[0] > low} | texts(*add))

    @rule(data=st.data())
    def roll_back(self, data):
        self.live, self.segments = data.draw(st.sampled_from(self.past))

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
