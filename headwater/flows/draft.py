"""From decided changes to a candidate snapshot: the step that writes objects, and only objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from headwater import __version__
from headwater.config import KnowledgeBase
from headwater.flows.encoding import Encoding
from headwater.flows.texts import Cutter, cut_contents, embed_missing, known_contents
from headwater.retrieval.index import index_problems, update_index
from headwater.storage.changes import Changes, LiveDocument, version_rows
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.history import live_texts
from headwater.storage.manifest import (
    Gate,
    Manifest,
    SourceState,
    child_of,
    format_time,
)
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, VERSIONS, open_tables, query
from headwater.validation.contracts import Suite
from headwater.validation.gates import critical_tables
from headwater.validation.tables import check_table
from headwater.validation.verdicts import CheckResult

_PROJECTION = """
select l.key, l.title, l.url, l.source_ts, lower(hex(l.content_hash)) as content_hash,
       c.chars as text_length, l.metadata
from live l join (select content_hash, chars from contents) c using (content_hash)
where l.source = ? order by l.key
"""


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


def build_draft(
    kb: KnowledgeBase,
    objects: ObjectStore,
    step: Step,
    *,
    encoding: Encoding,
    progress: Callable[[str, int, int], None],
) -> Draft:
    """Write the objects of the next snapshot and return its manifest; CURRENT does not move.

    Raises:
        StorageUnavailableError: the disk is full or read-only; the vectors made so far are kept.
        ModelError: the model is not the one the vectors were made with.
    """
    parent = step.parent
    draft = _with_history(objects, step, kb, encoding)
    draft = _with_texts(objects, draft, step, encoding.cutter)
    checks = _table_checks(objects, draft, step)
    tables = [critical_tables(found, source=name) for name, found in checks.items()]
    live = live_texts(objects, draft)
    cache = EmbeddingCache(objects, space=encoding.encoder.fingerprint, dim=encoding.encoder.dim)
    embedded = embed_missing(
        objects,
        draft,
        live,
        cache=cache,
        embedder=encoding.embedder,
        progress=lambda done, total: progress("embed", done, total),
    )
    same_space = (
        parent is not None
        and parent.encoder is not None
        and parent.encoder.fingerprint == encoding.encoder.fingerprint
    )
    segments = update_index(
        objects,
        parent=parent.segments if parent and same_space else (),
        live=live,
        cache=cache,
        config=kb.config.index,
    )
    draft = replace(draft, encoder=encoding.encoder, segments=segments)
    problems = index_problems(objects, draft, live)
    complete = Gate(
        "index-complete",
        not problems,
        detail="; ".join(problems[:5]) or f"{len(live)} live texts, each in the index once",
    )
    counts = _counts(objects, draft, texts=len(live), quarantined=step.quarantine.num_rows)
    sources = {
        name: replace(state, documents=counts.pop(f"source:{name}", 0))
        for name, state in draft.sources.items()
    }
    manifest = replace(
        draft, counts=counts, sources=sources, gates=(*step.gates, *tables, complete)
    )
    return Draft(manifest, embedded, checks)


def texts_to_embed(objects: ObjectStore, step: Step, encoding: Encoding) -> int:
    """How many distinct texts `build_draft` would have to embed; writes nothing."""
    parent, encoder = step.parent, encoding.encoder
    cache = EmbeddingCache(objects, space=encoder.fingerprint, dim=encoder.dim)
    _, chunks = cut_contents(_new_contents(step, known_contents(objects, parent)), encoding.cutter)
    hashes = set(chunks["text_hash"].to_pylist())
    if parent and parent.chunker != encoding.cutter.name:
        _, chunks = cut_contents(_live_contents(objects, step), encoding.cutter)
        hashes.update(chunks["text_hash"].to_pylist())
    return len(cache.missing(sorted(hashes)))


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


def _new_contents(step: Step, known: set[bytes]) -> dict[bytes, str]:
    return {
        record.content_hash: record.text
        for changes in step.changes
        for record in changes.incoming()
        if record.text is not None and record.content_hash not in known
    }


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
    )


def _with_texts(objects: ObjectStore, draft: Manifest, step: Step, cutter: Cutter) -> Manifest:
    parent = step.parent
    known = known_contents(objects, parent)
    contents, chunks = cut_contents(_new_contents(step, known), cutter)
    draft = replace(
        draft,
        contents=(*draft.contents, *put_rows(objects, [contents], CONTENTS, "contents.parquet")),
        chunks=(*draft.chunks, *put_rows(objects, [chunks], CHUNKS, "chunks.parquet")),
    )
    if parent is None or parent.chunker == cutter.name:
        return draft
    # Another chunker: every content of the history is cut again, so that its chunks are of one kind.
    with open_tables(objects, draft) as connection:
        table = query(connection, "select content_hash, text from contents")
    texts = dict(zip(table["content_hash"].to_pylist(), table["text"].to_pylist(), strict=True))
    _, chunks = cut_contents(texts, cutter)
    return replace(draft, chunks=tuple(put_rows(objects, [chunks], CHUNKS, "chunks.parquet")))


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
    # A hit reads the one row group that holds its text; small groups keep that read small.
    return [objects.put_table(table, kind, row_group_size=1024)]


def _counts(
    objects: ObjectStore, manifest: Manifest, *, texts: int, quarantined: int
) -> dict[str, int]:
    with open_tables(objects, manifest) as connection:
        sources = connection.execute("select source, count(*) from live group by 1").fetchall()
        chunks = connection.execute(
            "select count(*) from live join chunks using (content_hash)"
        ).fetchone()
    return {
        "documents": sum(n for _, n in sources),
        "chunks": int(chunks[0]) if chunks else 0,
        "texts": texts,
        "quarantined": quarantined,
        **{f"source:{name}": int(n) for name, n in sources},
    }
