"""HNSW graphs over the vectors of one segment: built once, never changed, checked before use.

hnswlib reports no failed write and crashes on a flipped header byte. So a graph is saved to a
draft, checked for size and structure and only then adopted; and a graph is opened only after its
bytes had the hash that names them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import CorruptObjectError, StorageUnavailableError
from headwater.storage import files
from headwater.storage.objects import ObjectEntry, ObjectStore

GRAPH = "graph.hnsw"
M = 12
EF_CONSTRUCTION = 80
SEED = 100
RECALL_AT = 10

# Offset of level 0, capacity, count, record size, label offset, data offset, top level, entry point,
# links above the ground, links on it, M, level factor, ef of the construction.
_HEADER = struct.Struct("<6QiI3QdQ")
_EF_LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_SAMPLE = 200
_BATCH = 2000

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


def build_graph(
    objects: ObjectStore, vectors: np.ndarray, *, recall: float, progress: Progress | None = None
) -> tuple[ObjectEntry, int]:
    """Build, check and store the graph over `vectors`.

    Args:
        objects: where to.
        vectors: float32 (n, dim), L2-normalised; the row number becomes the label.
        recall: share of the 10 nearest rows that a search must find on average.
        progress: called between batches.

    Returns:
        the entry and the calibrated search width (ef). The same vectors give the same bytes:
        one thread and a fixed seed.

    Raises:
        StorageUnavailableError: the file on the disk is not the graph that was built.
    """
    import hnswlib

    rows, dim = vectors.shape
    index = hnswlib.Index(space="ip", dim=dim)
    index.init_index(max_elements=rows, ef_construction=EF_CONSTRUCTION, M=M, random_seed=SEED)
    for start in range(0, rows, _BATCH):
        stop = min(start + _BATCH, rows)
        index.add_items(vectors[start:stop], np.arange(start, stop), num_threads=1)
        if progress:
            progress(stop, rows)
    draft = objects.draft(GRAPH)
    with files.library_write(draft):
        index.save_index(str(draft))
    problem = graph_problem(draft, vectors) if draft.is_file() else "there is no file"
    if problem:
        raise StorageUnavailableError(
            f"A graph could not be written whole ({problem})",
            obj=str(draft),
            todo="free some space and run again; the published snapshot is untouched",
        )
    del index
    ef = calibrate(_load(draft, dim), vectors, recall=recall)
    return objects.adopt(draft, GRAPH, rows=rows), ef


def open_graph(objects: ObjectStore, entry: ObjectEntry, *, rows: int, dim: int, ef: int) -> Any:
    """Load a graph for searching.

    Args:
        objects: where it is.
        entry: of the graph.
        rows: of the segment's vectors.
        dim: of the segment's vectors.
        ef: search width, as calibrated.

    Returns:
        an `hnswlib.Index`; searching it from several threads is safe.

    Raises:
        CorruptObjectError: the file is missing or damaged, or is not over such vectors.
    """
    path = objects.path(entry)
    with path.open("rb") as file:
        problem = _header_problem(file.read(_HEADER.size), rows=rows, dim=dim)
    if problem:
        raise CorruptObjectError(
            f"A graph does not fit its vectors ({problem})",
            obj=f"objects/{entry.name}",
            todo="run 'headwater verify --deep' to see all of it",
        )
    index = _load(path, dim)
    index.set_ef(ef)
    return index


def calibrate(index: Any, vectors: np.ndarray, *, recall: float) -> int:
    """One step above the smallest ef of a ladder that reaches `recall`@10 against the exact scan.

    The questions are about 200 of the vectors, each moved by a random step of its own length, the
    same ones each time. On MiniLM vectors of real passages that asks for about the ef which unseen
    passages need, and a step too little for questions in other words (10,000 SciFact sentences and
    the set's own claims: 0.974 where 0.980 was aimed at, 0.982 one step higher); hence the step.
    Smaller moves ask for too little, points midway between two vectors for ten times too much.
    """
    rows, dim = vectors.shape
    k = min(RECALL_AT, rows)
    rng = np.random.default_rng(SEED)
    chosen = np.sort(rng.choice(rows, size=min(_SAMPLE, rows), replace=False))
    steps = rng.standard_normal((len(chosen), dim), dtype=np.float32)
    queries = vectors[chosen] + steps / np.linalg.norm(steps, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    bars = np.concatenate(
        [
            np.partition(queries[i : i + 25] @ vectors.T, rows - k, axis=1)[:, rows - k]
            for i in range(0, len(queries), 25)
        ]
    )
    for ef, above in zip(_EF_LADDER, (*_EF_LADDER[1:], _EF_LADDER[-1]), strict=True):
        index.set_ef(ef)
        if _recall(index, vectors, queries, bars, k) >= recall:
            return above
    return _EF_LADDER[-1]


def graph_problem(path: Path, vectors: np.ndarray) -> str:
    """What is wrong with a graph file over `vectors`; empty when it is whole.

    Checks the header, the size, every label, vector and link.
    """
    rows, dim = vectors.shape
    data = np.fromfile(path, dtype=np.uint8)
    problem = _header_problem(data[: _HEADER.size].tobytes(), rows=rows, dim=dim)
    if problem:
        return problem
    record = _record_bytes(dim)
    if len(data) < _HEADER.size + rows * record:
        return "it is cut short"
    level0 = data[_HEADER.size : _HEADER.size + rows * record].reshape(rows, record)
    links = np.ascontiguousarray(level0[:, : 4 + 8 * M])
    counts = links[:, :2].copy().view("<u2").ravel()
    targets = links[:, 4:].copy().view("<u4").reshape(rows, 2 * M)
    used = np.arange(2 * M) < counts[:, None]
    if (counts > 2 * M).any() or (targets[used] >= rows).any():
        return "a link leads nowhere"
    labels = level0[:, -8:].copy().view("<u8").ravel()
    if not np.array_equal(np.sort(labels), np.arange(rows)):
        return "its labels are not the row numbers"
    held = level0[:, 4 + 8 * M : -8].copy().view("<f4").reshape(rows, dim)
    if not np.array_equal(held, vectors[labels.astype(np.int64)]):
        return "its vectors are not those of the segment"
    return _upper_problem(data[_HEADER.size + rows * record :].tobytes(), rows)


def _recall(
    index: Any, vectors: np.ndarray, queries: np.ndarray, bars: np.ndarray, k: int
) -> float:
    # Counted by score: between equally near rows, any choice is right.
    found, _ = index.knn_query(queries, k=k, num_threads=1)
    scores = np.einsum("qkd,qd->qk", vectors[found.astype(np.int64)], queries)
    return float((scores >= bars[:, None] - 1e-6).mean())


def _load(path: Path, dim: int) -> Any:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=dim)
    index.load_index(str(path))
    index.set_num_threads(1)
    return index


def _record_bytes(dim: int) -> int:
    return 4 + 8 * M + 4 * dim + 8


def _header_problem(header: bytes, *, rows: int, dim: int) -> str:
    if len(header) < _HEADER.size:
        return "it is cut short"
    offset0, capacity, count, record, label_at, data_at, top, entry, m1, m0, m, _, _ = (
        _HEADER.unpack(header)
    )
    expected = (0, rows, rows, _record_bytes(dim), 4 + 8 * M + 4 * dim, 4 + 8 * M, M, 2 * M, M)
    if (offset0, capacity, count, record, label_at, data_at, m1, m0, m) != expected:
        return f"its header is not that of {rows} rows of {dim} numbers"
    if entry >= rows or not 0 <= top <= 64:
        return "its entry point is no row"
    return ""


def _upper_problem(data: bytes, rows: int) -> str:
    """Walk the links above the ground level: per row a byte count, then blocks of links."""
    block = 4 + 4 * M
    at = 0
    for _ in range(rows):
        if at + 4 > len(data):
            return "it is cut short"
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if size % block or at + size > len(data):
            return "its upper levels are broken"
        for start in range(at, at + size, block):
            count = int.from_bytes(data[start : start + 2], "little")
            ids = np.frombuffer(data, "<u4", count=min(count, M), offset=start + 4)
            if count > M or (ids >= rows).any():
                return "a link leads nowhere"
        at += size
    return "" if at == len(data) else "it is too long"
