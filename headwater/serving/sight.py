"""Sight: which documents a caller with labels may see, by the rule that `Retriever.search` has.

A caller holds all labels of a document, in the snapshot asked and now, or there is no such document
for it; and once labels are in use, one without any is for callers without a restriction.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from headwater.retrieval.visibility import LabelsNow, permits
from headwater.storage.lookup import rows_with
from headwater.storage.manifest import Manifest
from headwater.storage.store import Store
from headwater.storage.tables import VERSIONS

_KEPT: Final = 4
_LABELLED: Final = pa.schema([VERSIONS.field("version_id"), VERSIONS.field("labels")])


class Sight:
    """Judges documents by labels. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._labels: OrderedDict[str, LabelsNow] = OrderedDict()

    def sees(
        self,
        allow: frozenset[str],
        manifest: Manifest,
        source: str,
        key: str,
        labels: Iterable[str],
    ) -> bool:
        """Whether a caller may see a document of a snapshot.

        Args:
            allow: the caller's labels.
            manifest: the snapshot.
            source: the document's.
            key: the document's, in that snapshot.
            labels: the document's, in that snapshot.
        """
        own = frozenset(labels)
        if not _permits(own, allow, self._of(manifest)):
            return False
        current = self._store.resolve(None)
        if current.name() == manifest.name():
            return True
        now = self._of(current)
        return all(_permits(state, allow, now) for state in now.of(source, key) or (own,))

    def changes(
        self,
        allow: frozenset[str],
        before: Manifest,
        after: Manifest,
        rows: Iterable[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """A change feed as a caller may see it: rows of `storage.feed.FEED`, in their order.

        What came into sight was added. What went out of it was removed, also where it was hidden
        and not deleted: a consumer that was given it must let it go.

        Args:
            allow: the caller's labels.
            before: the snapshot that the caller knows.
            after: the later one.
            rows: what differs between them.
        """
        found = list(rows)
        old = self._labels_of(before, (row["before_version_id"] for row in found))
        new = self._labels_of(after, (row["after_version_id"] for row in found))
        told = []
        for row in found:
            was, now = row["before_version_id"], row["after_version_id"]
            seen = was is not None and _permits(old.get(was), allow, self._of(before))
            sees = now in new and self.sees(allow, after, row["source"], row["key"], new[now])
            if seen and sees:
                told.append(row)
            elif sees:
                told.append({**row, "op": "added", "before_version_id": None, "renamed_from": None})
            elif seen:
                key = row["renamed_from"] or row["key"]
                gone = {"op": "removed", "after_version_id": None, "renamed_from": None}
                told.append({**row, **gone, "key": key})
        return sorted(told, key=lambda row: (row["source"], row["key"]))

    def _labels_of(
        self, manifest: Manifest, versions: Iterable[str | None]
    ) -> dict[str, frozenset[str]]:
        wanted = pa.array(sorted({name for name in versions if name is not None}), pa.string())
        table = rows_with(
            self._store.objects, manifest.versions, "version_id", wanted, schema=_LABELLED
        )
        pairs = zip(table["version_id"].to_pylist(), table["labels"].to_pylist(), strict=True)
        return {name: frozenset(labels or ()) for name, labels in pairs}

    def _of(self, manifest: Manifest) -> LabelsNow:
        """The labels of a snapshot's documents; those asked for last are kept."""
        name = manifest.name()
        with self._lock:
            found = self._labels.get(name)
            if found is None:
                found = self._labels[name] = LabelsNow(self._store.objects, manifest, name)
            self._labels.move_to_end(name)
            while len(self._labels) > _KEPT:
                self._labels.popitem(last=False)
            return found


def _permits(labels: frozenset[str] | None, allow: frozenset[str], snapshot: LabelsNow) -> bool:
    """Whether a document with these labels may be seen; None for one whose labels are not known."""
    if labels is None:
        return False
    return permits(labels, allow, in_use=snapshot.in_use)
