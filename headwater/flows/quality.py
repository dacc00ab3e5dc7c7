"""The quality gates of a candidate: it is asked before anybody else may ask it.

What is asked follows the step: the golden queries of the knowledge base, a bounded number of
questions about what changed, and the graphs that are new. Nothing reads all texts; the vectors are
gone through once for each kind of question, and the words are asked as one index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest

import numpy as np
import pyarrow as pa

from headwater.config import Config, GatesConfig
from headwater.flows.delta import Live, text_delta
from headwater.flows.encoding import Encoding
from headwater.flows.index_build import same_space
from headwater.retrieval.encoders import open_query_encoder
from headwater.retrieval.fusion import fused
from headwater.retrieval.index_probe import (
    graph_recall,
    nearest_texts,
    served_among,
    text_vectors,
    worded_texts,
)
from headwater.retrieval.lexical import analyzer
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.segments import hash_array
from headwater.storage.changes import Changes
from headwater.storage.hashes import ordered
from headwater.storage.lookup import among, rows_with
from headwater.storage.manifest import Gate, Manifest
from headwater.storage.objects import ObjectStore
from headwater.storage.tables import CHUNKS
from headwater.validation import quality
from headwater.validation.golden import GoldenQuery
from headwater.validation.quality import Outcome

_K = 10
_DEPTH = 100
"""Candidates of either half of a golden query, as a hybrid search has at least."""
_OPENING = 300
"""Characters. Of pages of one kind (tables of releases, proposals with one template), the first 80 told
15 to 20 of 20 from all others, 240 told 20 of 20 with the real model and 18 with the model-free twin."""
_LONGEST_OPENING = 600
_BELOW_TARGET = 0.05
_HASH = CHUNKS.field("text_hash").type
_TEXTS = pa.schema([CHUNKS.field(name) for name in ("text_hash", "heading_path", "text")])
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]」』）]*(?=\s|$)|[。！？]")


@dataclass(frozen=True)
class Candidate:
    """A candidate, and the step that led to it.

    Attributes:
        objects: the store's objects.
        parent: the snapshot before, or None.
        manifest: of the candidate, its encoder and its segments set.
        changes: per source, from the parent to the candidate.
        live: the parent's documents: source -> key -> document.
        pairs: the hashes of all chunks of the candidate (`headwater.storage.lookup.PAIRS`).
        encoding: embeds.
        embedded: texts that had to be embedded for it; above 0, the model is open anyway.
    """

    objects: ObjectStore
    parent: Manifest | None
    manifest: Manifest
    changes: Sequence[Changes]
    live: Live
    pairs: pa.Table
    encoding: Encoding
    embedded: int

    def texts_of(self, contents: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Content hash -> hashes of its chunk texts."""
        rows = among(self.pairs, "content_hash", pa.array(sorted(contents), _HASH)).to_pydict()
        found: dict[bytes, list[bytes]] = {}
        for content, text in zip(rows["content_hash"], rows["text_hash"], strict=True):
            found.setdefault(content, []).append(text)
        return found


@dataclass(frozen=True)
class _Opening:
    """A new text, and what its document is to be found by."""

    document: str
    text: bytes
    texts: frozenset[bytes]
    query: str


def quality_gates(
    candidate: Candidate, *, golden: Sequence[GoldenQuery], config: Config
) -> tuple[Gate, ...]:
    """Ask a candidate what it must know; a gate for each kind of question that there is to ask.

    Raises:
        ModelError: the model cannot embed the questions.
        CorruptObjectError: an object of the candidate is missing or damaged.
    """
    gates = config.gates
    openings = _openings(candidate, gates.change_queries)
    asked = _encoded(candidate, [g.query for g in golden], openings)
    about_golden, about_new = asked[: len(golden)], asked[len(golden) :]
    found: list[Gate] = []
    if golden:
        outcomes = _golden_outcomes(candidate, golden, about_golden)
        share, severity = gates.golden_share, gates.golden_severity
        found.append(quality.golden_queries(outcomes, share=share, severity=severity))
    if openings:
        outcomes = _new_outcomes(candidate, openings, about_new)
        share, severity = gates.change_recall, gates.change_severity
        found.append(quality.new_text_found(outcomes, share=share, severity=severity, k=_K))
        if outcomes := _worded_outcomes(candidate, openings):
            found.append(quality.new_words_found(outcomes, share=share, severity=severity, k=_K))
    if outcomes := _old_outcomes(candidate, gates.change_queries):
        found.append(quality.old_text_gone(outcomes, severity=gates.old_text_severity))
    bar = gates.graph_recall
    if bar is None:
        bar = max(0.0, config.index.recall - _BELOW_TARGET)
    return (*found, *_graph_gate(candidate, asked, gates, bar))


# --- what changed ---------------------------------------------------------------------------------


