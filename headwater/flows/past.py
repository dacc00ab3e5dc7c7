"""The little that a decision about changes may ask of what is stored: lengths, and a few records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headwater.storage.lookup import rows_with
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore
from headwater.storage.tables import CONTENTS, VERSIONS

_LENGTHS = pa.schema([CONTENTS.field("content_hash"), CONTENTS.field("chars")])
_TEXTS = pa.schema([CONTENTS.field("content_hash"), CONTENTS.field("text")])
_METADATA = pa.schema([VERSIONS.field("version_id"), VERSIONS.field("metadata")])
_STATES = pa.schema([VERSIONS.field(n) for n in ("version_id", "source_ts", "seq")])


@dataclass(frozen=True)
class Past:
    """What a snapshot knows of documents, read when it is asked for.

    Attributes:
        objects: where it is.
        parent: the snapshot; None when nothing was published yet.
    """

    objects: ObjectStore
    parent: Manifest | None

    def lengths(self, contents: Sequence[bytes]) -> dict[bytes, int]:
        """Content hash -> its length in characters. No text is read."""
        return self._pairs("contents", _LENGTHS, contents)

    def texts(self, contents: Sequence[bytes]) -> dict[bytes, str]:
        """Content hash -> its text; for a handful."""
        return self._pairs("contents", _TEXTS, contents)

    def metadata(self, versions: Sequence[str]) -> dict[str, str]:
        """Version id -> its metadata, as JSON; for a handful."""
        return self._pairs("versions", _METADATA, versions)

    def states(self, versions: Sequence[str]) -> pa.Table:
        """The columns `version_id`, `source_ts` and `seq` of some versions."""
        return self._rows("versions", _STATES, versions)

    def _pairs(self, table: str, schema: pa.Schema, wanted: Sequence[Any]) -> dict[Any, Any]:
        found = self._rows(table, schema, wanted)
        return dict(zip(*(column.to_pylist() for column in found.columns), strict=True))

    def _rows(self, table: str, schema: pa.Schema, wanted: Sequence[Any]) -> pa.Table:
        entries = getattr(self.parent, table) if self.parent else ()
        values = pa.array(sorted(set(wanted)), schema.field(0).type)
        return rows_with(self.objects, entries, schema.names[0], values, schema=schema)
