"""Asking segments directly gives what a reader would be given, and tells a bad graph from a good one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headwater.retrieval.graphs import build_graph
from headwater.retrieval.index_probe import graph_recall, nearest_texts, text_vectors
from headwater.retrieval.segments import HASH, write_tombstones, write_vectors
from headwater.retrieval.vector_search import Part, SegmentIndex, search
from headwater.storage.manifest import Segment
from headwater.storage.objects import ObjectStore

DIM = 24


def unit(rows: int, seed: int) -> np.ndarray:
    """Random directions."""
    raw = np.random.default_rng(seed).standard_normal((rows, DIM), dtype=np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


@pytest.fixture
def objects(tmp_path):
    """An empty object store."""
    return ObjectStore(tmp_path)


@pytest.fixture
def world(objects):
    """Two segments, one with dead rows, and which rows of both are alive."""
    hashes = np.frombuffer(np.random.default_rng(0).bytes(32 * 9000), dtype=HASH)
    parts, alive = [], []
    for seed, rows, dead in ((1, 8500, [0, 7, 8499]), (2, 500, [])):
        names = np.sort(hashes[:rows] if seed == 1 else hashes[8500:])
        entry = write_vectors(objects, names, unit(rows, seed))
        tombs = write_tombstones(objects, np.array(dead, dtype=np.uint32))
        parts.append(Segment(entry, tombstones=tombs))
        mask = np.ones(rows, dtype=bool)
        mask[dead] = False
        alive.append(mask)
    return parts, np.concatenate(alive)


def test_the_nearest_texts_are_those_that_a_reader_finds(objects, world):
    """Over several segments and blocks, without the dead, best first."""
    segments, alive = world
    indexes = [SegmentIndex(objects, segment) for segment in segments]
    parts = [Part(indexes[0], 0), Part(indexes[1], 8500)]
    names = np.concatenate([index.hashes for index in indexes])
    queries = unit(5, 9)
    found = nearest_texts(objects, segments, queries, 10)
    for query, texts in zip(queries, found, strict=True):
        wanted = [names[row].tobytes() for row, _ in search(parts, query, 10, alive)]
        assert texts == wanted


def test_only_allowed_texts_are_found(objects, world):
    """Fewer than were asked for, where fewer are allowed."""
    segments, alive = world
    names = np.concatenate([SegmentIndex(objects, s).hashes for s in segments])
    allowed = np.sort(names[[0, 5, 8600]])
    (found,) = nearest_texts(objects, segments, unit(1, 3), 10, allowed=allowed)
    # The first row is dead.
    assert not alive[0]
    assert set(found) == {names[5].tobytes(), names[8600].tobytes()}
    assert nearest_texts(objects, [], unit(2, 3), 10) == [[], []]


def test_vectors_are_found_by_text_dead_ones_too(objects, world):
    """What is gone asks with the vector that it had."""
    segments, _ = world
    index = SegmentIndex(objects, segments[0])
    names = [index.hashes[row].tobytes() for row in (0, 5)]
    found = text_vectors(objects, segments, [*names, bytes(32)])
    assert list(found) == names
    assert np.array_equal(found[names[1]], index.vectors[5])


def test_a_graph_that_finds_less_than_the_scan_is_told_from_one_that_does(objects, world):
    """The calibrated width finds nearly all; a search that is far too narrow does not."""
    (large, _), _ = world
    plain = replace(large, tombstones=None)
    graph, ef = build_graph(objects, SegmentIndex(objects, plain).vectors, recall=0.98)
    asked = unit(300, 5)
    good, queries = graph_recall(objects, replace(plain, graph=graph, ef=ef), asked)
    poor, _ = graph_recall(objects, replace(plain, graph=graph, ef=1), asked)
    assert queries == 364
    assert good >= 0.95
    assert poor < 0.9