def _openings(candidate: Candidate, count: int) -> list[_Opening]:
    """Up to `count` new texts, each of another document, chosen by hash: the same ones each time."""
    documents = {
        record.content_hash: f"{changes.source}/{record.key}"
        for changes in candidate.changes
        for record in (*changes.changed, *changes.added)
    }
    # Some contents have nothing new: a revert of a part, or no text at all.
    contents = nsmallest(4 * count, documents)
    texts = candidate.texts_of(contents)
    before = _texts_before(candidate)
    chosen: dict[bytes, bytes] = {}
    for content in contents:
        if fresh := [t for t in texts.get(content, ()) if t not in before]:
            chosen[content] = min(fresh)
    kept = list(chosen)[:count]
    said = _said(candidate, {chosen[content] for content in kept})
    return [
        _Opening(documents[c], chosen[c], frozenset(texts[c]), opening(*said[chosen[c]]))
        for c in kept
    ]


def _texts_before(candidate: Candidate) -> frozenset[bytes]:
    """Texts of the changed documents as they were: what still stands in them is not new."""
    old = {
        candidate.live[changes.source][record.key].content_hash
        for changes in candidate.changes
        for record in changes.changed
    }
    return frozenset(text for texts in candidate.texts_of(sorted(old)).values() for text in texts)


def _said(candidate: Candidate, texts: set[bytes]) -> dict[bytes, tuple[str, tuple[str, ...]]]:
    """Text and heading path of each of `texts`; the newest chunks are searched first."""
    found: dict[bytes, tuple[str, tuple[str, ...]]] = {}
    for entry in reversed(candidate.manifest.chunks):
        if not (left := sorted(texts - found.keys())):
            break
        wanted = pa.array(left, _HASH)
        rows = rows_with(candidate.objects, [entry], "text_hash", wanted, schema=_TEXTS)
        for row in rows.to_pylist():
            found[row["text_hash"]] = row["text"], tuple(row["heading_path"] or ())
    return found


def opening(text: str, heading_path: Sequence[str] = ()) -> str:
    """What somebody who looks for a passage might type: its heading and how it begins.

    Whole sentences, until they are some 300 characters; words, where one of them is too long.
    """
    text = normalise(text)
    ends = (match.end() for match in _SENTENCE_END.finditer(text))
    end = next((e for e in ends if e >= _OPENING), len(text))
    if end > _LONGEST_OPENING:
        end = text.rfind(" ", _OPENING, _LONGEST_OPENING)
        end = _LONGEST_OPENING if end < 0 else end
    heading = normalise(heading_path[-1]) if heading_path else ""
    said = text[:end]
    return said if heading in said else f"{heading} {said}"


def _new_outcomes(
    candidate: Candidate, openings: Sequence[_Opening], queries: np.ndarray
) -> list[Outcome]:
    hits = nearest_texts(candidate.objects, candidate.manifest.segments, queries, _K)
    return [
        Outcome(one.document, not one.texts.isdisjoint(found))
        for one, found in zip(openings, hits, strict=True)
    ]


def _worded_outcomes(candidate: Candidate, openings: Sequence[_Opening]) -> list[Outcome]:
    """Whether new texts are found by the words of their opening; one without a word is not asked."""
    queries = [one.query for one in openings]
    hits = worded_texts(candidate.objects, candidate.manifest, queries, _K)
    return [
        Outcome(one.document, not one.texts.isdisjoint(found))
        for one, found in zip(openings, hits, strict=True)
        if analyzer(candidate.manifest.lexical).analyze(one.query)
    ]


def _old_outcomes(candidate: Candidate, count: int) -> list[Outcome]:
    """Whether some of the texts that ceased to be are found, by their own vectors or words.

    Nothing is nearer to a text's vector than the text: it is found if a row that is not dead holds
    it, and no scan has to say so.
    """
    parent, objects = candidate.parent, candidate.objects
    segments = same_space(parent, candidate.encoding)
    leaves = any(c.changed or c.removed for c in candidate.changes)
    if not segments or not leaves or not count:
        return []
    removed = text_delta(candidate.pairs, candidate.changes, candidate.live).removed[:count]
    gone = list(text_vectors(objects, segments, removed))
    if not gone:
        return []
    still = served_among(objects, candidate.manifest.segments, gone)
    said = _said(candidate, set(gone))
    queries = [opening(*said[text]) if text in said else "" for text in gone]
    hits = worded_texts(objects, candidate.manifest, queries, _K)
    return [
        Outcome(f"text {text.hex()[:12]}", text not in still and text not in found)
        for text, found in zip(gone, hits, strict=True)
    ]


# --- golden queries -------------------------------------------------------------------------------

_Moved = Mapping[str, Mapping[str, bytes | None]]
"""Source -> key -> content after the step, None where it is gone; only what the step names."""


def _moved(candidate: Candidate) -> _Moved:
    return {
        changes.source: {
            **dict.fromkeys((*changes.removed, *(old for _, old in changes.renamed))),
            **{record.key: record.content_hash for record in changes.incoming()},
        }
        for changes in candidate.changes
    }


