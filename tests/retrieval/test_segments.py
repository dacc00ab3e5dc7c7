from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import CorruptObjectError
from headwater.retrieval.graphs import build_graph, graph_problem, open_graph
from headwater.retrieval.segments import (
    HASH,
    find,
    hash_array,
    open_vectors,
    read_tombstones,
    write_tombstones,
    write_vectors,
)
from headwater.retrieval.vector_search import Part, SegmentIndex, search
from headwater.storage.manifest import Segment
from headwater.storage.objects import ObjectStore

hashes_32 = st.binary(min_size=32, max_size=32)


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Random directions."""
    raw = rng.standard_normal((rows, dim), dtype=np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def clustered(rows: int, dim: int, *, clusters: int = 60, seed: int = 3) -> np.ndarray:
    """Directions around a few centres, as those of texts are."""
    rng = np.random.default_rng(seed)
    centres = unit(rng, clusters, dim)
    raw = centres[rng.integers(clusters, size=rows)] + 0.6 * unit(rng, rows, dim)
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def names(rows: int) -> np.ndarray:
    """Sorted hashes."""
    return np.sort(np.frombuffer(np.random.default_rng(0).bytes(32 * rows), dtype=HASH))


@pytest.fixture
def objects(tmp_path):
    """An empty object store."""
    return ObjectStore(tmp_path)


@given(st.lists(hashes_32), st.lists(hashes_32))
def test_find_agrees_with_a_dict(held, wanted):
    """A hash is found at its place in sorted order, whatever bytes it ends with."""
    ordered = sorted({*held, bytes(32), bytes(31) + b"\x01"})
    places = {h: i for i, h in enumerate(ordered)}
    asked = [*wanted, *ordered]
    found = find(hash_array(ordered), hash_array(asked))
    assert found.tolist() == [places.get(h, -1) for h in asked]


def test_hashes_that_differ_only_in_trailing_zero_bytes_are_different_rows(objects):
    """Trailing zero bytes are part of a hash."""
    keys = hash_array([bytes(32), b"\x01" + bytes(31), b"\x01\x00\x01" + bytes(29)])
    entry = write_vectors(objects, keys, np.eye(3, dtype=np.float32))
    held = open_vectors(objects, entry)
    assert [h.tobytes() for h in held.hashes] == [h.tobytes() for h in keys]


def test_vectors_come_back_as_they_were_and_are_not_copied(objects):
    """Rows are mapped from an uncompressed file: equal, read-only, without a buffer of their own."""
    keys, vectors = names(50), unit(np.random.default_rng(1), 50, 16)
    held = open_vectors(objects, write_vectors(objects, keys, vectors))
    assert (held.hashes == keys).all()
    assert np.array_equal(held.vectors, vectors)
    assert not held.vectors.flags.writeable and not held.vectors.flags.owndata


def test_equal_rows_give_equal_bytes(objects, tmp_path):
    """Writing the same rows in another store gives the same object name."""
    keys, vectors = names(50), unit(np.random.default_rng(1), 50, 16)
    other = ObjectStore(tmp_path / "other")
    assert write_vectors(objects, keys, vectors) == write_vectors(other, keys, vectors)


@pytest.mark.parametrize("case", ["unsorted", "twice", "nan"])
def test_rows_that_are_no_segment_are_refused(objects, case):
    """Unsorted or repeated hashes and vectors that are no numbers never reach the disk."""
    keys, vectors = names(5), unit(np.random.default_rng(1), 5, 4)
    if case == "unsorted":
        keys = keys[::-1]
    elif case == "twice":
        keys = keys[[0, 0, 1, 2, 3]]
    else:
        vectors[2, 1] = np.nan
    with pytest.raises(ValueError):
        write_vectors(objects, keys, vectors)
    assert not list(objects.listing())


@given(rows=st.sets(st.integers(0, 99)))
def test_tombstones_come_back(tmp_path_factory, rows):
    """The dead rows read back are those written, in rising order."""
    objects = ObjectStore(tmp_path_factory.mktemp("s"))
    entry = write_tombstones(objects, np.array(list(rows), dtype=np.int64))
    assert (entry is None) == (not rows)
    assert read_tombstones(objects, entry, rows=100).tolist() == sorted(rows)


def test_tombstones_beyond_the_segment_are_refused(objects):
    """A row number that the segment does not have is a damaged object, not an index error."""
    entry = write_tombstones(objects, np.array([3, 7]))
    with pytest.raises(CorruptObjectError, match="7 rows"):
        read_tombstones(objects, entry, rows=7)


@pytest.mark.parametrize("kind", ["vectors", "graph"])
@pytest.mark.parametrize("at", [3, 45, 49, 5000])
def test_a_flipped_byte_is_refused_with_the_objects_name(tmp_path, kind, at):
    """A damaged file is named and never handed to hnswlib, which would crash on it."""
    vectors = unit(np.random.default_rng(1), 300, 16)
    writer = ObjectStore(tmp_path)
    if kind == "vectors":
        entry = write_vectors(writer, names(300), vectors)
    else:
        entry, _ = build_graph(writer, vectors, recall=0.9)
    path = writer.path(entry)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    reader = ObjectStore(tmp_path)
    with pytest.raises(CorruptObjectError, match=entry.sha256):
        if kind == "vectors":
            open_vectors(reader, entry)
        else:
            open_graph(reader, entry, rows=300, dim=16, ef=32)


def test_a_graph_is_byte_reproducible(tmp_path):
    """The same vectors give the same graph and the same ef in any store."""
    vectors = clustered(1500, 24)
    one = build_graph(ObjectStore(tmp_path / "a"), vectors, recall=0.95)
    two = build_graph(ObjectStore(tmp_path / "b"), vectors, recall=0.95)
    assert one == two


def test_a_graph_over_other_vectors_is_refused(objects):
    """A whole graph of the wrong size or dimension is refused before it is loaded."""
    entry, ef = build_graph(objects, unit(np.random.default_rng(1), 200, 16), recall=0.9)
    for rows, dim in ((199, 16), (200, 17)):
        with pytest.raises(CorruptObjectError, match=entry.sha256):
            open_graph(objects, entry, rows=rows, dim=dim, ef=ef)


def test_the_structural_check_sees_every_kind_of_damage(objects, tmp_path):
    """Header, links, labels, vectors and length are each checked against the segment."""
    vectors = unit(np.random.default_rng(1), 400, 8)
    entry, _ = build_graph(objects, vectors, recall=0.9)
    whole = objects.path(entry).read_bytes()
    copy = tmp_path / "copy.hnsw"
    record = 4 + 8 * 12 + 4 * 8 + 8
    damages = {
        "link": (96 + 4, b"\xff\xff\xff\x7f"),
        "count": (96, b"\xff\xff"),
        "vector": (96 + 4 + 8 * 12, b"\x00\x00\x00\x40"),
        "label": (96 + record - 8, b"\x05"),
        "header": (9, b"\x02"),
        "upper": (96 + 400 * record, b"\x03"),
    }
    for name, (at, data) in damages.items():
        copy.write_bytes(whole[:at] + data + whole[at + len(data) :])
        assert graph_problem(copy, vectors), name
    for data in (whole[:50], whole[:-4], whole[:9000], whole + b"\x00"):
        copy.write_bytes(data)
        assert graph_problem(copy, vectors)
    copy.write_bytes(whole)
    assert graph_problem(copy, vectors) == ""


def test_the_calibrated_graph_reaches_its_recall(objects):
    """On questions it was not calibrated with, a graph finds nearly all of the true ten nearest."""
    vectors = clustered(6000, 48)
    entry, ef = build_graph(objects, vectors, recall=0.98)
    graph = open_graph(objects, entry, rows=6000, dim=48, ef=ef)
    queries = clustered(100, 48, seed=3) + 0.1 * unit(np.random.default_rng(9), 100, 48)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found, _ = graph.knn_query(queries, k=10, num_threads=1)
    overlap = [len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]
    assert np.mean(overlap) >= 0.95


def test_a_graph_that_reaches_too_few_rows_is_passed_over(objects):
    """Where the graph cannot deliver as many rows as are asked for, the exact scan answers."""
    vectors = unit(np.random.default_rng(1), 5000, 8)
    entry, _ = build_graph(objects, vectors, recall=0.5)
    data = bytearray(objects.path(entry).read_bytes())
    record = 4 + 8 * 12 + 4 * 8 + 8
    for row in range(5000):
        data[96 + row * record : 98 + row * record] = b"\x00\x00"
    cut = objects.put_bytes(bytes(data), "graph.hnsw", rows=5000)
    assert graph_problem(objects.path(cut), vectors) == ""
    rows = write_vectors(objects, names(5000), vectors)
    part = Part(SegmentIndex(objects, Segment(rows, cut, 32)), 0)
    query = vectors[77]
    found = search([part], query, 10, np.ones(5000, dtype=bool))
    assert [row for row, _ in found] == np.argsort(-(vectors @ query))[:10].tolist()


@given(
    seed=st.integers(0, 99),
    k=st.integers(1, 60),
    share=st.floats(0, 1),
    cut=st.integers(0, 50),
)
def test_the_scan_of_many_segments_is_the_scan_of_one(tmp_path_factory, seed, k, share, cut):
    """However rows are spread over segments and masked, the same rows come back in the same order."""
    rng = np.random.default_rng(seed)
    objects = ObjectStore(tmp_path_factory.mktemp("s"))
    keys, vectors = names(50), unit(rng, 50, 8)
    allowed, query = rng.random(50) < share, unit(rng, 1, 8)[0]

    def found(*bounds):
        parts = []
        for low, high in bounds:
            if low < high:
                entry = write_vectors(objects, keys[low:high], vectors[low:high])
                parts.append(Part(SegmentIndex(objects, Segment(entry)), low))
        return search(parts, query, k, allowed)

    one = found((0, 50))
    assert one == found((0, cut), (cut, 50))
    best = [r for r in np.argsort(-(vectors @ query)).tolist() if allowed[r]]
    assert [row for row, _ in one] == best[:k]


def test_a_graph_that_must_look_at_nearly_everything_is_not_used(objects):
    """Where calibration asked for so wide a search, a scan costs no more and misses nothing."""
    vectors = clustered(3000, 16)
    entry = write_vectors(objects, names(3000), vectors)
    graph, _ = build_graph(objects, vectors, recall=0.9)
    wide = SegmentIndex(objects, Segment(entry, graph, 512))
    assert wide.graph is None
    assert SegmentIndex(objects, Segment(entry, graph, 64)).graph is not None
    query = unit(np.random.default_rng(1), 1, 16)[0]
    found = search([Part(wide, 0)], query, 10, np.ones(3000, dtype=bool))
    assert [hit[0] for hit in found] == np.argsort(-(vectors @ query))[:10].tolist()
