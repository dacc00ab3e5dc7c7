"""From decided changes to a candidate snapshot: the step that writes objects, and only objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from headwater import __version__
from headwater.config import KnowledgeBase
from headwater.flows.encoding import Encoding, canary_gates
from headwater.flows.index_build import Work, build_index, same_space
from headwater.flows.quality import Candidate, quality_gates
from headwater.flows.texts import Cutter, cut_contents
from headwater.retrieval.index import unheld
from headwater.retrieval.lexical import analyzer_name
from headwater.storage.changes import Changes, LiveDocument, version_rows
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.lookup import among, chunk_pairs, rows_with
from headwater.storage.manifest import (
    Gate,
    Manifest,
    SourceState,
    child_of,
    format_time,
)
from headwater.storage.merging import merge_history
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import (
    CHUNKS,
    CLOSURES,
    CONTENTS,
    ROW_GROUP,
    VERSIONS,
    open_tables,
    query,
)
from headwater.validation.contracts import Suite
from headwater.validation.gates import critical_tables
from headwater.validation.golden import GoldenQuery
from headwater.validation.tables import check_table
from headwater.validation.verdicts import CheckResult

_PROJECTION = """
select l.key, l.title, l.url, l.source_ts, lower(hex(l.content_hash)) as content_hash,
       c.chars as text_length, l.metadata