def _golden_outcomes(
    candidate: Candidate, golden: Sequence[GoldenQuery], queries: np.ndarray
) -> list[Outcome]:
    moved = _moved(candidate)
    expected = [_expected(candidate, moved, one) for one in golden]
    texts = candidate.texts_of(list(set().union(*expected)))
    hits = _golden_hits(candidate, moved, golden, queries)
    outcomes = []
    for one, contents, found in zip(golden, expected, hits, strict=True):
        wanted = {text for content in contents for text in texts.get(content, ())}
        name = f"line {one.line} ({' or '.join(one.expect)})"
        outcomes.append(Outcome(name, not wanted.isdisjoint(found[: one.k])))
    return outcomes


def _expected(candidate: Candidate, moved: _Moved, one: GoldenQuery) -> set[bytes]:
    """The contents of the documents that a query expects, as far as they are live."""
    found: set[bytes] = set()
    for source in {*candidate.live, *moved} if one.source is None else {one.source}:
        now, before = moved.get(source, {}), candidate.live.get(source, {})
        for name in one.expect:
            for key in {name, name.removeprefix(f"{source}/")}:
                held = before.get(key)
                content = now.get(key, held.content_hash if held else None)
                if content is not None:
                    found.add(content)
    return found


def _golden_hits(
    candidate: Candidate, moved: _Moved, golden: Sequence[GoldenQuery], queries: np.ndarray
) -> list[list[bytes]]:
    """What a hybrid search finds for each query; of one source, where it names one."""
    objects, segments = candidate.objects, candidate.manifest.segments
    hits: list[list[bytes]] = [[] for _ in golden]
    for source in {one.source for one in golden}:
        places = [place for place, one in enumerate(golden) if one.source == source]
        depth = max(_DEPTH, *(2 * golden[place].k for place in places))
        allowed = None if source is None else _source_texts(candidate, moved, source)
        near = nearest_texts(objects, segments, queries[places], depth, allowed=allowed)
        asked = [golden[place].query for place in places]
        worded = worded_texts(objects, candidate.manifest, asked, depth, allowed=allowed)
        for place, orders in zip(places, zip(near, worded, strict=True), strict=True):
            hits[place] = _fused(orders)
    return hits


def _fused(orders: Sequence[Sequence[bytes]]) -> list[bytes]:
    """One order from both, as readers get it: what scores alike stands as it does by meaning."""
    scores = fused(orders)
    return sorted(scores, key=lambda text: -scores[text])


def _source_texts(candidate: Candidate, moved: _Moved, source: str) -> np.ndarray:
    """The texts that live documents of a source hold: void[32] (n,), sorted."""
    now = moved.get(source, {})
    contents = {d.content_hash for k, d in candidate.live.get(source, {}).items() if k not in now}
    contents |= {content for content in now.values() if content is not None}
    rows = among(candidate.pairs, "content_hash", pa.array(sorted(contents), _HASH))
    return ordered(hash_array(rows["text_hash"].unique().to_pylist()))


# --- asking ---------------------------------------------------------------------------------------


def _encoded(
    candidate: Candidate, golden: Sequence[str], openings: Sequence[_Opening]
) -> np.ndarray:
    """The vectors of all questions, the golden ones first: float32 (questions, dim).

    Where nothing had to be embedded, no model is opened for the sake of what changed: then a new
    text asks with its own vector.
    """
    encoder = candidate.encoding.encoder
    own: list[np.ndarray] = []
    texts = [*golden, *(one.query for one in openings)]
    if not candidate.embedded:
        segments, wanted = candidate.manifest.segments, [one.text for one in openings]
        vectors = text_vectors(candidate.objects, segments, wanted)
        nothing = np.zeros(encoder.dim, dtype=np.float32)
        own, texts = [vectors.get(text, nothing) for text in wanted], list(golden)
    asked = np.empty((0, encoder.dim), dtype=np.float32)
    if texts:
        if encoder.query_prompt == encoder.document_prompt:
            asked = candidate.encoding.embedder().encode(texts)
        else:
            asked = open_query_encoder(encoder, candidate.objects).encode(texts)
    return np.concatenate([asked, np.array(own, dtype=np.float32).reshape(-1, encoder.dim)])


def _graph_gate(
    candidate: Candidate, asked: np.ndarray, gates: GatesConfig, bar: float
) -> tuple[Gate, ...]:
    """How well the graphs that the parent does not have find what is nearest."""
    parent = candidate.parent
    known = {segment.graph for segment in parent.segments} if parent else set()
    fresh = [s for s in candidate.manifest.segments if s.graph and s.graph not in known]
    if not fresh:
        return ()
    found = [graph_recall(candidate.objects, segment, asked) for segment in fresh]
    worst, queries = min(found)
    gate = quality.graph_recall(
        worst, bar=bar, severity=gates.graph_severity, graphs=len(fresh), queries=queries
    )
    return (gate,)
