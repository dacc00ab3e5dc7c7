"""Questions with one right document, built from the corpora: what fusion is chosen by.

A title or a description that is not in the indexed text asks for its EIP; a sentence that was taken
out of a document asks for what is left of it; a heading asks for its page; and the temporal
questions ask for their documents, whatever they answer. Each set is cut in two by the hash of the
question: one half to choose by, the other to report. SciFact is never chosen by.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from benchmarks.corpora import lay_out
from benchmarks.exact import ExactIndex
from benchmarks.knowledge import make_base
from benchmarks.quality import SCIFACT, kept_scifact
from benchmarks.temporal_base import Passages, distinct, replayed
from benchmarks.temporal_corpora import CORPORA, Document, all_questions
from headwater.errors import HeadwaterError
from headwater.flows.evaluate import evaluate
from headwater.flows.refresh import refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.beir import read_corpus, read_judgements, read_queries
from headwater.retrieval.chunking import CHUNKER_ID
from headwater.retrieval.encoder import TextEncoder
from headwater.retrieval.encoders import open_query_encoder
from headwater.storage.manifest import FORMAT
from headwater.storage.store import Store

_MOST: Final = 800
"""Questions of a set; more would make it slower and no surer."""
_FASTAPI: Final = 72
_ADVISORIES: Final = 37
_WORDS: Final = range(8, 41)
_SENTENCE: Final = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")
_HEADING: Final = re.compile(r"^#{1,4} (.+?)(?: \{ #.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Judged:
    """Questions, and what answers them.

    Attributes:
        name: of the set.
        index: of the passages.
        encoder: of the queries.
        relevant: query -> document -> how relevant it is.
    """

    name: str
    index: ExactIndex
    encoder: TextEncoder
    relevant: Mapping[str, Mapping[str, int]]


def to_choose_by(query: str) -> bool:
    """Whether a question is of the half that is chosen by, and not of the reported one."""
    return _digest(query)[0] % 2 == 0


def known_items(work: Path) -> Iterator[Judged]:
    """Every set but SciFact."""
    for corpus in CORPORA:
        root = replayed(work, corpus)
        documents = corpus.documents(corpus.revisions[-1])
        index, encoder = _opened(root, documents)
        asked = {q.query: {q.document: 1} for q in all_questions(corpus)}
        held = {query: found for query, found in asked.items() if set(found) & documents.keys()}
        yield Judged(f"{corpus.name} questions", index, encoder, _drawn(held))
        if corpus.name == "eips":
            for name in ("title", "description"):
                told = {str(d.metadata.get(name, "")): {k: 1} for k, d in documents.items()}
                told.pop("", None)
                yield Judged(f"eips by {name}", index, encoder, _drawn(told))
    yield from _taken_out(work, "advisories", _advisories(), share=1)
    pages = _pages()
    for judged in _taken_out(work, "fastapi", pages, share=8):
        yield judged
        asked = {}
        for key, text in pages.items():
            for heading in _HEADING.findall(text):
                if len(heading.split()) > 2:
                    asked.setdefault(heading.replace("`", ""), {})[key] = 1
        yield Judged("fastapi by heading", judged.index, judged.encoder, _drawn(asked))


def scifact(work: Path) -> Judged:
    """SciFact, in the index that `quality` keeps."""
    root = kept_scifact(work)
    evaluate(SCIFACT, keep=root, modes=())
    texts = {
        one.key: f"# {' '.join(one.title.split())}\n\n{one.text}" if one.title else one.text
        for one in read_corpus(SCIFACT)
    }
    index, encoder = _opened(root, {key: Document(text, {}) for key, text in texts.items()})
    queries = read_queries(SCIFACT)
    judged = read_judgements(SCIFACT, queries, "test")
    return Judged("scifact", index, encoder, {queries[q]: found for q, found in judged.items()})


def _opened(root: Path, documents: Mapping[str, Document]) -> tuple[ExactIndex, TextEncoder]:
    store = Store.open(root / "store")
    encoder = store.resolve(None).encoder
    assert encoder is not None
    cut = Passages(root)
    return cut.index(distinct(documents, cut)), open_query_encoder(encoder, store.objects)


def _taken_out(work: Path, name: str, texts: Mapping[str, str], *, share: int) -> Iterator[Judged]:
    """A set of sentences that were taken out: of each document one in `share`, at least one."""
    left: dict[str, str] = {}
    asked: dict[str, Mapping[str, int]] = {}
    for key, text in texts.items():
        sentences = [s for s in _SENTENCE.split(text) if _is_prose(s)]
        chosen = sorted(sentences, key=_digest)[: -(-len(sentences) // share)]
        rest = text
        for sentence in chosen:
            rest = rest.replace(sentence, " ")
        # What would leave next to nothing behind stays whole, and is not asked for.
        if len(rest.split()) < min(_WORDS):
            rest, chosen = text, []
        left[key] = rest
        asked |= {" ".join(sentence.split()): {key: 1} for sentence in chosen}
    root = _kept(work / f"known-{name}-format-{FORMAT}-{CHUNKER_ID.replace('/', '-')}", left)
    index, encoder = _opened(root, {key: Document(text, {}) for key, text in left.items()})
    yield Judged(f"{name} by sentence", index, encoder, _drawn(asked))


def _kept(root: Path, texts: Mapping[str, str]) -> Path:
    """A knowledge base of these texts, built once."""
    try:
        Retriever.open(root).close()
    except HeadwaterError:
        draft = root.with_name(f"{root.name}.draft")
        for folder in (root, draft):
            shutil.rmtree(folder, ignore_errors=True)
        records = [Record(key=key, text=text) for key, text in texts.items()]
        kb = make_base(draft, {"texts": {"kind": "memory"}})
        refresh(kb, sources={"texts": MemorySource.of(records)})
        draft.rename(root)
    return root


def _advisories() -> dict[str, str]:
    """What advisories say in words, each text once."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        lay_out("pypa-advisories", _ADVISORIES, Path(folder))
        for path in sorted(Path(folder).rglob("*.yaml")):
            record = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
            found.setdefault(record.get("details") or "", path.stem)
    return {key: text for text, key in found.items() if text}


def _pages() -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        lay_out("fastapi-docs", _FASTAPI, Path(folder))
        paths = sorted(Path(folder).rglob("*.md"))
        return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in paths}


def _is_prose(sentence: str) -> bool:
    return (
        len(sentence.split()) in _WORDS
        and not set("#|{}") & set(sentence)
        and "```" not in sentence
    )


def _drawn(asked: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """At most `_MOST` of the questions, whichever their hashes draw."""
    chosen: Sequence[str] = sorted(asked, key=_digest)[:_MOST]
    return {query: asked[query] for query in chosen}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
