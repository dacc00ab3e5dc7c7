"""Columns of the live documents for filters: read when first asked for, each distinct value once."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from headwater.errors import ConfigError
from headwater.retrieval.catalogue import Documents
from headwater.retrieval.columns import micros, read_columns, times
from headwater.storage.manifest import parse_time
from headwater.storage.objects import ObjectEntry, ObjectStore

META: Final = "meta"
_KEPT: Final = 24
_NEAR_NAMES: Final = 2000
_LONGEST_NAME: Final = 100
_DECODE: Final = json.JSONDecoder().raw_decode
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:$|[Tt ])")
_SCALARS: Final = frozenset({bool, int, float, str})
_KINDS: Final = {bool: "boolean", int: "number", float: "number", str: "text", dict: "object"}


@dataclass(frozen=True)
class Column:
    """The values of one field: none, one or several for each document.

    Attributes:
        document: int64 (n,): which document each value is of.
        code: int64 (n,): which of `values` it is.
        values: distinct ones; a time is its microseconds since 1970.
        kinds: of each of `values`: text, number, boolean, time or object.
        present: bool (documents,): where the field is named at all, if only with null.
    """

    document: np.ndarray
    code: np.ndarray
    values: Sequence[Any]
    kinds: Sequence[str]
    present: np.ndarray

    def matching(self, test: Callable[[str, Any], bool]) -> np.ndarray:
        """The documents of which a value passes `test(kind, value)`: bool (documents,)."""
        passed = np.fromiter(map(test, self.kinds, self.values), dtype=bool)
        return self._holding(passed[self.code])

    def filled(self) -> np.ndarray:
        """The documents that have a value: bool (documents,)."""
        return self._holding(np.ones(len(self.code), dtype=bool))

    def kinds_in(self, visible: np.ndarray | None) -> set[str]:
        """The kinds of the values of some documents; None for all."""
        code = self.code if visible is None else self.code[visible[self.document]]
        return {self.kinds[c] for c in np.unique(code)}

    def has_time(self, visible: np.ndarray | None) -> bool:
        """Whether a text of some documents reads as a time; None for all."""
        code = self.code if visible is None else self.code[visible[self.document]]
        read = (time_of(self.kinds[c], self.values[c]) for c in np.unique(code))
        return any(value is not None for value in read)

    def _holding(self, passed: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(self.present), dtype=bool)
        mask[self.document[passed]] = True
        return mask


def time_of(kind: str, value: Any) -> int | None:
    """A value as microseconds since 1970, or None where it is no time."""
    if kind == "time":
        return int(value)
    if kind != "text" or not _DATE.match(value):
        return None
    try:
        return micros(parse_time(value))
    except (ValueError, OverflowError):
        return None


def metadata_of(text: str | None) -> dict[str, Any]:
    """A document's metadata, from its canonical JSON."""
    value = _DECODE(text)[0] if text else {}
    return value if isinstance(value, dict) else {"value": value}


class DocumentColumns:
    """The columns of a view's documents. Safe to share between threads.

    Metadata is parsed once for each field that a filter names; what was used last is kept.
    """

    def __init__(
        self, objects: ObjectStore, versions: Sequence[ObjectEntry], documents: Documents
    ) -> None:
        self._objects = objects
        self._versions = versions
        self._documents = documents
        self._columns: OrderedDict[tuple[str, ...], Column] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self._documents.version_row)

    def column(self, name: str, path: tuple[str, ...] = ()) -> Column:
        """A column: of the documents' own fields, or of `path` within the metadata.

        Raises:
            CorruptObjectError: a table is missing or damaged.
        """
        key = (name, *path)
        with self._lock:
            found = self._columns.get(key)
            if found is None:
                reader = _READERS.get(name)
                found = reader(self, name) if reader else self._metadata(path)
                self._columns[key] = found
            self._columns.move_to_end(key)
            while len(self._columns) > _KEPT:
                self._columns.popitem(last=False)
            return found

    def listed(self, name: str) -> list[Any]:
        """The values of a column of the version tables, by document; None where there is none."""
        tables = read_columns(self._objects, self._versions, [name])
        flat = [value for table in tables for value in table[name].to_pylist()]
        return [flat[row] for row in self._documents.version_row.tolist()]

    def metadata_names(self, visible: np.ndarray | None) -> list[str]:
        """Some names that the metadata of some documents has, nested ones with dots, sorted."""
        names: set[str] = set()
        texts = self.listed("metadata")
        rows = range(len(texts)) if visible is None else np.flatnonzero(visible).tolist()
        for text in {texts[row] for row in rows}:
            for path in _paths(metadata_of(text)):
                names.add(".".join(path))
                if len(names) >= _NEAR_NAMES:
                    return sorted(names)
        return sorted(names)

    def _metadata(self, path: tuple[str, ...]) -> Column:
        texts = self.listed("metadata")
        # Many documents have the same: each is parsed once.
        found = {text: _at(metadata_of(text), path) for text in set(texts)}
        rows = [found[text] for text in texts]
        return _column([values for _, values in rows], [there for there, _ in rows])

    def _text(self, name: str) -> Column:
        return _column([() if value is None else (value,) for value in self.listed(name)])

    def _texts(self, name: str) -> Column:
        return _column([value or () for value in self.listed(name)])

    def _source(self, _name: str) -> Column:
        documents = self._documents
        every = np.arange(len(self))
        kinds = ["text"] * len(documents.sources)
        whole = np.ones(len(self), dtype=bool)
        return Column(every, documents.source, documents.sources, kinds, whole)

    def _time(self, name: str) -> Column:
        documents = self._documents
        if name == "known_at":
            value, held = documents.known_at, np.ones(len(self), dtype=bool)
        else:
            tables = read_columns(self._objects, self._versions, [name])
            value, held = (part[documents.version_row] for part in times(tables, name))
        if name == "changed_at":
            # As in a hit: what the tables do not say began when it became known.
            value, held = np.where(held, value, documents.known_at), np.ones(len(self), dtype=bool)
        distinct, code = np.unique(value[held], return_inverse=True)
        kinds = ["time"] * len(distinct)
        return Column(np.flatnonzero(held), code, distinct.tolist(), kinds, held)


