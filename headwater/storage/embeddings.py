"""The embedding cache: every text is embedded once per space, whatever happens to the run.

An embedding object is a root of its own: committed every few hundred texts, kept when the run dies,
and found again by listing, because no manifest needs to name it. Its rows are sorted by hash, so
that a few texts are looked up without an object per row; and once there are many small objects,
they are merged into a larger one (`headwater.storage.embedding_merge`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import HeadwaterError, StoreError
from headwater.storage.hashes import HASH, HASH_BYTES
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore

SPACE_KEY = b"space"
COVERS_KEY = b"covers"
NAME_DIGITS = 16
"""So many hex digits of its hash name a part in the list of what a merged object covers."""


@dataclass(frozen=True)
class Part:
    """An embedding object of a space, its rows not read yet.

    Attributes:
        entry: of the object, its rows known.
        space: fingerprint.
        covers: the first digits of the names of objects whose texts it holds as well.
    """

    entry: ObjectEntry
    space: str
    covers: frozenset[str]

    @property
    def label(self) -> str:
        """What `covers` of another part would name it by."""
        return self.entry.sha256[:NAME_DIGITS]


class EmbeddingCache:
    """The vectors of one embedding space. Nothing is read before it is asked for.

    Attributes:
        space: the fingerprint of the space.
        dim: numbers in a vector.
    """

    def __init__(self, objects: ObjectStore, *, space: str, dim: int) -> None:
        self._objects = objects
        self.space = space
        self.dim = dim
        self._parts: list[Part] | None = None
        self._damaged: set[str] = set()
        self._places: dict[bytes, tuple[Part, int]] = {}

    def missing(self, hashes: list[bytes]) -> list[bytes]:
        """Those of `hashes` that have no vector yet, in their order."""
        self._look_up(hashes)
        return [h for h in hashes if h not in self._places]

    def add(self, hashes: list[bytes], vectors: np.ndarray) -> None:
        """Commit vectors: durable when this returns.

        Args:
            hashes: 32 bytes each, distinct.
            vectors: float32 (n, dim), finite, L2-normalised.

        Raises:
            ValueError: the vectors have another shape or hold what is not a number.
        """
        if vectors.shape != (len(hashes), self.dim) or not np.isfinite(vectors).all():
            raise ValueError(f"expected finite vectors of shape ({len(hashes)}, {self.dim})")
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        flat = pa.array(np.ascontiguousarray(vectors[order], dtype=np.float32).ravel())
        table = pa.table(
            {
                "text_hash": pa.array([hashes[i] for i in order], pa.binary(HASH_BYTES)),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
            }
        ).replace_schema_metadata({SPACE_KEY: self.space})
        part = Part(self._objects.put_table(table, EMBEDDINGS), self.space, frozenset())
        if self._parts is not None:
            self._parts.append(part)
        for row, position in enumerate(order):
            self._places.setdefault(hashes[position], (part, row))

    def vectors(self, hashes: list[bytes]) -> np.ndarray:
        """The vectors of texts that are all cached: float32 (n, dim), in the order of `hashes`.

        Raises:
            KeyError: one is not cached.
            CorruptObjectError: an object is damaged.
        """
        self._look_up(hashes)
        out = np.empty((len(hashes), self.dim), dtype=np.float32)
        wanted: dict[str, list[tuple[int, int]]] = {}
        parts: dict[str, Part] = {}
        for position, text_hash in enumerate(hashes):
            part, row = self._places[text_hash]
            parts[part.label] = part
            wanted.setdefault(part.label, []).append((row, position))
        for label, places in wanted.items():
            rows, positions = zip(*sorted(places), strict=True)
            out[list(positions)] = self._read(parts[label], np.array(rows))
        return out

    def parts(self) -> list[Part]:
        """The objects that a lookup searches, largest first, then those added since."""
        if self._parts is None:
            self._parts = find_parts(self._objects, space=self.space, without=self._damaged)
        return self._parts

    def reread(self) -> None:
        """Look at what is on the disk again before the next lookup."""
        self._parts = None

    def forget(self, part: Part) -> None:
        """Search without a damaged part from now on; `verify` names it.

        The texts that only it held are embedded again, and what it covered is searched instead.
        """
        self._damaged.add(part.entry.name)
        self._parts = None
        self._places = {h: place for h, place in self._places.items() if place[0] != part}

    def _look_up(self, hashes: list[bytes]) -> None:
        """Find where the hashes are; a part that cannot be read is as good as absent."""
        while True:
            left = sorted({h for h in hashes if h not in self._places})
            if not left:
                return
            damaged = self._search(np.frombuffer(b"".join(left), dtype=HASH))
            if damaged is None:
                return
            self.forget(damaged)

    def _search(self, wanted: np.ndarray) -> Part | None:
        """Remember where each of `wanted` (sorted) is; returns a part that turned out damaged."""
        left = np.ones(len(wanted), dtype=bool)
        count = len(wanted)
        for part in self.parts():
            if not count:
                break
            try:
                at, rows = matches(wanted, read_hashes(self._objects, part.entry))
                new = left[at]
                if new.any():
                    # Only what vectors are taken from is worth reading to the last byte.
                    self._objects.path(part.entry)
            except (StoreError, pa.ArrowException, OSError):
                return part
            for place, row in zip(at[new].tolist(), rows[new].tolist(), strict=True):
                self._places[wanted[place].tobytes()] = (part, row)
            left[at] = False
            count -= int(new.sum())
        return None

    def _read(self, part: Part, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rising rows: only the row groups that hold them are read."""
        with pq.ParquetFile(self._objects.path(part.entry)) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(groups)])
            blocks = []
            for group in np.unique(np.searchsorted(starts, rows, side="right") - 1).tolist():
                column = file.read_row_group(group, columns=["vector"])["vector"]
                block = vector_block(column, self.dim)
                mine = rows[(rows >= starts[group]) & (rows < starts[group + 1])]
                blocks.append(block[mine - starts[group]])
        return np.concatenate(blocks)


