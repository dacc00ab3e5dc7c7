"""Histories replayed into knowledge bases, and the passages that each revision should hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.corpora import lay_out
from benchmarks.exact import ExactIndex, Passage
from benchmarks.knowledge import make_base
from benchmarks.rows import PreparedSource
from benchmarks.temporal_corpora import Corpus, Document
from headwater.errors import HeadwaterError
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.protocol import Source
from headwater.retrieval import Retriever
from headwater.retrieval.chunking import CHUNKER_ID, chunk
from headwater.retrieval.normalisation import text_hash
from headwater.retrieval.tokens import Tokenizer
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import FORMAT
from headwater.storage.store import Store

_SOURCE = "history"
# A replay leaps over years: more rows may leave in one refresh than the guard would let go.
_GUARD = {"deletion_guard": {"max_count": 0, "max_share": 1.0}}


def replayed(work: Path, corpus: Corpus) -> Path:
    """A knowledge base with a snapshot of every replayed revision, dated as it was published.

    It is built once and kept in `work`.

    Raises:
        RuntimeError: a refresh did not publish, or kept a document back.
    """
    named = "-".join(str(revision) for revision in corpus.revisions)
    cut = CHUNKER_ID.replace("/", "-")
    root = work / f"temporal-{corpus.name}-{named}-format-{FORMAT}-{cut}"
    try:
        Retriever.open(root).close()
    except HeadwaterError:
        # Built aside and moved, so that what an interrupted run leaves behind is never used.
        draft = root.with_name(f"{root.name}.draft")
        for folder in (root, draft):
            shutil.rmtree(folder, ignore_errors=True)
        for revision in corpus.revisions:
            _refresh(draft, corpus, revision)
        draft.rename(root)
    return root


def _refresh(root: Path, corpus: Corpus, revision: int) -> None:
    sources: dict[str, Source] = {}
    if corpus.rows is None:
        config: dict[str, object] = {"kind": "documents", "root": "files"}
        lay_out(corpus.name, revision, root / "files")
    else:
        config = {"kind": "memory"}
        sources[_SOURCE] = PreparedSource([corpus.rows(revision)])
    kb = make_base(root, {_SOURCE: {**config, **_GUARD}})
    report = refresh(kb, RefreshOptions(observed_at=corpus.time(revision)), sources=sources)
    kept = [source for source in report.sources if source.refused or source.withheld]
    if report.exit_code or not report.published or kept:
        raise RuntimeError(f"{corpus.name} at revision {revision}: {report}")


@dataclass(frozen=True)
class Revision:
    """A replayed revision, read from the corpus and not from the knowledge base.

    Attributes:
        number: of the revision.
        time: when it was published; a search as of then finds it.
        documents: key -> document.
        alone: the exact search of what it holds and nothing else.
        everything: the search of all that it and the revisions before it ever held.
    """

    number: int
    time: datetime
    documents: Mapping[str, Document]
    alone: ExactIndex
    everything: ExactIndex


class Passages:
    """Cuts the documents of a corpus as its knowledge base does, and knows their vectors."""

    def __init__(self, root: Path) -> None:
        store = Store.open(root / "store")
        manifest = store.resolve(None)
        encoder = manifest.encoder
        if encoder is None:
            raise RuntimeError(f"{root} has no encoder")
        tokenizer = store.objects.path(encoder.files["tokenizer"])
        self._tokenizer = Tokenizer(tokenizer.read_bytes())
        self._max_tokens = encoder.max_tokens
        self._words = manifest.lexical
        self._cache = EmbeddingCache(store.objects, space=encoder.fingerprint, dim=encoder.dim)
        self._cut: dict[str, list[str]] = {}

    def of(self, text: str) -> list[str]:
        """The passages of a document."""
        if text not in self._cut:
            cut = chunk(text, tokenizer=self._tokenizer, max_tokens=self._max_tokens)
            self._cut[text] = [piece.text for piece in cut]
        return self._cut[text]

    def index(self, passages: Sequence[Passage]) -> ExactIndex:
        """An index of passages that are all in the knowledge base's cache of vectors.

        Raises:
            KeyError: one is not: the replay left it out.
        """
        vectors = self._cache.vectors([text_hash(passage.text) for passage in passages])
        return ExactIndex(passages, vectors, self._words)


def revisions(root: Path, corpus: Corpus) -> Iterator[Revision]:
    """The replayed revisions in turn, each with its two indexes."""
    cut = Passages(root)
    ever: dict[tuple[str, str, str], Passage] = {}
    for number in corpus.revisions:
        documents = corpus.documents(number)
        ever |= {name: passage for name, passage in _versions(documents, cut) if name not in ever}
        # The newest first: where two are equally good, the index that never removes is lucky.
        newest_first = list(reversed(ever.values()))
        alone = cut.index(distinct(documents, cut))
        yield Revision(number, corpus.time(number), documents, alone, cut.index(newest_first))


def distinct(documents: Mapping[str, Document], cut: Passages) -> list[Passage]:
    """One passage per distinct text, with all documents that hold it, ordered by its hash."""
    texts: dict[bytes, str] = {}
    owners: dict[bytes, list[str]] = {}
    for key in sorted(documents):
        for text in dict.fromkeys(cut.of(documents[key].text)):
            name = text_hash(text)
            texts.setdefault(name, text)
            if key not in owners.setdefault(name, []):
                owners[name].append(key)
    return [
        Passage(texts[name], tuple(keys), documents[keys[0]].metadata)
        for name, keys in sorted(owners.items())
    ]


def _versions(
    documents: Mapping[str, Document], cut: Passages
) -> Iterator[tuple[tuple[str, str, str], Passage]]:
    """Every passage of every document on its own: what is added where nothing is removed."""
    for key, document in documents.items():
        told = json.dumps(document.metadata, sort_keys=True, default=str)
        for text in cut.of(document.text):
            yield (key, text, told), Passage(text, (key,), document.metadata)
