"""One document of a snapshot, with all that is known about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.errors import NotFoundError
from headwater.retrieval.document_columns import metadata_of
from headwater.storage.lookup import rows_with
from headwater.storage.manifest import Manifest, format_time, parse_time
from headwater.storage.objects import ObjectStore
from headwater.storage.tables import CLOSURES, CONTENTS, VERSIONS

_CLOSED = pa.schema([CLOSURES.field("version_id")])


@dataclass(frozen=True)
class Document:
    """A live document of a snapshot; times and labels as in `headwater.retrieval.Hit`."""

    source: str
    key: str
    title: str | None
    url: str | None
    text: str
    metadata: dict[str, Any]
    labels: tuple[str, ...]
    version_id: str
    content_hash: str
    known_at: datetime
    changed_at: datetime
    verified_at: datetime
    source_ts: datetime | None
    held_back: bool
    snapshot: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; times are RFC 3339 in UTC."""
        plain = asdict(self)
        return {k: format_time(v) if isinstance(v, datetime) else v for k, v in plain.items()}


def read_document(
    objects: ObjectStore,
    manifest: Manifest,
    source: str,
    key: str,
    *,
    last_verified: datetime | None,
) -> Document:
    """Read one live document, without DuckDB.

    Args:
        objects: of the store.
        manifest: the snapshot.
        source: the document's.
        key: the document's.
        last_verified: when its source was last confirmed; None for never.

    Raises:
        NotFoundError: the snapshot holds no such document.
        CorruptObjectError: an object is missing or damaged.
    """
    row = _live_row(objects, manifest, source, key)
    if row is None:
        raise no_such_document(manifest, source, key)
    digest: bytes = row["content_hash"]
    contents = rows_with(
        objects, manifest.contents, "content_hash", pa.array([digest], pa.binary(32)),
        schema=CONTENTS,
    )  # fmt: skip
    held = _held_since(objects, manifest, source, key)
    verified = max(filter(None, (last_verified, row["known_at"])))
    return Document(
        source=source,
        key=key,
        title=row["title"],
        url=row["url"],
        text=str(contents["text"][0].as_py()),
        metadata=metadata_of(row["metadata"]),
        labels=tuple(row["labels"] or ()),
        version_id=row["version_id"],
        content_hash=digest.hex(),
        known_at=row["known_at"],
        changed_at=row["changed_at"] or row["known_at"],
        verified_at=min(verified, held) if held else verified,
        source_ts=row["source_ts"],
        held_back=held is not None,
        snapshot=manifest.name(),
    )


def no_such_document(manifest: Manifest, source: str, key: str) -> NotFoundError:
    """The error for a document that a snapshot does not hold, or holds for others."""
    return NotFoundError(
        "No such document",
        obj=f"{source}/{key} in {manifest.name()}",
        todo="search, or see /snapshots/{ref}/changes for what became of it",
    )


def _live_row(
    objects: ObjectStore, manifest: Manifest, source: str, key: str
) -> dict[str, Any] | None:
    # Half a surrogate pair, which no name in a store has, cannot be looked for.
    source, key = (name.encode("utf-8", "backslashreplace").decode() for name in (source, key))
    wanted = pa.array([key], pa.string())
    versions = rows_with(objects, manifest.versions, "key", wanted, schema=VERSIONS)
    versions = versions.filter(pc.equal(versions["source"], source))
    ids = versions["version_id"].combine_chunks()
    closed = rows_with(objects, manifest.closures, "version_id", ids, schema=_CLOSED)
    live = versions.filter(
        pc.invert(pc.is_in(versions["version_id"], value_set=closed["version_id"].combine_chunks()))
    )
    rows: list[dict[str, Any]] = live.to_pylist()
    return rows[-1] if rows else None


def _held_since(objects: ObjectStore, manifest: Manifest, source: str, key: str) -> datetime | None:
    """Since when a newer state of the document waits in quarantine; None when none does."""
    if manifest.quarantine is None:
        return None
    table = objects.read_table(manifest.quarantine, ["source", "key", "since"])
    same = pc.and_(pc.equal(table["source"], source), pc.equal(table["key"], key))
    since = [value for value in table.filter(same)["since"].to_pylist() if value is not None]
    return min((parse_time(v) if isinstance(v, str) else v for v in since), default=None)