from live l join (select content_hash, chars from contents) c using (content_hash)
where l.source = ? order by l.key
"""

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

Rows = tuple[pa.Table, pa.Table]
"""Rows of `CONTENTS` and the rows of `CHUNKS` that hang on them."""


@dataclass(frozen=True)
class Draft:
    """A snapshot in the making.

    Attributes:
        manifest: complete but for being written.
        embedded: distinct texts that had to be embedded for it.
        checks: source -> how its table expectations fared.
    """

    manifest: Manifest
    embedded: int
    checks: Mapping[str, tuple[CheckResult, ...]]


@dataclass(frozen=True)
class Step:
    """Everything a draft is made of.

    Attributes:
        parent: the snapshot it follows, or None for the first.
        changes: per source, deletions already decided.
        live: the parent's documents: source -> key -> document.
        sources: the new state of every source, `documents` not yet counted.
        quarantine: all that is held back, in its final order.
        suites: the expectations of the sources that were pulled.
        gates: results of the checks made so far.
        golden: what the candidate must find.
    """

    parent: Manifest | None
    changes: Sequence[Changes]
    live: Mapping[str, Mapping[str, LiveDocument]]
    sources: Mapping[str, SourceState]
    quarantine: pa.Table
    suites: Mapping[str, Suite]
    gates: tuple[Gate, ...]
    observed_at: datetime
    run_id: str
    cause: str
    golden: tuple[GoldenQuery, ...] = ()


def build_draft(
    kb: KnowledgeBase,
    objects: ObjectStore,
    step: Step,
    *,
    encoding: Encoding,
    progress: Progress,
) -> Draft:
    """Write the objects of the next snapshot and return its manifest; CURRENT does not move.

    Raises:
        StorageUnavailableError: the disk is full or read-only; the vectors made so far are kept.
        ModelError: the model is not the one the vectors were made with.
    """
    # Opened at most once, for the texts and for the questions that the gates ask.
    embedder = cache(encoding.embedder)
    encoding = replace(encoding, embedder=embedder)
    with ThreadPoolExecutor(1) as ahead:
        # The one thing whose cost grows with the store; meanwhile the new texts are cut.
        reading = ahead.submit(chunk_pairs, objects, step.parent.chunks if step.parent else ())
        draft = _with_history(objects, step, kb, encoding)
        incoming = cut_contents(_incoming_texts(step), encoding.cutter)
        known = reading.result()
    draft, pairs = _with_texts(objects, draft, step, incoming, known, encoding.cutter)
    draft = merge_history(objects, draft)
    checks = _table_checks(objects, draft, step)
    tables = [critical_tables(found, source=name) for name, found in checks.items()]
    built = build_index(
        Work(
            objects=objects,
            parent=step.parent,
            draft=draft,
            changes=step.changes,
            live=step.live,
            pairs=pairs,
            encoding=encoding,
            config=kb.config.index,
            progress=lambda done, total: progress("embed", done, total),
        )
    )
    sources = {
        name: replace(state, documents=built.documents.get(name, 0))
        for name, state in draft.sources.items()
    }
    counts = {
        "documents": sum(built.documents.values()),
        "chunks": built.chunks,
        "texts": built.texts,
        "quarantined": step.quarantine.num_rows,
    }
    complete = Gate(
        "index-complete",
        not built.problems,
        detail="; ".join(built.problems[:5]) or f"{built.texts} live texts, each in the index once",
    )
    manifest = replace(
        draft,
        encoder=encoding.encoder,
        segments=built.segments,
        counts=counts,
        sources=sources,
        gates=(*step.gates, *tables, complete),
    )
    if not built.problems:
        candidate = Candidate(
            objects=objects,
            parent=step.parent,
            manifest=manifest,
            changes=step.changes,
            live=step.live,
            pairs=pairs,
            encoding=encoding,
            embedded=built.embedded,
        )
        asked = quality_gates(candidate, golden=step.golden, config=kb.config)
        if embedder.cache_info().currsize:
            asked += canary_gates(objects, encoding.encoder, embedder())
        manifest = replace(manifest, gates=(*manifest.gates, *asked))
    return Draft(manifest, built.embedded, checks)


def texts_to_embed(objects: ObjectStore, step: Step, encoding: Encoding) -> int:
    """How many distinct texts `build_draft` would have to embed; writes nothing."""
    parent, encoder = step.parent, encoding.encoder
    cache = EmbeddingCache(objects, space=encoder.fingerprint, dim=encoder.dim)
    pairs = chunk_pairs(objects, parent.chunks if parent else ())
    incoming = cut_contents(_incoming_texts(step), encoding.cutter)
    _, chunks = _unknown(objects, step, incoming, pairs, encoding.cutter)
    hashes = set(chunks["text_hash"].to_pylist())
    if parent and parent.chunker != encoding.cutter.name:
        _, chunks = cut_contents(_live_contents(objects, step), encoding.cutter)
        hashes.update(chunks["text_hash"].to_pylist())
    return len(cache.missing(unheld(objects, same_space(parent, encoding), hashes)))


def _live_contents(objects: ObjectStore, step: Step) -> dict[bytes, str]:
    """The texts of documents that this step leaves as they are."""
    replaced = {
        (changes.source, key)
        for changes in step.changes
        for key in (*(record.key for record in changes.changed), *changes.removed)
    }
    kept = {
        document.content_hash
        for source, documents in step.live.items()
        for key, document in documents.items()
        if (source, key) not in replaced
    }
    with open_tables(objects, step.parent) as connection:
        table = query(connection, "select content_hash, text from contents")
    pairs = zip(table["content_hash"].to_pylist(), table["text"].to_pylist(), strict=True)
    return {content_hash: text for content_hash, text in pairs if content_hash in kept}


def _incoming_texts(step: Step) -> dict[bytes, str]:
    """Texts that the history may not hold yet; what is only renamed or touched it surely holds."""
    return {
        record.content_hash: record.text
        for changes in step.changes
        for record in (*changes.added, *changes.changed)
        if record.text is not None
    }


def _unknown(
    objects: ObjectStore, step: Step, incoming: Rows, pairs: pa.Table, cutter: Cutter
) -> Rows:
    """Those rows of `CONTENTS` and `CHUNKS` that the history does not hold yet.

    A content that it holds is known by its chunks, whose hashes are needed anyway; only one that
    has none, or whose chunks are about to be cut anew, is looked for among the contents.
    """
    contents, chunks = incoming
    asked = contents["content_hash"].combine_chunks()
    known = among(pairs, "content_hash", asked)["content_hash"].combine_chunks()
    contents, chunks = _without(contents, known), _without(chunks, known)
    parent, unsure = step.parent, contents
    if parent is not None and parent.chunker == cutter.name:
        unsure = _without(contents, chunks["content_hash"].combine_chunks())
    if parent is not None and unsure.num_rows:
        schema = pa.schema([CONTENTS.field("content_hash")])
        asked = unsure["content_hash"].combine_chunks()
        found = rows_with(objects, parent.contents, "content_hash", asked, schema=schema)
        known = found["content_hash"].combine_chunks()
        contents, chunks = _without(contents, known), _without(chunks, known)
    return contents, chunks


def _without(table: pa.Table, contents: pa.Array) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["content_hash"], value_set=contents)))


def _with_history(
    objects: ObjectStore, step: Step, kb: KnowledgeBase, encoding: Encoding
) -> Manifest:
    parent = step.parent
    seq = parent.seq + 1 if parent else 1
    rows = [
        version_rows(c, step.live.get(c.source, {}), seq=seq, observed_at=step.observed_at)
        for c in step.changes
        if c
    ]
    versions = put_rows(objects, [v for v, _ in rows], VERSIONS, "versions.parquet")
    closures = put_rows(objects, [c for _, c in rows], CLOSURES, "closures.parquet")
    quarantine = None
    if step.quarantine.num_rows:
        quarantine = objects.put_table(step.quarantine, "quarantine.parquet")
    return child_of(
        parent,
        observed_at=format_time(step.observed_at),
        created_at=format_time(datetime.now(UTC)),
        run_id=step.run_id,
        cause=step.cause,
        headwater=__version__,
        config_sha256=kb.config_sha256,
        chunker=encoding.cutter.name,
        sources=dict(step.sources),
        versions=(*(parent.versions if parent else ()), *versions),
        closures=(*(parent.closures if parent else ()), *closures),
        quarantine=quarantine,
        lexical=analyzer_name(kb.config.index.language),
    )


def _with_texts(
    objects: ObjectStore,
    draft: Manifest,
    step: Step,
    incoming: Rows,
    known: pa.Table,
    cutter: Cutter,
) -> tuple[Manifest, pa.Table]:
    """The draft with the contents that are new and their chunks, and the hashes of all its chunks.

    Args:
        objects: where to.
        draft: with the history.
        step: what the draft is made of.
        incoming: rows of `CONTENTS` and `CHUNKS` that may be new.
        known: the hashes of the parent's chunks.
        cutter: what cut `incoming`.
    """
    parent = step.parent
    contents, chunks = _unknown(objects, step, incoming, known, cutter)
    draft = replace(
        draft,
        contents=(*draft.contents, *put_rows(objects, [contents], CONTENTS, "contents.parquet")),
        chunks=(*draft.chunks, *put_rows(objects, [chunks], CHUNKS, "chunks.parquet")),
    )
    if parent is None or parent.chunker == cutter.name:
        return draft, pa.concat_tables([known, chunks.select(known.schema.names)])
    # Another chunker: every content of the history is cut again, so that its chunks are of one kind.
    with open_tables(objects, draft) as connection:
        table = query(connection, "select content_hash, text from contents")
    texts = dict(zip(table["content_hash"].to_pylist(), table["text"].to_pylist(), strict=True))
    _, chunks = cut_contents(texts, cutter)
    draft = replace(draft, chunks=tuple(put_rows(objects, [chunks], CHUNKS, "chunks.parquet")))
    return draft, chunks.select(known.schema.names)


def _table_checks(
    objects: ObjectStore, draft: Manifest, step: Step
) -> dict[str, tuple[CheckResult, ...]]:
    """Judge the whole of each source that changed, without its texts."""
    changed = {changes.source for changes in step.changes if changes}
    checks = {}
    for source, suite in step.suites.items():
        if source in changed and suite.table:
            with open_tables(objects, draft) as connection:
                projection = query(connection, _PROJECTION, [source])
            checks[source] = check_table(suite, projection)
    return checks


def put_rows(
    objects: ObjectStore, tables: Sequence[pa.Table], schema: pa.Schema, kind: str
) -> list[ObjectEntry]:
    """Store rows of history as one object; none, when there are no rows."""
    table = pa.concat_tables([schema.empty_table(), *tables])
    if not table.num_rows:
        return []
    return [objects.put_table(table, kind, row_group_size=ROW_GROUP)]
