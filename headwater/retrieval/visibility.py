"""Which documents a search may look at: the caller's labels first, then everything it asked for.

A label is a condition. A caller who brings labels sees a document only if it holds all of the
document's; and once labels are in use, only documents that have some. A caller who brings none at
all (`allow` is None) is not restricted. What a caller may not see is left out before anything is
ranked, counted or said.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import numpy as np

from headwater.errors import NotFoundError
from headwater.retrieval.catalogue import Catalogue
from headwater.retrieval.columns import micros, read_columns
from headwater.retrieval.document_columns import DocumentColumns, Scope
from headwater.retrieval.filter_expressions import Expression
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectStore

_KEPT: Final = 16
V = TypeVar("V")


class LabelsNow:
    """The labels of documents as the current snapshot has them, for searches of another one.

    Attributes:
        snapshot: its name.
        in_use: whether it has, or ever had, a label.
    """

    def __init__(self, objects: ObjectStore, manifest: Manifest, name: str) -> None:
        self.snapshot = name
        self._last: dict[tuple[str, str], tuple[int, frozenset[str]]] = {}
        self._renamed: dict[tuple[str, str], set[str]] = {}
        self.in_use = _configured(manifest)
        shared: dict[tuple[str, ...], frozenset[str]] = {}
        columns = ["source", "key", "labels", "renamed_from", "seq"]
        for table in read_columns(objects, manifest.versions, columns):
            for source, key, labels, before, seq in zip(
                *(table[column].to_pylist() for column in columns), strict=True
            ):
                self.in_use = self.in_use or bool(labels)
                known = self._last.get((source, key))
                if known is None or seq >= known[0]:
                    own = tuple(labels or ())
                    self._last[source, key] = seq, shared.setdefault(own, frozenset(own))
                if before is not None:
                    self._renamed.setdefault((source, before), set()).add(key)

    def of(self, source: str, key: str) -> frozenset[frozenset[str]]:
        """The labels of a document's last version, and of those it was renamed to.

        All of them decide: a key may have been given to another document since. Empty where the
        document is unknown.
        """
        found: set[frozenset[str]] = set()
        seen: set[str] = set()
        waiting = [key]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if (source, name) in self._last:
                found.add(self._last[source, name][1])
            waiting.extend(self._renamed.get((source, name), ()))
        return frozenset(found)


@dataclass(frozen=True)
class Restriction:
    """What a search may return.

    Attributes:
        sources: only documents of these; None for all.
        where: only documents for which this is true; None for all.
        allow: the caller's labels; None for a caller that is not restricted.
        changed_since: only documents that changed later; None for all.
        verified_since: only documents confirmed at or after this time; None for all.
        now: the labels of now, where the caller brings labels to another snapshot.
    """

    sources: frozenset[str] | None = None
    where: Expression | None = None
    allow: frozenset[str] | None = None
    changed_since: datetime | None = None
    verified_since: datetime | None = None
    now: LabelsNow | None = None

    @property
    def lasting(self) -> tuple[object, ...]:
        """What in it does not move with the clock."""
        return (self.sources, self.where, self.allow, self.changed_since)

    @property
    def unbounded(self) -> bool:
        """Whether it lets everything through but what was not confirmed in time."""
        return all(part is None for part in self.lasting)


@dataclass(frozen=True)
class Allowed:
    """The documents and index rows that a restriction leaves.

    Attributes:
        documents: bool (d,); None for all.
        rows: bool (rows of the index,): those that hold a text of one of them.
        selectivity: what share of the documents that the caller may see they are, 0 to 1.
    """

    documents: np.ndarray | None
    rows: np.ndarray
    selectivity: float


class Visibility:
    """The documents of a view, restricted. Safe to share between threads.

    What was asked for last is kept, so that a filter costs its evaluation once for each view.
    """

    def __init__(
        self, objects: ObjectStore, manifest: Manifest, catalogue: Catalogue, live: np.ndarray
    ) -> None:
        self._manifest = manifest
        self._catalogue = catalogue
        self._every = Allowed(None, live, 1.0)
        self._columns = DocumentColumns(objects, manifest.versions, catalogue.documents)
        self._labels: tuple[np.ndarray, list[frozenset[str]]] | None = None
        self._objects = objects
        self._visible: OrderedDict[object, np.ndarray] = OrderedDict()
        self._allowed: OrderedDict[object, Allowed] = OrderedDict()
        self._lock = threading.Lock()

    def asked(self, restriction: Restriction) -> Allowed:
        """What a restriction leaves, whenever it was last confirmed.

        Raises:
            ConfigError: a filter names metadata that no visible document has, or compares it with
                what it cannot be compared with.
            NotFoundError: there is no such source.
            CorruptObjectError: a table is missing or damaged.
        """
        if restriction.unbounded:
            return self._every
        now = restriction.now.snapshot if restriction.now else None
        key = (*restriction.lasting, now)
        return self._kept(self._allowed, key, lambda: self._evaluated(restriction))

    def allowed(self, restriction: Restriction, last_verified: dict[str, datetime]) -> Allowed:
        """What a restriction leaves; raises what `asked` does.

        Args:
            restriction: of one search.
            last_verified: when each source was last confirmed.
        """
        found = self.asked(restriction)
        if restriction.verified_since is None:
            return found
        verified = self._catalogue.documents.verified_at(last_verified)
        fresh = verified >= micros(restriction.verified_since)
        mask = fresh if found.documents is None else found.documents & fresh
        return self._counted(mask, self._seen(restriction.allow, restriction.now))

    def _evaluated(self, asked: Restriction) -> Allowed:
        visible = self._seen(asked.allow, asked.now)
        mask = np.ones(len(self._columns), dtype=bool) if visible is None else visible
        if asked.sources is not None:
            mask = mask & self._of_sources(asked.sources, visible)
        if asked.changed_since is not None:
            since = micros(asked.changed_since)
            changed = self._columns.column("changed_at")
            mask = mask & changed.matching(lambda _, value: value > since)
        if asked.where is not None:
            mask = mask & asked.where.mask(Scope(self._columns, visible))
        return self._counted(mask, visible)

    def _counted(self, mask: np.ndarray, visible: np.ndarray | None) -> Allowed:
        whole = len(mask) if visible is None else np.count_nonzero(visible)
        rows = self._catalogue.rows_of(mask, size=len(self._every.rows))
        return Allowed(mask, rows, int(np.count_nonzero(mask)) / int(whole) if whole else 1.0)

    def _of_sources(self, wanted: frozenset[str], visible: np.ndarray | None) -> np.ndarray:
        documents = self._catalogue.documents
        if visible is None:
            known = {*documents.sources, *self._manifest.sources}
        else:
            known = {documents.sources[s] for s in np.unique(documents.source[visible])}
        # To a caller who sees nothing the snapshot is empty, and of an empty one nothing is said.
        unknown = sorted(wanted - known) if visible is None or visible.any() else []
        if unknown:
            raise NotFoundError(
                "The snapshot has no such source",
                obj=", ".join(unknown),
                todo=f"it has: {', '.join(sorted(known)) or 'none'}",
            )
        chosen = np.array([source in wanted for source in documents.sources], dtype=bool)
        mask: np.ndarray = chosen[documents.source]
        return mask

    # --- labels -------------------------------------------------------------------------------

    def _seen(self, allow: frozenset[str] | None, now: LabelsNow | None) -> np.ndarray | None:
        """The documents that a caller with these labels may see; None for all."""
        if allow is None:
            return None
        key = (allow, now.snapshot if now else None)
        return self._kept(self._visible, key, lambda: self._permitted(allow, now))

    def _permitted(self, allow: frozenset[str], now: LabelsNow | None) -> np.ndarray:
        code, sets = self._document_labels()
        in_use = _configured(self._manifest) or self._ever_labelled(sets)
        seen = [permits(labels, allow, in_use=in_use) for labels in sets]
        visible: np.ndarray = np.array(seen, dtype=bool)[code]
        if now is None:
            return visible
        for document, key in enumerate(self._columns.listed("key")):
            if visible[document]:
                documents = self._catalogue.documents
                source = documents.sources[documents.source[document]]
                # One that the current history does not know is judged by the labels it had.
                states = now.of(source, key) or (sets[code[document]],)
                visible[document] = all(permits(s, allow, in_use=now.in_use) for s in states)
        return visible

    def _document_labels(self) -> tuple[np.ndarray, list[frozenset[str]]]:
        """Which of the distinct sets of labels each document has: int64 (d,), and the sets."""
        if self._labels is None:
            known: dict[tuple[str, ...], int] = {}
            listed = self._columns.listed("labels")
            code = [known.setdefault(tuple(own or ()), len(known)) for own in listed]
            self._labels = np.array(code, dtype=np.int64), [frozenset(own) for own in known]
        return self._labels

    def _ever_labelled(self, sets: Iterable[frozenset[str]]) -> bool:
        if any(sets):
            return True
        tables = read_columns(self._objects, self._manifest.versions, ["labels"])
        return any(own for table in tables for own in table["labels"].to_pylist())

    def _kept(self, kept: OrderedDict[object, V], key: object, make: Callable[[], V]) -> V:
        """What is kept under a key; made, outside of the lock, where nothing is."""
        with self._lock:
            found = kept.get(key)
            if found is not None:
                kept.move_to_end(key)
                return found
        found = make()
        with self._lock:
            kept[key] = found
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        return found


def _configured(manifest: Manifest) -> bool:
    """Whether a source puts labels on its documents."""
    return any(state.labels for state in manifest.sources.values())


def permits(labels: frozenset[str], allow: frozenset[str], *, in_use: bool) -> bool:
    """Whether a caller sees a document: has all its labels, and it has some where labels are used."""
    return labels <= allow and (bool(labels) or not in_use)