_READERS: Final[dict[str, Callable[[DocumentColumns, str], Column]]] = {
    "source": DocumentColumns._source,
    "key": DocumentColumns._text,
    "title": DocumentColumns._text,
    "url": DocumentColumns._text,
    "labels": DocumentColumns._texts,
    "source_ts": DocumentColumns._time,
    "changed_at": DocumentColumns._time,
    "known_at": DocumentColumns._time,
}


@dataclass(frozen=True)
class Scope:
    """What an expression is evaluated over.

    Attributes:
        columns: of all live documents.
        visible: bool (documents,): the ones that the caller may know of; None for all. Errors
            speak of no other.
    """

    columns: DocumentColumns
    visible: np.ndarray | None = None

    def column(self, name: str, path: tuple[str, ...], position: int) -> Column:
        """A column that a filter names at `position`.

        Raises:
            ConfigError: no visible document has such metadata.
            CorruptObjectError: a table is missing or damaged.
        """
        found = self.columns.column(name, path)
        if name == META and not self.empty and not self._any(found.present):
            shown = ".".join(path)[:_LONGEST_NAME]
            raise ConfigError(
                "Unknown filter field: no document has metadata of this name",
                obj=f"meta.{ascii(shown)[1:-1]}{place(position)}",
                todo=self._near(".".join(path)),
            )
        return found

    @property
    def empty(self) -> bool:
        """Whether there is no document to look at."""
        return not len(self.columns) or (self.visible is not None and not self.visible.any())

    def _any(self, mask: np.ndarray) -> bool:
        return bool(mask.any() if self.visible is None else (mask & self.visible).any())

    def _near(self, name: str) -> str:
        names = self.columns.metadata_names(self.visible)
        if not names:
            return "no document has metadata"
        return f"did you mean {', '.join(f'meta.{n}' for n in near(name, names))}?"


def near(name: str, names: Sequence[str], *, count: int = 5) -> list[str]:
    """The names most like `name`, best first; the first of them all where none is."""
    from difflib import get_close_matches

    found = get_close_matches(name[:_LONGEST_NAME], names, n=count, cutoff=0.5)
    return [ascii(n[:_LONGEST_NAME])[1:-1] for n in found or names[:count]]


def place(position: int) -> str:
    """Where in a filter's text; nothing for an expression that was not parsed."""
    return f" (at character {position})" if position else ""


def _column(rows: Sequence[Iterable[Any]], present: Sequence[bool] | None = None) -> Column:
    """A column of the values of each document."""
    known: dict[tuple[str, Any], int] = {}
    document: list[int] = []
    code: list[int] = []
    for number, values in enumerate(rows):
        for value in values:
            kind = _KINDS[type(value)]
            # What an object holds is reached by a longer path; here it only counts as a value.
            seen = (kind, None if kind == "object" else value)
            code.append(known.setdefault(seen, len(known)))
            document.append(number)
    return Column(
        np.array(document, dtype=np.int64),
        np.array(code, dtype=np.int64),
        [value for _, value in known],
        [kind for kind, _ in known],
        np.ones(len(rows), dtype=bool) if present is None else np.array(present, dtype=bool),
    )


def _at(metadata: dict[str, Any], path: tuple[str, ...]) -> tuple[bool, list[Any]]:
    """Whether a path is there, and the values at its end: lists, at any step, are all taken."""
    here: list[Any] = [metadata]
    if len(path) == 1 and type(value := metadata.get(path[0])) in _SCALARS:
        return True, [value]
    for name in path:
        here = [inner[name] for inner in here if isinstance(inner, dict) and name in inner]
        if not here:
            return False, []
        here = list(_elements(here))
    return True, [value for value in here if value is not None]


def _elements(values: list[Any]) -> Iterator[Any]:
    """The values, in place of lists what they hold."""
    waiting = values[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        else:
            yield value


def _paths(metadata: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), metadata)]
    while waiting:
        path, value = waiting.pop()
        if path:
            yield path
        for inner in _elements([value]):
            if isinstance(inner, dict):
                waiting.extend(((*path, name), held) for name, held in inner.items())