def find_parts(
    objects: ObjectStore, *, space: str | None = None, without: Collection[str] = ()
) -> list[Part]:
    """The embedding objects whose footer can be read, largest first.

    Args:
        objects: where they are.
        space: only those of this space that no other one of it covers; all objects when None.
        without: names of objects to leave out; what they cover counts as not covered.
    """
    found: list[Part] = []
    covered: set[str] = set()
    for size, sha256, path in _listing(objects.root):
        entry = ObjectEntry(sha256, EMBEDDINGS, size)
        if (space is not None and sha256[:NAME_DIGITS] in covered) or entry.name in without:
            continue
        # A damaged footer here would stop every refresh; `verify` names the object.
        with suppress(pa.ArrowException, OSError):
            footer = pq.read_metadata(path)
            metadata = footer.metadata or {}
            of = metadata.get(SPACE_KEY, b"").decode()
            if space in (None, of):
                covers = frozenset(metadata.get(COVERS_KEY, b"").decode().split())
                covered |= covers
                entry = ObjectEntry(sha256, EMBEDDINGS, size, footer.num_rows)
                found.append(Part(entry, of, covers))
    if space is None:
        return found
    return [part for part in found if part.label not in covered]


def read_hashes(objects: ObjectStore, entry: ObjectEntry) -> np.ndarray:
    """The text hashes of an embedding object: void[32] (n,), sorted. Its bytes are not checked.

    Raises:
        pyarrow.ArrowException, OSError: it cannot be read.
    """
    table = pq.read_table(objects.root / entry.name, columns=["text_hash"], partitioning=None)
    column = table["text_hash"].cast(pa.binary(HASH_BYTES)).combine_chunks()
    data = column.buffers()[1]
    return np.frombuffer(data, dtype=HASH, count=len(column), offset=column.offset * HASH_BYTES)


def vector_block(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """A column of vectors as float32 (n, dim)."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, dim)


def covered_embeddings(parts: Iterable[tuple[str, str, np.ndarray]]) -> frozenset[str]:
    """Which embedding objects may go, because larger ones hold all of their texts. Pure.

    Every text keeps the largest object of its space that holds it; an object that no text needs
    for that is covered.

    Args:
        parts: (name, space, hashes) of objects that are whole, void[32] (n,) each. What is
            damaged must not be among them: it covers nothing.

    Returns:
        names of those that are covered.
    """
    spaces: dict[str, list[tuple[str, np.ndarray]]] = {}
    for name, space, hashes in parts:
        spaces.setdefault(space, []).append((name, hashes))
    covered: set[str] = set()
    for held in spaces.values():
        held.sort(key=lambda part: (-len(part[1]), part[0]))
        owner = np.repeat(np.arange(len(held)), [len(hashes) for _, hashes in held])
        everything = np.concatenate([hashes for _, hashes in held])
        order = np.argsort(everything, kind="stable")
        ranked = everything[order]
        first = np.ones(len(ranked), dtype=bool)
        first[1:] = ranked[1:] != ranked[:-1]
        needed = set(np.unique(owner[order[first]]).tolist())
        covered |= {name for rank, (name, _) in enumerate(held) if rank not in needed}
    return frozenset(covered)


def whole_embeddings(objects: ObjectStore) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name, space, hashes) of each embedding object whose every byte is right."""
    for part in find_parts(objects):
        with suppress(HeadwaterError, pa.ArrowException, OSError):
            objects.path(part.entry)
            yield part.entry.name, part.space, read_hashes(objects, part.entry)


def _listing(root: Path) -> list[tuple[int, str, str]]:
    """(size, hash, path) of embedding objects, largest first. Other kinds are not looked at."""
    found = []
    with suppress(FileNotFoundError):
        for folder in os.scandir(root):
            for file in os.scandir(folder.path) if folder.is_dir() else ():
                sha256, _, kind = file.name.partition(".")
                if kind == EMBEDDINGS:
                    # A vacuum may be at work: what is gone by now is no part of the listing.
                    with suppress(FileNotFoundError):
                        found.append((-file.stat().st_size, sha256, file.path))
    return [(-size, sha256, path) for size, sha256, path in sorted(found)]


def matches(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of two sorted, distinct arrays of hashes that are equal: int64 (n,), int64 (n,).

    The shorter one is looked up in the longer one.
    """
    short, long = (first, second) if len(first) <= len(second) else (second, first)
    if not len(short):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    places = np.searchsorted(long, short)
    places[places == len(long)] = 0
    hits = long[places] == short
    pair = np.flatnonzero(hits), places[hits]
    return pair if len(first) <= len(second) else (pair[1], pair[0])
