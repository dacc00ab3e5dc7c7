"""What differs between an extract and what the store holds: decided here, written elsewhere.

Everything is a function from values to values: no clock, no disk, no randomness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from json.encoder import encode_basestring_ascii as _quoted

import pyarrow as pa

from headwater.storage.tables import CLOSURES, VERSIONS, version_id


@dataclass(frozen=True, slots=True)
class LiveDocument:
    """The little that change detection knows of a live document; never its text."""

    version_id: str
    content_hash: bytes
    metadata_hash: bytes
    fingerprint: str | None
    changed_at: datetime


@dataclass(frozen=True)
class Incoming:
    """A validated record on its way in.

    Attributes:
        text: None once its content is known to be stored.
    """

    key: str
    text: str | None
    title: str | None
    url: str | None
    metadata: str
    labels: tuple[str, ...]
    source_ts: datetime | None
    fingerprint: str | None
    content_hash: bytes
    metadata_hash: bytes

    def same_as(self, live: LiveDocument | None) -> bool:
        """Whether the store already holds exactly this."""
        return (
            live is not None
            and self.content_hash == live.content_hash
            and self.metadata_hash == live.metadata_hash
            and self.fingerprint == live.fingerprint
        )


@dataclass(frozen=True)
class Changes:
    """What one extract changes at one source.

    Attributes:
        added: records under keys that were not live.
        changed: records whose content differs.
        touched: records whose metadata, labels or fingerprint alone differ: nothing is embedded.
        renamed: records under a new key whose content a vanished key held, with that key.
        removed: keys that are gone, renames taken out.
    """

    source: str
    added: tuple[Incoming, ...] = ()
    changed: tuple[Incoming, ...] = ()
    touched: tuple[Incoming, ...] = ()
    renamed: tuple[tuple[Incoming, str], ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.touched or self.renamed or self.removed)

    def incoming(self) -> list[Incoming]:
        """Every record that begins a version."""
        return [*self.added, *self.changed, *self.touched, *(record for record, _ in self.renamed)]

    def keep_removed(self) -> Changes:
        """The same changes with the deletions withheld."""
        return replace(self, removed=())


def content_hash(text: str) -> bytes:
    """The SHA-256 of the text's UTF-8: 32 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def content_hashes(texts: pa.Array) -> list[bytes]:
    """`content_hash` of each of these strings, none of them null."""
    sha256 = hashlib.sha256
    return [sha256(text).digest() for text in texts.cast(pa.binary()).to_pylist()]


def metadata_hash(
    title: str | None, url: str | None, metadata: str, labels: Iterable[str]
) -> bytes:
    """The SHA-256 over everything but the text and the source's time: 32 bytes.

    The time is left out on purpose: a timestamp that moves alone is no change.
    """
    return hashlib.sha256(_canonical(title, url, metadata, _label_list(labels))).digest()


def metadata_hashes(
    titles: Iterable[str | None],
    urls: Iterable[str | None],
    metadata: Iterable[str],
    labels: Sequence[tuple[str, ...]],
) -> list[bytes]:
    """`metadata_hash` of each record, given as columns of the same length."""
    sha256 = hashlib.sha256
    lists = {one: _label_list(one) for one in set(labels)}
    fields = zip(titles, urls, metadata, map(lists.__getitem__, labels), strict=True)
    return [sha256(_canonical(*values)).digest() for values in fields]


def _canonical(title: str | None, url: str | None, metadata: str, label_list: str) -> bytes:
    """What `json.dumps([title, url, metadata, labels])` gives, in a fifth of the time.

    Its hashes are stored, so this must never give anything else.
    """
    return (
        f"[{'null' if title is None else _quoted(title)}, "
        f"{'null' if url is None else _quoted(url)}, {_quoted(metadata)}, {label_list}]"
    ).encode()


def _label_list(labels: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, sorted(labels)))}]"


def plan_changes(
    source: str,
    live: Mapping[str, LiveDocument],
    records: Iterable[Incoming],
    *,
    missing: Iterable[str],
) -> Changes:
    """Sort records into added, changed, touched and renamed; net renames out of what is missing.

    Args:
        source: the source's name.
        live: key -> what the store holds.
        records: what came in, one per key; those equal to the store's may be among them.
        missing: live keys that a complete extract did not list, or that the source says are gone.
    """
    added: list[Incoming] = []
    changed: list[Incoming] = []
    touched: list[Incoming] = []
    for record in sorted(records, key=lambda r: r.key):
        known = live.get(record.key)
        if known is None:
            added.append(record)
        elif record.content_hash != known.content_hash:
            changed.append(record)
        elif not record.same_as(known):
            touched.append(record)
    vanished: dict[bytes, list[str]] = {}
    for key in sorted(missing, reverse=True):
        vanished.setdefault(live[key].content_hash, []).append(key)
    renamed: list[tuple[Incoming, str]] = []
    new: list[Incoming] = []
    for record in added:
        if keys := vanished.get(record.content_hash):
            renamed.append((record, keys.pop()))
        else:
            new.append(record)
    removed = sorted(key for keys in vanished.values() for key in keys)
    return Changes(
        source, tuple(new), tuple(changed), tuple(touched), tuple(renamed), tuple(removed)
    )


def version_rows(
    changes: Changes, live: Mapping[str, LiveDocument], *, seq: int, observed_at: datetime
) -> tuple[pa.Table, pa.Table]:
    """The rows of `VERSIONS` and `CLOSURES` that `changes` appends, sorted by key."""
    versions: list[dict[str, object]] = []
    for record in changes.incoming():
        versions.append(_version(changes.source, record, live.get(record.key), seq, observed_at))
    origin = {record.key: old for record, old in changes.renamed}
    for row in versions:
        old = origin.get(str(row["key"]))
        if old is not None:
            row["renamed_from"] = old
            row["changed_at"] = live[old].changed_at
    closed = [(r.key, "changed") for r in (*changes.changed, *changes.touched)]
    closed += [(old, "renamed") for _, old in changes.renamed]
    closed += [(key, "removed") for key in changes.removed]
    closures = [
        {
            "version_id": live[key].version_id,
            "source": changes.source,
            "key": key,
            "op": op,
            "known_at": observed_at,
            "seq": seq,
        }
        for key, op in sorted(closed)
    ]
    versions.sort(key=lambda row: str(row["key"]))
    return (
        pa.Table.from_pylist(versions, schema=VERSIONS),
        pa.Table.from_pylist(closures, schema=CLOSURES),
    )


def _version(
    source: str, record: Incoming, known: LiveDocument | None, seq: int, observed_at: datetime
) -> dict[str, object]:
    same_content = known is not None and known.content_hash == record.content_hash
    return {
        "version_id": version_id(
            source, record.key, record.content_hash, record.metadata_hash, seq
        ),
        "source": source,
        "key": record.key,
        "title": record.title,
        "url": record.url,
        "metadata": record.metadata,
        "labels": list(record.labels),
        "content_hash": record.content_hash,
        "metadata_hash": record.metadata_hash,
        "fingerprint": record.fingerprint,
        "source_ts": record.source_ts,
        "known_at": observed_at,
        "changed_at": known.changed_at
        if known is not None and same_content
        else record.source_ts or observed_at,
        "seq": seq,
        "renamed_from": None,
    }
