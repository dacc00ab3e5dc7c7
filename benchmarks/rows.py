"""Synthetic rows of about 290 bytes, and knowledge bases that hold many of them without a model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b, shake_256
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.corpora import sentence
from benchmarks.knowledge import make_base
from headwater.config import KnowledgeBase
from headwater.flows.encoding import Encoding, EncodingOpener, twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.report import RefreshReport
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, Record, record_batch
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.encoder import Vectors
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectStore

SOURCE = "rows"
DIM = 8
_NO_GRAPH = 1_000_000_000
_POOL = 1 << 16
_SENTENCES = 4
_BATCH = 1000


@lru_cache(maxsize=1)
def _pool() -> tuple[str, ...]:
    """So many sentences that hardly two of a row group are the same: they compress like text."""
    chance = random.Random("rows")
    return tuple(sentence(chance) for _ in range(_POOL))


def row(number: int, edition: int = 0) -> Record:
    """Row `number`; each edition has another text, and all have the same metadata."""
    pool = _pool()
    drawn = blake2b(f"{number}/{edition}".encode(), digest_size=2 * _SENTENCES).digest()
    chosen = [pool[drawn[2 * n] << 8 | drawn[2 * n + 1]] for n in range(_SENTENCES)]
    return Record(
        key=f"{number:08d}",
        text=f"Entry {number}.{edition}. {' '.join(chosen)}",
        title=f"Entry {number}",
        url=f"https://example.org/entries/{number}",
        metadata={"number": number, "part": number % 97},
    )


def rows(numbers: Iterable[int], edition: int = 0) -> list[Record]:
    """The rows of these numbers."""
    return [row(number, edition) for number in numbers]


def own_bytes(records: Iterable[Record]) -> int:
    """UTF-8 of the key, text, title, link and metadata of rows, as a source sends them."""
    columns = ("key", "text", "title", "url", "metadata")
    return sum(
        len(value.encode())
        for batch in batches(records)
        for name in columns
        for value in batch.column(name).to_pylist()
    )


def batches(records: Iterable[Record]) -> list[pa.RecordBatch]:
    """Rows as a source yields them."""
    held = list(records)
    return [record_batch(held[n : n + _BATCH]) for n in range(0, len(held), _BATCH)]


@dataclass(frozen=True)
class PreparedSource:
    """Yields batches made beforehand, so that a measured pull pays nothing for making them."""

    prepared: Sequence[pa.RecordBatch]
    complete: bool = True

    def pull(self, request: PullRequest) -> Pull:
        """Yield all batches, whatever was asked."""
        yield from self.prepared
        return ExtractEnd(complete=self.complete)


class _Drawn(HashEmbedder):
    """The twin with vectors drawn from the hash of a whole text.

    A store of a million rows is written to measure the store, and not the twin.
    """

    def encode(self, texts: Sequence[str]) -> Vectors:
        dim = self.space.dim
        drawn = b"".join(shake_256(text.encode()).digest(dim) for text in texts)
        found = np.frombuffer(drawn, np.uint8).reshape(-1, dim).astype(np.float32) - 127.5
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        for start in range(0, len(texts), 256):
            part = texts[start : start + 256]
            yield list(range(start, start + len(part))), self.encode(part)


def drawn_encoding(dim: int) -> EncodingOpener:
    """`twin_encoding` with vectors of `dim` numbers; see `EncodingOpener`."""

    def opened(
        kb: KnowledgeBase,
        parent: Encoder | None,
        objects: ObjectStore,
        *,
        new_model: bool,
        dry_run: bool,
    ) -> Encoding:
        twin = twin_encoding(kb, parent, objects, new_model=new_model, dry_run=dry_run)
        drawn = _Drawn(dim)
        old, new = twin.encoder.fingerprint, drawn.space.fingerprint
        return Encoding(
            replace(twin.encoder, fingerprint=new, dim=dim),
            replace(twin.cutter, name=twin.cutter.name.replace(old[:16], new[:16])),
            lambda: drawn,
        )

    return opened


def rows_base(root: Path) -> KnowledgeBase:
    """A knowledge base for rows that never builds a graph."""
    index = {"graph_from": _NO_GRAPH}
    return make_base(root, {SOURCE: {"kind": "memory"}}, index=index)


def write(
    kb: KnowledgeBase,
    records: Iterable[Record],
    *,
    complete: bool = True,
    observed_at: datetime | None = None,
    dim: int = DIM,
) -> RefreshReport:
    """Refresh from records in memory, with vectors of `dim` numbers.

    Raises:
        RuntimeError: the refresh did not publish.
    """
    sources: Mapping[str, MemorySource] = {SOURCE: MemorySource.of(records, complete=complete)}
    options = RefreshOptions(observed_at=observed_at)
    report = refresh(kb, options, encoding=drawn_encoding(dim), sources=sources)
    if report.exit_code or not report.published:
        raise RuntimeError(f"the refresh ended with {report.exit_code}: {report}")
    return report
