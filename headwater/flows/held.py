"""What a snapshot holds back: reading the quarantine that its manifest names."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore
from headwater.validation.quarantine import QUARANTINE_SCHEMA


def read_quarantine(objects: ObjectStore, manifest: Manifest | None) -> pa.Table:
    """The quarantine of a snapshot, a table of `QUARANTINE_SCHEMA`; empty when it has none."""
    if manifest is None or manifest.quarantine is None:
        return QUARANTINE_SCHEMA.empty_table()
    return objects.read_table(manifest.quarantine)


def refusals(
    objects: ObjectStore, manifest: Manifest, *, source: str = "", key: str = ""
) -> list[dict[str, Any]]:
    """The quarantine as plain rows, all of it or what concerns one source or key."""
    rows: list[dict[str, Any]] = read_quarantine(objects, manifest).to_pylist()
    return [row for row in rows if source in ("", row["source"]) and key in ("", row["key"])]


def unreadable_before(
    objects: ObjectStore, manifest: Manifest | None, source: str
) -> dict[str, tuple[str, str]]:
    """Key -> fingerprint and reason of what one source could not read: `PullRequest.refused`."""
    found = {}
    for row in read_quarantine(objects, manifest).to_pylist():
        if row["source"] == source and row["rule"] == "unreadable":
            fields = json.loads(row["payload"])
            if fields.get("fingerprint") and fields.get("error"):
                found[row["key"]] = (fields["fingerprint"], fields["error"])
    return found
