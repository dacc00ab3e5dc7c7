"""Twenty rounds in which a twentieth of the texts is replaced: recall and latency, round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.asked import QUERIES, K, asked, embedded
from benchmarks.corpora import questions
from benchmarks.figures import Figure
from benchmarks.mixtures import Real, mixed_base, real_sentences
from benchmarks.sampling import Call, half, in_turn, ratio
from headwater.retrieval import Retriever
from headwater.retrieval.encoder import Vectors
from headwater.storage.store import Store

SIZE = 15_000
ROUNDS = 20
PARTS = 20
_REPEATS = 3


def measure(work: Path) -> Iterator[Figure]:
    """Real sentences with real vectors, at default settings; every round is a refresh."""
    real = real_sentences(work)
    root, names = mixed_base(work, real, SIZE, steps=ROUNDS, parts=PARTS)
    store = Store.open(root / "store")
    vectors = embedded(store, questions(QUERIES))
    encoder = asked(store, names[0], vectors).encoder
    # All are held open: they share the segments they have in common.
    held = [Retriever.open(root, as_of=name, encoder=encoder) for name in names]
    yield from _recall(store, held, names, vectors, real)
    yield from _latency(held)
    for retriever in held:
        retriever.close()


def _recall(
    store: Store, held: Sequence[Retriever], names: Sequence[str], vectors: Vectors, real: Real
) -> Iterator[Figure]:
    recalls = []
    for name, retriever in zip(names, held, strict=True):
        answers = asked(store, name, vectors)
        found = [retriever.search(text, K, mode="dense") for text in answers.texts]
        recalls.append(answers.recall([[hit.cosine or 0.0 for hit in hits] for hits in found]))
    note = f"{SIZE:,} of {len(real.texts):,} {real.kind} sentences, all really embedded"
    yield Figure(f"recall@{K} before the first round", recalls[0], note=note, digits=4)
    yield Figure(
        f"recall@{K} after {ROUNDS} rounds of 5 %",
        recalls[-1],
        least=0.98,
        note=f"the least of all rounds is {min(recalls):.4f}",
        digits=4,
    )


def _latency(held: Sequence[Retriever]) -> Iterator[Figure]:
    texts = questions(QUERIES)
    calls: dict[str, Call] = {
        str(number): _search(retriever, texts) for number, retriever in enumerate(held)
    }
    times = in_turn(calls, QUERIES, rounds=_REPEATS)
    halves = [half(times[str(number)]) for number in range(len(held))]
    last = held[-1].manifest.segments
    segments = ", ".join(f"{s.rows:,} rows, {s.dead:,} dead" for s in last)
    note = f"dense, hits read; before the first round {halves[0]:.2f} ms; last state: {segments}"
    yield ratio(
        "latency after the last round, against the first",
        times[str(len(held) - 1)],
        times["0"],
        note=note,
    )
    yield Figure(
        "slowest round, against the first",
        max(halves) / halves[0],
        "×",
        note=f"round {int(np.argmax(halves))}; median round {float(np.median(halves)):.2f} ms",
    )


def _search(retriever: Retriever, texts: Sequence[str]) -> Call:
    return lambda q: retriever.search(texts[q], K, mode="dense")
