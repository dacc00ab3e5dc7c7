"""Search among a hundred thousand texts: beside one graph over all of them, and beside itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np

from benchmarks.asked import QUERIES, Asked, K, asked, embedded
from benchmarks.corpora import questions
from benchmarks.figures import Figure
from benchmarks.mixtures import Real, mixed_base, real_sentences
from benchmarks.sampling import Call, clocks, half, in_turn, latency, ratio
from headwater.retrieval import Retriever
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.graphs import EF_CONSTRUCTION, SEED, M
from headwater.retrieval.hits import Hit, Mode
from headwater.storage.store import Store

SIZE = 100_000
STEPS = 12
_ROUNDS = 3
_TENTHS = 10
_MOST_EF = 2048
_MODES: tuple[Mode, ...] = ("dense", "hybrid")


def measure(work: Path) -> Iterator[Figure]:
    """Dense, hybrid, filtered and past searches; the query's embedding is in none of them."""
    real = real_sentences(work)
    root, names = mixed_base(work, real, SIZE, steps=STEPS)
    store = Store.open(root / "store")
    vectors = embedded(store, questions(QUERIES))
    for name, what in ((names[1], "1 % changed"), (names[-1], f"1 % changed {STEPS} times")):
        answers = asked(store, name, vectors)
        with Retriever.open(root, as_of=name, encoder=answers.encoder) as held:
            yield from _dense(held, answers, what, real)
            yield from _filtered(held, answers, what)
    with Retriever.open(root, encoder=answers.encoder) as retriever:
        yield from _past(retriever, answers.texts, names)


def _dense(held: Retriever, answers: Asked, what: str, real: Real) -> Iterator[Figure]:
    view = held._pinned()
    assert view is not None
    hits = [held.search(text, K, mode="dense") for text in answers.texts]
    recall = answers.recall([_cosines(found) for found in hits])
    raw = _raw_graph(answers.matrix)
    ef = _least_ef(raw, answers, recall)
    calls: dict[str, Call] = {
        "raw": lambda q: raw.knn_query(answers.vectors[q], k=K, num_threads=1),
        "ranked": lambda q: view.ranked(answers.vectors[q], None, K),
        "dense": lambda q: held.search(answers.texts[q], K, mode="dense"),
        "hybrid": lambda q: held.search(answers.texts[q], K),
        "lexical": lambda q: held.search(answers.texts[q], K, mode="lexical"),
    }
    times = in_turn(calls, QUERIES, rounds=_ROUNDS)
    segments = ", ".join(
        f"{s.rows:,} rows{f' (ef {s.ef})' if s.graph else ''}" for s in held.manifest.segments
    )
    state = f"{SIZE:,} texts, segments of {segments}; {real.note}"
    yield Figure(f"dense recall@{K}, {what}", recall, least=0.98, note=state, digits=4)
    note = f"hnswlib over all live texts, M={M}, ef {ef}: the least of this recall"
    yield from latency("raw hnswlib", times["raw"], note=note)
    yield from latency("dense search, to ranked rows", times["ranked"])
    yield ratio("  against raw hnswlib", times["ranked"], times["raw"], most=1.3)
    yield from latency("dense search, hits read", times["dense"])
    yield ratio("  against raw hnswlib", times["dense"], times["raw"])
    yield from latency("hybrid search, hits read", times["hybrid"], most=3.0)
    yield from latency("lexical search, hits read", times["lexical"])


def _filtered(held: Retriever, answers: Asked, what: str) -> Iterator[Figure]:
    filters = [f"meta.tenth = {number}" for number in range(_TENTHS)]
    masks = [_mask(held, answers.texts[0], where) for where in filters]
    calls: dict[str, Call] = {}
    for mode in _MODES:
        calls[mode] = _search(held, answers.texts, mode)
        calls[f"{mode}, filtered"] = _search(held, answers.texts, mode, filters)
    times = in_turn(calls, QUERIES, rounds=_ROUNDS)
    for mode in _MODES:
        free, bound = times[mode], times[f"{mode}, filtered"]
        yield from latency(f"{mode} search of a tenth, {what}", bound)
        note = f"unfiltered {half(free):.2f} ms"
        yield ratio("  against unfiltered", bound, free, most=2.0, note=note)
    first, later = masks[0], float(np.median(masks[1:]))
    note = "reads and parses the metadata of all documents"
    yield Figure("a filter's mask, the first of a field, CPU", first * 1000, "ms", note=note)
    yield Figure(
        "a filter's mask, later ones, CPU", later * 1000, "ms", note="kept for each filter"
    )


def _past(retriever: Retriever, texts: Sequence[str], names: Sequence[str]) -> Iterator[Figure]:
    began = clocks()
    retriever.search(texts[0], K, as_of=names[-2])
    opened = (clocks() - began) * 1000
    calls: dict[str, Call] = {
        "now": lambda q: retriever.search(texts[q], K),
        "before": lambda q: retriever.search(texts[q], K, as_of=names[-2]),
        "first": lambda q: retriever.search(texts[q], K, as_of=names[0]),
    }
    times = in_turn(calls, QUERIES, rounds=_ROUNDS)
    for key, which in (("before", "the snapshot before"), ("first", "the first snapshot")):
        yield ratio(
            f"search as of {which}, against now",
            times[key],
            times["now"],
            most=1.2,
            note=f"hybrid, hits read; now {half(times['now']):.2f} ms",
        )
    note = f"opens it beside the current one; wall {opened[1]:.0f} ms"
    yield Figure("the first search as of the snapshot before, CPU", opened[0], "ms", note=note)


def _search(
    held: Retriever, texts: Sequence[str], mode: Mode, filters: Sequence[str | None] = (None,)
) -> Call:
    """The search for a query, with one filter after the other."""
    return lambda q: held.search(texts[q], K, mode=mode, where=filters[q % len(filters)])


def _mask(held: Retriever, text: str, where: str) -> float:
    """By how many CPU seconds the first search with a filter is longer than the second."""
    times = []
    for _ in range(2):
        began = clocks()
        held.search(text, K, where=where)
        times.append(clocks() - began)
    return float(times[0][0] - times[1][0])


def _cosines(hits: Sequence[Hit]) -> list[float]:
    return [hit.cosine or 0.0 for hit in hits]


def _raw_graph(matrix: Vectors) -> Any:
    """One graph over all vectors, as headwater would build it."""
    rows, dim = matrix.shape
    index = hnswlib.Index(space="ip", dim=dim)
    index.init_index(max_elements=rows, ef_construction=EF_CONSTRUCTION, M=M, random_seed=SEED)
    index.add_items(matrix, np.arange(rows))
    index.set_num_threads(1)
    return index


def _least_ef(index: Any, answers: Asked, recall: float) -> int:
    """The least ef that finds as much, set; the widest one tried where none does."""
    low, high = K, _MOST_EF
    while low < high:
        ef = (low + high) // 2
        index.set_ef(ef)
        _, distances = index.knn_query(answers.vectors, k=K, num_threads=1)
        if answers.recall((1 - distances).tolist()) >= recall:
            high = ef
        else:
            low = ef + 1
    index.set_ef(low)
    return low
