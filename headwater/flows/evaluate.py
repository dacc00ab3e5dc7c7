"""How well does headwater find things? A judged data set, indexed and searched as any knowledge is."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.config import (
    CONFIG_NAME,
    DEFAULT_MODEL,
    Config,
    DeletionGuard,
    KnowledgeBase,
    PluginConfig,
)
from headwater.errors import ConfigError, NotFoundError, PublicationStoppedError
from headwater.flows.refresh import Progress, refresh, silent
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval.beir import Document, read_corpus, read_judgements, read_queries
from headwater.retrieval.evaluation import RECALL_AT, Scores, rank_documents, score
from headwater.retrieval.hits import MODES, Mode
from headwater.retrieval.retriever import Retriever
from headwater.storage.store import Store
from headwater.storage.tables import live_versions

_SOURCE = "corpus"
_DEEPEST = 64 * RECALL_AT


@dataclass(frozen=True)
class Evaluation:
    """What came of one evaluation.

    Attributes:
        folder: of the data set.
        split: the judgements that were used.
        snapshot: that was searched.
        model: that embedded it.
        corpus: documents of the data set.
        documents, texts: that the snapshot serves.
        missing: documents judged relevant that the snapshot does not hold; they count as not found.
        scores: way to search -> the means.
        index_seconds: to build the index; 0 where a knowledge base was given.
        search_seconds: way to search -> for all queries, their embedding included.
    """

    folder: str
    split: str
    snapshot: str
    model: str
    corpus: int
    documents: int
    texts: int
    missing: int
    scores: Mapping[Mode, Scores]
    index_seconds: float
    search_seconds: Mapping[Mode, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def evaluate(
    folder: Path,
    *,
    split: str = "test",
    kb: Path | None = None,
    sources: Sequence[str] = (),
    as_of: str | None = None,
    keep: Path | None = None,
    model: str = DEFAULT_MODEL,
    modes: Sequence[Mode] = MODES,
    progress: Progress = silent,
) -> Evaluation:
    """Search for the judged queries of a BEIR data set and score what is found.

    Nothing is written into `folder`. A document is indexed as Markdown, its title the heading.

    Args:
        folder: with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.
        split: which judgements.
        kb: search this knowledge base instead of indexing the corpus; its keys are the corpus' ids.
        sources: of that knowledge base, only these; all when empty.
        as_of: of that knowledge base, this snapshot; the current one when None.
        keep: a folder for the index, which a later evaluation goes on from; a temporary one when
            None.
        model: that embeds, a name or the path of a folder, where the corpus is indexed.
        modes: which ways to search are scored.
        progress: told about stages.

    Raises:
        ConfigError: the data set is wrong; the message names file and line.
        NotFoundError: there is no such knowledge base, or it holds none of the judged documents.
        PublicationStoppedError: the index failed a gate.
    """
    queries = read_queries(folder)
    judgements = read_judgements(folder, queries, split)
    corpus = read_corpus(folder)
    with ExitStack() as stack:
        started = time.monotonic()
        if kb is None:
            root = keep or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-"))
            )
            _index(root, corpus, model=model, progress=progress)
        else:
            root = kb
        indexed = time.monotonic()
        retriever = stack.enter_context(Retriever.open(root, as_of=as_of))
        scores, seconds = {}, {}
        for number, mode in enumerate(modes):
            began, runs = time.monotonic(), {}
            for done, query in enumerate(sorted(judgements), 1):
                runs[query] = ranking(retriever, queries[query], sources=sources, mode=mode)
                progress("search", number * len(judgements) + done, len(modes) * len(judgements))
            scores[mode] = score(runs, judgements)
            seconds[mode] = round(time.monotonic() - began, 3)
        manifest = retriever.manifest
        missing = _missing(root, retriever.snapshot, judgements, sources)
        if kb is not None and missing == len(_relevant(judgements)):
            raise NotFoundError(
                "The knowledge base holds none of the documents that are judged relevant",
                obj=str(kb),
                todo="its keys must be the ids of the corpus; leave --kb out to index the corpus",
            )
        return Evaluation(
            folder=str(folder),
            split=split,
            snapshot=retriever.snapshot,
            model=manifest.encoder.model if manifest.encoder else "",
            corpus=len(corpus),
            documents=manifest.counts.get("documents", 0),
            texts=manifest.counts.get("texts", 0),
            missing=missing,
            scores=scores,
            index_seconds=round(indexed - started, 3) if kb is None else 0.0,
            search_seconds=seconds,
        )


def ranking(
    retriever: Retriever, query: str, *, sources: Sequence[str] = (), mode: Mode = "hybrid"
) -> list[str]:
    """The keys of the documents that answer a query best, best first: `RECALL_AT` of them, if there are.

    A document may fill many hits with its passages, so more are asked for until there are enough.
    """
    k = 2 * RECALL_AT
    while True:
        hits = retriever.search(query, k, sources=sources or None, mode=mode)
        found = [
            (key, hit.score) for hit in hits for _, key in ((hit.source, hit.key), *hit.others)
        ]
        documents = rank_documents(found)
        if len(documents) >= RECALL_AT or len(hits) < k or k >= _DEEPEST:
            return documents[:RECALL_AT]
        k *= 2


def _index(root: Path, corpus: Sequence[Document], *, model: str, progress: Progress) -> None:
    """Refresh a knowledge base in `root` that holds the corpus and nothing else."""
    guard = DeletionGuard(max_count=0, max_share=1.0)
    source = PluginConfig(kind="memory", deletion_guard=guard)
    config = Config(name="evaluation", model=model, sources={_SOURCE: source})
    config_sha256 = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    records = [
        Record(
            key=document.key,
            text=_markdown(document),
            title=document.title or None,
            fingerprint=hashlib.sha256(_markdown(document).encode()).hexdigest(),
        )
        for document in corpus
    ]
    if (root / CONFIG_NAME).exists():
        raise ConfigError(
            "The index is not kept in a knowledge base that is there already",
            obj=str(root),
            todo="name another folder, or search the knowledge base with --kb",
        )
    root.mkdir(parents=True, exist_ok=True)
    report = refresh(
        KnowledgeBase(root, config, config_sha256),
        sources={_SOURCE: MemorySource.of(records, name=_SOURCE)},
        progress=progress,
    )
    if report.candidate:
        failed = [g for g in report.gates if not g.passed and g.severity == "critical"]
        raise PublicationStoppedError(
            "The index of the corpus failed a gate",
            obj=", ".join(gate.name for gate in failed),
            todo="; ".join(gate.detail for gate in failed),
        )


def _markdown(document: Document) -> str:
    title = " ".join(document.title.split())
    return f"# {title}\n\n{document.text}" if title else document.text


def _relevant(judgements: dict[str, dict[str, int]]) -> set[str]:
    return {key for judged in judgements.values() for key, rel in judged.items() if rel > 0}


def _missing(
    root: Path, snapshot: str, judgements: dict[str, dict[str, int]], sources: Sequence[str]
) -> int:
    """How many of the documents judged relevant a snapshot does not hold."""
    store = Store.open(root if (root / "FORMAT").is_file() else root / "store")
    table = live_versions(store.objects, store.resolve(snapshot), ["source", "key"]).to_pydict()
    held = {
        key
        for source, key in zip(table["source"], table["key"], strict=True)
        if not sources or source in sources
    }
    return len(_relevant(judgements) - held)
