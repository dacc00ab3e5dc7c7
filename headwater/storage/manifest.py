"""Manifests: the frozen value that names every object of a snapshot, and its one JSON form."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from headwater.errors import FormatError, StoreError
from headwater.storage.objects import ObjectEntry

FORMAT = 2
"""2 since segments have an index of words. Every earlier format is read."""


@dataclass(frozen=True)
class Segment:
    """An immutable piece of the index.

    Attributes:
        vectors: Arrow IPC file: `text_hash` binary(32), `vector` float32[dim], sorted by hash.
        graph: the HNSW graph over the same rows, or None where the exact scan is faster.
        ef: calibrated search width of the graph; 0 without one.
        tombstones: little-endian uint32 row numbers that are no longer live; None when all are.
        lexical: the index of words over the same rows, file by file; empty where there is none.
    """

    vectors: ObjectEntry
    graph: ObjectEntry | None = None
    ef: int = 0
    tombstones: ObjectEntry | None = None
    lexical: tuple[ObjectEntry, ...] = ()

    def objects(self) -> list[ObjectEntry]:
        """Every object it is made of."""
        parts = (self.vectors, self.graph, self.tombstones, *self.lexical)
        return [entry for entry in parts if entry is not None]

    @property
    def rows(self) -> int:
        """Rows, dead ones included."""
        return self.vectors.rows

    @property
    def dead(self) -> int:
        """Rows that are tombstoned in this snapshot."""
        return self.tombstones.rows if self.tombstones else 0


@dataclass(frozen=True)
class Encoder:
    """The embedding space of a snapshot and the query encoder it carries.

    Attributes:
        fingerprint: of the space: weights, tokenizer, length, pooling, prompts, normalisation.
        model: the name it was resolved from.
        dim: numbers in a vector.
        max_tokens: longest text in tokens, special tokens not counted.
        backend: what reads `files`: a name in the registry of query encoders.
        files: role -> object: `graph`, `weights`, `tokenizer`, `canary`.
        query_prompt, document_prompt: put before a query, before a chunk.
        pooling, normalised: how the model makes one vector of many.
    """

    fingerprint: str
    model: str
    dim: int
    max_tokens: int
    backend: str
    files: dict[str, ObjectEntry] = field(default_factory=dict)
    query_prompt: str = ""
    document_prompt: str = ""
    pooling: str = "mean"
    normalised: bool = True


@dataclass(frozen=True)
class SourceState:
    """What a snapshot remembers of a source.

    Attributes:
        kind: as configured.
        documents: live ones.
        watermark: the source's own cursor; moves only with a publication.
        suite_sha256: the expectations its records passed.
        hold: why refreshes leave it alone; empty when they do not.
        labels, licence: as configured.
    """

    kind: str
    documents: int = 0
    watermark: str | None = None
    suite_sha256: str = ""
    hold: str = ""
    labels: tuple[str, ...] = ()
    licence: str | None = None


@dataclass(frozen=True)
class Gate:
    """The result of one check on the candidate."""

    name: str
    passed: bool
    severity: str = "critical"
    detail: str = ""
    source: str = ""


@dataclass(frozen=True)
class Manifest:
    """One immutable version of the whole state. Every field is part of its name.

    Attributes:
        seq: rises by one with each publication, rollbacks included.
        parent: the name of the snapshot before; empty for the first.
        parent_sha256: the hash of the parent's file: the manifests form a chain.
        observed_at: knowledge time, RFC 3339 in UTC; never runs backwards along the chain.
        created_at: wall-clock time of writing.
        cause: `refresh`, `backfill`, `rollback`, `erasure`, `repair`.
        restores: the snapshot a rollback went back to.
        lexical: how the words of its segments are cut; empty where they have none.
        versions, closures, contents, chunks: history, oldest first; all of it, not the last step.
        quarantine: the records held back, or None.
        counts: documents, chunks, texts that are live; quarantined.
    """

    seq: int
    parent: str
    parent_sha256: str
    observed_at: str
    created_at: str
    run_id: str
    cause: str
    headwater: str
    config_sha256: str
    chunker: str
    encoder: Encoder | None = None
    sources: dict[str, SourceState] = field(default_factory=dict)
    versions: tuple[ObjectEntry, ...] = ()
    closures: tuple[ObjectEntry, ...] = ()
    contents: tuple[ObjectEntry, ...] = ()
    chunks: tuple[ObjectEntry, ...] = ()
    segments: tuple[Segment, ...] = ()
    quarantine: ObjectEntry | None = None
    counts: dict[str, int] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    restores: str = ""
    lexical: str = ""
    format: int = FORMAT

    _sha256: ClassVar[str] = ""
    """Of the file it was read from; no field, so that a manifest made from another has none."""

    def objects(self) -> list[ObjectEntry]:
        """Every object this snapshot needs."""
        found = [*self.versions, *self.closures, *self.contents, *self.chunks]
        for segment in self.segments:
            found += segment.objects()
        if self.encoder:
            found += self.encoder.files.values()
        if self.quarantine:
            found.append(self.quarantine)
        return found

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, so that equal manifests have equal names."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1) + "\n").encode()

    def name(self) -> str:
        """`<seq>-<first 16 hex digits of the SHA-256 of the bytes>`."""
        return f"{self.seq:08d}-{self.sha256()[:16]}"

    def sha256(self) -> str:
        """Of the file it was read from, also where an erasure has since rewritten what it names."""
        return self._sha256 or hashlib.sha256(self.to_json()).hexdigest()

    def as_read(self, sha256: str) -> Manifest:
        """The same manifest, read from a file that had this hash when it was published."""
        same = replace(self)
        object.__setattr__(same, "_sha256", sha256)
        return same

    @property
    def unindexed(self) -> bool:
        """Whether it let go of its index: it counts texts, and names no segment to find them in."""
        return not self.segments and self.encoder is not None and self.counts.get("texts", 0) > 0

    def without_index(self) -> Manifest:
        """The same snapshot, to be searched exactly, with vectors from the embedding cache."""
        return replace(self, segments=()).as_read(self.sha256()) if self.segments else self

    @property
    def time(self) -> datetime:
        """`observed_at` as an aware datetime."""
        return parse_time(self.observed_at)

    def failed_gates(self) -> tuple[Gate, ...]:
        """The critical checks that this candidate did not pass."""
        return tuple(g for g in self.gates if not g.passed and g.severity == "critical")


def from_json(data: bytes, *, name: str, now: tuple[str, str] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        data: the file's bytes.
        name: the snapshot's name; its second half must be the hash of `data`.
        now: the hash it was published with and the one it has now, where an erasure blanked
            something in it.

    Raises:
        StoreError: the bytes are not those the name promises, or are no manifest.
        FormatError: a newer headwater wrote it.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    if now is not None and sha256 == now[1]:
        sha256 = now[0]
    if sha256[:16] != name.partition("-")[2]:
        raise StoreError(
            "A manifest is damaged",
            obj=f"snapshots/{name}.json",
            todo="run 'headwater verify'; 'headwater rollback' to a snapshot that is whole",
        )
    raw: dict[str, Any] = json.loads(data)
    if raw.get("format", 0) > FORMAT:
        raise FormatError(
            f"The snapshot has format {raw['format']}; this headwater reads up to {FORMAT}",
            obj=name,
            todo="upgrade headwater",
        )
    manifest = Manifest(
        **{
            **raw,
            "encoder": _encoder(raw["encoder"]) if raw["encoder"] else None,
            "sources": {k: _source(v) for k, v in raw["sources"].items()},
            "segments": tuple(segment_of(v) for v in raw["segments"]),
            "gates": tuple(Gate(**v) for v in raw["gates"]),
            "quarantine": _entry(raw["quarantine"]),
            **{
                kind: tuple(ObjectEntry(**v) for v in raw[kind])
                for kind in ("versions", "closures", "contents", "chunks")
            },
        }
    )
    return manifest.as_read(sha256)


def child_of(parent: Manifest | None, **changes: Any) -> Manifest:
    """The next manifest after `parent`: its objects carried over, `changes` applied."""
    if parent is None:
        return Manifest(**{"seq": 1, "parent": "", "parent_sha256": "", **changes})
    return replace(
        parent,
        **{
            "seq": parent.seq + 1,
            "parent": parent.name(),
            "parent_sha256": parent.sha256(),
            "gates": (),
            "restores": "",
            "format": FORMAT,
            **changes,
        },
    )


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with microseconds: sorts as text."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Read RFC 3339 or a plain date; a time without a zone is UTC.

    Raises:
        ValueError: it is neither.
    """
    value = datetime.fromisoformat(text)
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is before or after all time") from None


def _entry(raw: dict[str, Any] | None) -> ObjectEntry | None:
    return ObjectEntry(**raw) if raw else None


def segment_of(raw: dict[str, Any]) -> Segment:
    """A segment from its JSON form; before format 2 it has no index of words."""
    return Segment(
        ObjectEntry(**raw["vectors"]),
        _entry(raw["graph"]),
        raw["ef"],
        _entry(raw["tombstones"]),
        tuple(ObjectEntry(**entry) for entry in raw.get("lexical", ())),
    )


def _encoder(raw: dict[str, Any]) -> Encoder:
    return Encoder(**{**raw, "files": {k: ObjectEntry(**v) for k, v in raw["files"].items()}})


def _source(raw: dict[str, Any]) -> SourceState:
    return SourceState(**{**raw, "labels": tuple(raw["labels"])})
