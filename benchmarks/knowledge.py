"""Knowledge bases for measurements, and a count of their texts that does not ask the store."""

from __future__ import annotations

import hashlib
import shutil
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.corpora import sentences
from headwater.config import KnowledgeBase, load
from headwater.errors import HeadwaterError
from headwater.flows.refresh import refresh
from headwater.flows.sources.conformance import pull_rows
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.flows.sources.registry import open_source
from headwater.retrieval import Retriever
from headwater.retrieval.chunking import CHUNKER_ID, chunk
from headwater.retrieval.tokens import Tokenizer
from headwater.storage.manifest import FORMAT, Encoder
from headwater.storage.objects import ObjectStore

TEXTS = 10_000
_NEWER = 100


def make_base(root: Path, sources: Mapping[str, Any], **settings: Any) -> KnowledgeBase:
    """Write a `headwater.yaml` with these sources and other settings into `root`."""
    root.mkdir(parents=True, exist_ok=True)
    config = {"name": "benchmark", "sources": dict(sources), **settings}
    (root / "headwater.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    return load(root)


def pulled(kb: KnowledgeBase, source: str) -> list[str]:
    """The texts that a source holds, pulled without the refresh."""
    rows = pull_rows(open_source(source, kb.source(source), root=kb.root))
    return [row["text"] for row in rows if row["state"] == "present"]


class Counter:
    """Counts distinct chunk texts that were never seen before, in memory of its own.

    Args:
        tokenizer: `tokenizer.json` of the encoding.
        max_tokens: of a chunk, as the encoding has it.
        min_tokens: of a chunk, as the configuration has it.
    """

    def __init__(self, tokenizer: bytes, *, max_tokens: int, min_tokens: int = 64) -> None:
        self._tokenizer = Tokenizer(tokenizer)
        self._limits = {"max_tokens": max_tokens, "min_tokens": min_tokens}
        self._seen: set[bytes] = set()
        self._cut: set[str] = set()

    def new(self, texts: Iterable[str]) -> int:
        """How many chunk texts of `texts` are new; from now on they are not."""
        before = len(self._seen)
        for text in texts:
            if text not in self._cut:
                self._cut.add(text)
                for piece in chunk(text, tokenizer=self._tokenizer, **self._limits):
                    folded = " ".join(unicodedata.normalize("NFC", piece.text).split())
                    self._seen.add(hashlib.sha256(folded.encode()).digest())
        return len(self._seen) - before


def counter_of(encoder: Encoder, objects: ObjectStore) -> Counter:
    """A counter that cuts as the encoder of a snapshot does."""
    tokenizer = objects.path(encoder.files["tokenizer"]).read_bytes()
    return Counter(tokenizer, max_tokens=encoder.max_tokens)


def searchable(work: Path) -> tuple[str, Path]:
    """What its texts are, and a knowledge base of `TEXTS` short texts in the real model's space.

    It has two snapshots: the second replaces a hundredth of the texts, so that a search meets a
    graph with tombstones and a flat segment. It is built once and kept in `work`.
    """
    kind, texts = sentences(TEXTS + _NEWER)
    root = work / f"search-{kind}-{TEXTS}-format-{FORMAT}-{CHUNKER_ID.replace('/', '-')}"
    try:
        Retriever.open(root).close()
    except HeadwaterError:
        # Built aside and moved, so that what an interrupted run leaves behind is never used.
        draft = root.with_name(f"{root.name}.draft")
        for folder in (root, draft):
            shutil.rmtree(folder, ignore_errors=True)
        kb = make_base(draft, {"texts": {"kind": "memory"}})
        for first in (0, _NEWER):
            records = [Record(key=str(n), text=texts[n]) for n in range(first, first + TEXTS)]
            refresh(kb, sources={"texts": MemorySource.of(records)})
        draft.rename(root)
    return f"{TEXTS:,} {kind} sentences", root
