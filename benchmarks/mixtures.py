"""Short texts by the hundred thousand with vectors of the real model: sentences, and mixtures of two.

To embed a hundred thousand texts takes most of an hour. So `REAL` sentences are really embedded, and
every other text is made of two of them: the beginning of one and the end of the other, with a
vector made of theirs in the same shares and a little noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.corpora import sentences
from benchmarks.knowledge import make_base
from headwater.config import KnowledgeBase
from headwater.errors import HeadwaterError
from headwater.flows.encoding import Encoding, EncodingOpener, open_encoding
from headwater.flows.refresh import refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.chunking import CHUNKER_ID
from headwater.retrieval.embedding import Embedder
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.normalisation import normalise, text_hash
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import FORMAT, Encoder
from headwater.storage.objects import ObjectStore
from headwater.storage.store import Store

REAL = 32_000
SOURCE = "texts"
_HUNDRED = 100
_FIRST, _SECOND, _NOISE = 0.8, 0.4, 0.2
"""How much of either sentence's vector is in a mixture's, and how long a random step."""


@dataclass(frozen=True)
class Real:
    """Sentences with the vectors that the default model gave them.

    Attributes:
        kind: where they come from.
        texts: of them, distinct.
        vectors: float32 (n, dim), L2-normalised.
    """

    kind: str
    texts: Sequence[str]
    vectors: Vectors

    def text(self, number: int) -> str:
        """A sentence, or from `len(texts)` on a mixture; every number has another text."""
        if number < len(self.texts):
            return self.texts[number]
        first, second = (self.texts[row].split() for row in self._pair(number))
        words = first[: 2 * len(first) // 3] + second[2 * len(second) // 3 :]
        return " ".join([*words, f"({number})"])

    def vector(self, number: int) -> np.ndarray:
        """Its vector: float32 (dim,), L2-normalised."""
        if number < len(self.texts):
            own: np.ndarray = self.vectors[number]
            return own
        first, second = (self.vectors[row] for row in self._pair(number))
        step = np.random.default_rng(number).standard_normal(len(first), dtype=np.float32)
        mixed = _FIRST * first + _SECOND * second + _NOISE * step / np.linalg.norm(step)
        return np.asarray(mixed / np.linalg.norm(mixed), dtype=np.float32)

    def _pair(self, number: int) -> tuple[int, int]:
        first, second = np.random.default_rng([number, 1]).integers(len(self.texts), size=2)
        return int(first), int(second)

    @property
    def note(self) -> str:
        """What the texts are, for the notes of figures."""
        return (
            f"{len(self.texts):,} {self.kind} sentences embedded by the default model; the others "
            f"mix two of them: {_FIRST}, {_SECOND} of their vectors and a random step of {_NOISE}"
        )


class PreparedEmbedder:
    """Looks vectors up, and asks the model for the texts that are not prepared."""

    def __init__(self, real: Real, numbers: Mapping[str, int], model: Embedder) -> None:
        self.space = model.space
        self._real = real
        self._numbers = numbers
        self._model = model

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        if all(text in self._numbers for text in texts):
            return np.stack([self._real.vector(self._numbers[text]) for text in texts])
        return self._model.encode(texts)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`."""
        known = [at for at, text in enumerate(texts) if text in self._numbers]
        for start in range(0, len(known), 4096):
            part = known[start : start + 4096]
            yield part, self.encode([texts[at] for at in part])
        rest = [at for at, text in enumerate(texts) if text not in self._numbers]
        for places, vectors in self._model.embed([texts[at] for at in rest]) if rest else ():
            yield [rest[place] for place in places], vectors


def prepared_encoding(real: Real, numbers: Mapping[str, int]) -> EncodingOpener:
    """The real encoding, with prepared vectors.

    Args:
        real: knows the vectors.
        numbers: of the texts, normalised.
    """

    def opened(
        kb: KnowledgeBase,
        parent: Encoder | None,
        objects: ObjectStore,
        *,
        new_model: bool,
        dry_run: bool,
    ) -> Encoding:
        encoding = open_encoding(kb, parent, objects, new_model=new_model, dry_run=dry_run)
        return replace(
            encoding, embedder=lambda: PreparedEmbedder(real, numbers, encoding.embedder())
        )

    return opened


def real_sentences(work: Path) -> Real:
    """`REAL` sentences and their vectors; embedded once, by a refresh, and kept in `work`.

    Raises:
        RuntimeError: the refresh did not publish.
    """
    kind, texts = sentences(REAL)
    root = work / f"sentences-{kind}-{len(texts)}-format-{FORMAT}"
    if not _is_whole(root):
        # Not built aside: what an interrupted run embedded is in the cache.
        kb = make_base(root, {SOURCE: {"kind": "memory"}})
        _publish(kb, [Record(key=_key(n), text=text) for n, text in enumerate(texts)])
    store = Store.open(root / "store")
    encoder = store.resolve(None).encoder
    assert encoder is not None
    cache = EmbeddingCache(store.objects, space=encoder.fingerprint, dim=encoder.dim)
    return Real(kind, texts, cache.vectors([text_hash(text) for text in texts]))


def mixed_base(
    work: Path, real: Real, size: int, *, steps: int, parts: int = 100
) -> tuple[Path, list[str]]:
    """A knowledge base of `size` texts, and its snapshots in order.

    It is built once, by refreshes with prepared vectors, and kept in `work`.

    Args:
        work: a folder.
        real: sentences; once they are used up, the texts are mixtures of them.
        size: documents, each of one text; a tenth of them has the same `tenth` in its metadata.
        steps: snapshots after the first; each replaces the texts of other documents.
        parts: one of so many documents has its text replaced in a step.

    Raises:
        RuntimeError: a refresh did not publish.
    """
    cut = CHUNKER_ID.replace("/", "-")
    root = work / f"mixed-{real.kind}-{size}-{steps}-of-{parts}-format-{FORMAT}-{cut}"
    if not _is_whole(root):
        # Built aside and moved, so that what an interrupted run leaves behind is never used.
        draft = root.with_name(f"{root.name}.draft")
        for folder in (root, draft):
            shutil.rmtree(folder, ignore_errors=True)
        kb = make_base(draft, {SOURCE: {"kind": "memory"}})
        for step in range(steps + 1):
            numbers = [_number(size, row, step, parts) for row in range(size)]
            texts = [real.text(number) for number in numbers]
            known = {normalise(text): n for text, n in zip(texts, numbers, strict=True)}
            records = [_record(row, text) for row, text in enumerate(texts)]
            _publish(kb, records, prepared_encoding(real, known))
        draft.rename(root)
    store = Store.open(root / "store")
    return root, sorted(path.stem for path in (store.root / "snapshots").glob("*.json"))


def _number(size: int, row: int, step: int, parts: int) -> int:
    """Which text a document has after so many steps; each step reaches another part of them."""
    changed = row % parts
    return row if changed >= step else size + changed * (size // parts) + row // parts


def _record(row: int, text: str) -> Record:
    return Record(key=_key(row), text=text, metadata={"tenth": row // _HUNDRED % 10})


def _key(row: int) -> str:
    return f"{row:06d}"


def _is_whole(root: Path) -> bool:
    try:
        Retriever.open(root).close()
    except HeadwaterError:
        return False
    return True


def _publish(
    kb: KnowledgeBase, records: Sequence[Record], encoding: EncodingOpener = open_encoding
) -> None:
    report = refresh(kb, encoding=encoding, sources={SOURCE: MemorySource.of(records)})
    if report.exit_code or not report.published:
        raise RuntimeError(f"the refresh ended with {report.exit_code}: {report}")
