"""What was erased, and what stands in its place: `redactions/<number>-<sha16>.json`, never changed.

A manifest is never rewritten when a document is erased. Whoever reads one that is older than the
erasure gets the rewritten objects in place of those it names. A record holds no key and no text,
only keyed hashes of them, by which a refresh keeps out what was erased and anybody with the store
can look for it again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from headwater.errors import FormatError, StoreError
from headwater.storage import files
from headwater.storage.manifest import Manifest, Segment, segment_of
from headwater.storage.objects import ObjectEntry

FOLDER = "redactions"
_FORMAT = 1
_KEY = "key"
_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.json")

BLANK = "(erased)"
"""Stands for a sentence that mentioned what was erased."""

SegmentName = tuple[str, ...]
"""The names of a segment's vectors, graph and tombstones, empty where it has none; its words' last."""


@dataclass(frozen=True)
class Blanked:
    """A manifest whose gates mentioned what was erased.

    Attributes:
        was, now: SHA-256 of its file as it was published, and without these details.
        gates: positions of the gates whose detail is blank.
    """

    was: str
    now: str
    gates: tuple[int, ...]


@dataclass(frozen=True)
class Redaction:
    """One erasure, or the lifting of one.

    Attributes:
        number: 1 for the first, rising by one.
        at: wall-clock time, RFC 3339 in UTC.
        actor: `user@host`.
        run_id: of the run.
        reason: a person's words.
        parent: the snapshot that was current.
        snapshot: the one published with it, and its `seq`; empty and 0 where nothing was erased.
        objects: name of an object -> what stands in its place; None where nothing of it is left or
            needed.
        segments: what became of each segment of the index; None where no row is left.
        indexes: snapshot -> its segments, where they differ from what `segments` makes of them: a
            text stays for another document, and that snapshot has none that holds it.
        manifests: snapshot -> what was blanked in its file.
        subjects: keyed hashes of source and key.
        contents: keyed hashes of the content hashes that nobody else held.
        texts: the same of the text hashes.
        readmitted: keyed hashes of subjects that may come back.
        removed: what was erased -> how many.
        kept: what another document still holds -> how many.
        datasets: releases that were revoked, `name/version`.
    """

    number: int
    at: str
    actor: str
    run_id: str
    reason: str
    parent: str = ""
    snapshot: str = ""
    seq: int = 0
    objects: Mapping[str, ObjectEntry | None] = field(default_factory=dict)
    segments: Mapping[SegmentName, Segment | None] = field(default_factory=dict)
    indexes: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    manifests: Mapping[str, Blanked] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    readmitted: tuple[str, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()

    def covers(self, manifest: Manifest) -> bool:
        """Whether a manifest is older than this erasure."""
        return 0 < manifest.seq <= self.seq and manifest.name() != self.snapshot

    def resolve(self, manifest: Manifest) -> Manifest:
        """The manifest with the rewritten objects in place of those it names."""
        if not self.covers(manifest):
            return manifest
        resolved = (self.segments.get(segment_name(s), s) for s in manifest.segments)
        segments = tuple(segment for segment in resolved if segment is not None)
        quarantine = self._entries([manifest.quarantine] if manifest.quarantine else [])
        return replace(
            manifest,
            versions=self._entries(manifest.versions),
            closures=self._entries(manifest.closures),
            contents=self._entries(manifest.contents),
            chunks=self._entries(manifest.chunks),
            segments=self.indexes.get(manifest.name(), segments),
            quarantine=quarantine[0] if quarantine else None,
        ).as_read(manifest.sha256())

    def _entries(self, entries: Iterable[ObjectEntry]) -> tuple[ObjectEntry, ...]:
        found = (self.objects.get(entry.name, entry) for entry in entries)
        return tuple(entry for entry in found if entry is not None)

    def to_json(self) -> bytes:
        """The canonical bytes."""
        raw = asdict(replace(self, segments={})) | {
            "format": _FORMAT,
            "segments": [
                {"was": list(name), "is": asdict(now) if now else None}
                for name, now in sorted(self.segments.items())
            ],
        }
        return (json.dumps(raw, sort_keys=True, indent=1) + "\n").encode()

    def name(self) -> str:
        """`<number>-<first 16 hex digits of the SHA-256 of the bytes>`."""
        return f"{self.number:08d}-{hashlib.sha256(self.to_json()).hexdigest()[:16]}"


def segment_name(segment: Segment) -> SegmentName:
    """What tells a segment of one manifest from others: the names of its objects."""
    graph, dead = segment.graph, segment.tombstones
    words = (entry.name for entry in segment.lexical)
    return segment.vectors.name, graph.name if graph else "", dead.name if dead else "", *words


class Redactions:
    """All erasures of a store, oldest first.

    Attributes:
        records: one by one.
        blanked: snapshot -> what its file is now, where one of them blanked something in it.
    """

    def __init__(self, records: Sequence[Redaction] = (), secret: bytes = b"") -> None:
        self.records = tuple(records)
        self._secret = secret
        self.blanked: dict[str, Blanked] = {}
        for record in records:
            self.blanked |= record.manifests
        self._subjects: set[str] = set()
        self._readmitted: set[str] = set()
        for record in records:
            self._subjects = (self._subjects | {*record.subjects}) - {*record.readmitted}
            self._readmitted = (self._readmitted | {*record.readmitted}) - {*record.subjects}
        self._contents = {content for record in records for content in record.contents}

    def __bool__(self) -> bool:
        return bool(self.records)

    @property
    def next_number(self) -> int:
        """The number of the next record."""
        return self.records[-1].number + 1 if self.records else 1

    @property
    def suppressed(self) -> frozenset[str]:
        """Keyed hashes of the subjects that are kept out."""
        return frozenset(self._subjects)

    def keyed(self, data: bytes) -> str:
        """The keyed hash of this store."""
        return keyed(self._secret, data)

    def resolve(self, manifest: Manifest) -> Manifest:
        """What a manifest names today."""
        for record in self.records:
            manifest = record.resolve(manifest)
        return manifest

    def keeps_out(self, source: str, key: str, content_hash: bytes | None = None) -> bool:
        """Whether a record was erased: under this key, or a text that only erased ones held."""
        if not self._subjects and not self._contents:
            return False
        name = keyed(self._secret, subject_bytes(source, key))
        if name in self._subjects:
            return True
        if content_hash is None or name in self._readmitted:
            return False
        return keyed(self._secret, content_hash) in self._contents


def read_redactions(root: Path) -> Redactions:
    """The erasures of the store at `root`.

    Raises:
        StoreError: a record is damaged or missing; nobody knows what it erased.
        FormatError: a newer headwater wrote one.
    """
    names = redaction_names(root)
    if not names:
        return Redactions()
    records = [_read(root / FOLDER / name) for name in names]
    for place, record in enumerate(records, 1):
        if record.number != place:
            raise _damaged(root / FOLDER, f"number {place} is missing")
    return Redactions(records, read_secret(root))


def redaction_names(root: Path) -> tuple[str, ...]:
    """The files of the records, oldest first: cheap to ask, to see whether there is a new one."""
    try:
        with os.scandir(root / FOLDER) as found:
            return tuple(sorted(entry.name for entry in found if _NAME.fullmatch(entry.name)))
    except FileNotFoundError:
        return ()


def write_redaction(root: Path, record: Redaction) -> None:
    """Add a record: from this rename on, what it erased is gone for every reader."""
    folder = root / FOLDER
    files.make_folder(folder)
    files.replace(folder / f"{record.name()}.json", record.to_json(), tmp=root / "tmp")


def read_secret(root: Path) -> bytes:
    """The key of the keyed hashes.

    Raises:
        StoreError: it is missing.
    """
    try:
        secret = bytes.fromhex((root / FOLDER / _KEY).read_text("ascii").strip())
    except (OSError, ValueError):
        secret = b""
    if len(secret) != 32:
        raise _damaged(root / FOLDER / _KEY, "the key of the keyed hashes is missing")
    return secret


def make_secret(root: Path) -> bytes:
    """The key of the keyed hashes; made with the first erasure."""
    path = root / FOLDER / _KEY
    if not path.exists():
        files.make_folder(path.parent)
        files.replace(path, os.urandom(32).hex().encode() + b"\n", tmp=root / "tmp")
    return read_secret(root)


def subject_bytes(source: str, key: str) -> bytes:
    """What is hashed of a document's name."""
    return f"{source}\0{key}".encode("utf-8", "surrogatepass")


