"""From a publication to an open reader that answers from it, and what two hundred of them leave."""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.asked import Answered, K, embedded
from benchmarks.corpora import questions
from benchmarks.figures import Figure
from benchmarks.mixtures import Real, mixed_base, real_sentences
from benchmarks.sampling import clocks
from benchmarks.speed import SIZE, STEPS
from headwater.retrieval import Retriever
from headwater.retrieval.encoder import Vectors
from headwater.storage.store import Store

_SMALL = 10_000
_SWAPS = 200


class Reader:
    """A store with a pointer of its own, whose snapshots become current one by one, and its reader."""

    def __init__(self, root: Path, work: Path, query: str, vectors: Vectors) -> None:
        self._query = query
        self._store = work / "store"
        self._store.mkdir()
        for path in (root / "store").iterdir():
            if path.name != "CURRENT":
                (self._store / path.name).symlink_to(path.resolve())
        self._encoder = Answered([query], vectors)

    def point(self, name: str) -> None:
        """Make a snapshot current, as its publication did."""
        draft = self._store / "CURRENT.new"
        draft.write_text(f"{name}\n", "ascii")
        draft.rename(self._store / "CURRENT")

    def open(self) -> Retriever:
        """Open what is current, and search it once."""
        retriever = Retriever.open(self._store, encoder=self._encoder)
        self.search(retriever)
        return retriever

    def search(self, retriever: Retriever) -> str:
        """Search, both ways at once; the snapshot that answered."""
        return retriever.search(self._query, K)[0].snapshot


def measure(work: Path) -> Iterator[Figure]:
    """Every swap follows the change of a hundredth of the texts; the reader answers in between."""
    real = real_sentences(work)
    for size in (SIZE, _SMALL):
        yield from _swaps(work, real, size)


def _swaps(work: Path, real: Real, size: int) -> Iterator[Figure]:
    root, names = mixed_base(work, real, size, steps=STEPS)
    vectors = embedded(Store.open(root / "store"), questions(1))
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        reader = Reader(root, Path(folder), questions(1)[0], vectors)
        found = _follow(reader, names)
        what = f"{size:,} texts, 1 % changed"
        visible, opened, search = (np.median(found[:, part], axis=0) * 1000 for part in range(3))
        worst = found[:, 0].max(axis=0) * 1000
        yield Figure(
            f"publication to visible, {what}, CPU",
            float(visible[0]),
            "ms",
            most=100 if size == SIZE else None,
            note=f"CURRENT's rename to the first answer; median of {len(found)}, wall "
            f"{visible[1]:.0f} ms; largest {worst[0]:.0f}, wall {worst[1]:.0f} ms (with a graph to "
            f"load); {real.note}",
            digits=1,
        )
        yield Figure(
            "  of it: the swap", float(opened[0]), "ms", note=f"wall {opened[1]:.0f} ms", digits=1
        )
        yield Figure(
            "  of it: the first search",
            float(search[0]),
            "ms",
            note=f"hybrid: it opens the words; wall {search[1]:.0f} ms",
            digits=1,
        )
        if size == _SMALL:
            yield _memory(reader, names)


def _follow(reader: Reader, names: Sequence[str]) -> np.ndarray:
    """CPU and wall seconds of each swap with its first search, and of the two: (n, 3, 2)."""
    reader.point(names[0])
    found = []
    with reader.open() as retriever:
        for name in names[1:]:
            reader.point(name)
            pointed = clocks()
            # What a search would do first; asked apart to be timed apart.
            served = retriever.snapshot
            swapped = clocks()
            answered = reader.search(retriever)
            ended = clocks()
            if not served == answered == name:
                raise RuntimeError(f"{answered} answered in place of {name}")
            found.append([ended - pointed, swapped - pointed, ended - swapped])
            reader.search(retriever)
    return np.array(found)


def _memory(reader: Reader, names: Sequence[str]) -> Figure:
    """Resident memory after many swaps, compared with that after the first round of them."""
    reader.point(names[0])
    with reader.open() as retriever:
        sizes = []
        for number in range(_SWAPS + len(names)):
            reader.point(names[number % len(names)])
            reader.search(retriever)
            if number + 1 == len(names) or number + 1 == _SWAPS + len(names):
                gc.collect()
                sizes.append(_resident())
    return Figure(
        f"memory after {_SWAPS} more swaps",
        (sizes[1] / sizes[0] - 1) * 100,
        "%",
        most=10,
        note=f"resident, {sizes[0] / 1024:.0f} MB after the first {len(names)}",
        digits=1,
    )


def _resident() -> int:
    """Resident memory of this process in kibibytes."""
    told = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True
    )
    return int(told.stdout)