def keyed(secret: bytes, data: bytes) -> str:
    """HMAC-SHA-256, hex."""
    return hmac.digest(secret, data, "sha256").hex()


def erased_by(root: Path, name: str) -> int | None:
    """The number of the erasure that took the object `name` away, if one did."""
    for record in read_redactions(root).records:
        if name in record.objects or any(name in names for names in record.segments):
            return record.number
    return None


def _read(path: Path) -> Redaction:
    data = files.read(path)
    found = _NAME.fullmatch(path.name)
    if found is None or hashlib.sha256(data).hexdigest()[:16] != found[2]:
        raise _damaged(path, "its bytes are not those its name promises")
    raw: dict[str, Any] = json.loads(data)
    if raw.pop("format") > _FORMAT:
        raise FormatError(
            "A newer headwater wrote this record of an erasure",
            obj=str(path),
            todo="upgrade headwater",
        )
    return Redaction(
        **{
            **raw,
            "objects": {n: ObjectEntry(**e) if e else None for n, e in raw["objects"].items()},
            "segments": {
                tuple(s["was"]): segment_of(s["is"]) if s["is"] else None for s in raw["segments"]
            },
            "indexes": {
                n: tuple(segment_of(segment) for segment in found)
                for n, found in raw["indexes"].items()
            },
            "manifests": {
                n: Blanked(b["was"], b["now"], tuple(b["gates"]))
                for n, b in raw["manifests"].items()
            },
            **{
                name: tuple(raw[name])
                for name in ("subjects", "contents", "texts", "readmitted", "datasets")
            },
        }
    )


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The record of an erasure is damaged ({why})",
        obj=str(path),
        todo="restore the folder redactions/ from a backup of the store; nothing is opened without",
    )
