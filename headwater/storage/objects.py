"""Objects: immutable files named by the SHA-256 of their bytes, `objects/ab/<sha256>.<kind>`.

Writing the same bytes twice gives the same name. An object is checked against its name once per
process before its first use, so that a damaged file is refused with its name and never parsed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import (
    CorruptObjectError,
    HeadwaterError,
    NotFoundError,
    StorageUnavailableError,
)
from headwater.storage import files

EMBEDDINGS = "embeddings.parquet"
"""The kind that is a root of its own: kept by every sweep."""


@dataclass(frozen=True)
class ObjectEntry:
    """An object as a manifest names it.

    Attributes:
        sha256: of the file's bytes, hex.
        kind: also the file's suffix: `versions.parquet`, `graph.hnsw`, ….
        bytes: size of the file.
        rows: rows in it; 0 where rows mean nothing.
    """

    sha256: str
    kind: str
    bytes: int
    rows: int = 0

    @property
    def name(self) -> str:
        """The path below `objects/`."""
        return f"{self.sha256[:2]}/{self.sha256}.{self.kind}"


class ObjectStore:
    """The folder `objects/` of a store and the folder `tmp/` its files grow in."""

    def __init__(self, root: Path) -> None:
        self.root = root / "objects"
        self._tmp = root / "tmp"
        self._lock = root / "LOCK"
        self._verified: set[str] = set()
        self.bytes_written = 0
        self.written: list[ObjectEntry] = []

    def put_table(self, table: pa.Table, kind: str, *, row_group_size: int = 8192) -> ObjectEntry:
        """Store a table as zstd Parquet.

        No minima or maxima are written: they would copy texts into footers, where erasure would
        have to look for them.
        """
        draft = self.draft(kind)
        with files.library_write(draft):
            pq.write_table(
                table,
                draft,
                compression="zstd",
                row_group_size=row_group_size,
                write_statistics=False,
                store_schema=True,
            )
        return self.adopt(draft, kind, rows=table.num_rows)

    def put_bytes(self, data: bytes, kind: str, *, rows: int = 0) -> ObjectEntry:
        """Store bytes as they are."""
        draft = self.draft(kind)
        files.write_new(draft, data)
        return self.adopt(draft, kind, rows=rows)

    def draft(self, kind: str) -> Path:
        """A fresh path to write an object of `kind` to, before `adopt`."""
        folder = self._tmp / f"run-{os.getpid()}"
        files.make_folder(folder)
        return folder / f"{len(self.written)}-{os.urandom(6).hex()}.{kind}"

    def adopt(self, draft: Path, kind: str, *, rows: int = 0) -> ObjectEntry:
        """Sync, hash and rename a finished draft to its content's name.

        Raises:
            BusyError: a vacuum is at work for longer than a minute.
        """
        files.sync_file(draft)
        sha256 = files.sha256_of(draft)
        entry = ObjectEntry(sha256, kind, draft.stat().st_size, rows)
        target = self.root / entry.name
        if self._found_again(target, entry):
            files.remove(draft)
            # Whoever renamed it may have died before the name was durable, or be about to.
            files.sync_folder(target.parent)
            files.sync_folder(self.root)
        else:
            files.move(draft, target)
            files.sync_folder(self.root)
            self.bytes_written += entry.bytes
            self.written.append(entry)
        self._verified.add(entry.name)
        return entry

    def _found_again(self, target: Path, entry: ObjectEntry) -> bool:
        """Whether the object is there already; if so it counts as written now.

        Under the shared lock: a vacuum, which holds it alone, has either deleted the object before
        this looks, or sees that it is young.
        """
        if not target.is_file():
            return False
        with files.locked(self._lock, wait_s=60, shared=True):
            if not target.is_file() or files.sha256_of(target) != entry.sha256:
                return False
            files.touch(target)
            return True

    def path(self, entry: ObjectEntry) -> Path:
        """The file of an object, after its bytes were checked against its name.

        Raises:
            CorruptObjectError: it is missing, or its bytes are not what they were.
        """
        path = self.root / entry.name
        if entry.name not in self._verified:
            self.verify(entry)
        return path

    def verify(self, entry: ObjectEntry, *, deep: bool = True) -> None:
        """Check that an object is there and has its size and (deep) its hash.

        Raises:
            CorruptObjectError: it has not.
        """
        path = self.root / entry.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise self._missing(entry) from None
        if size != entry.bytes or (deep and files.sha256_of(path) != entry.sha256):
            raise _corrupt("An object of the store is damaged", entry)
        if deep:
            self._verified.add(entry.name)

    def _missing(self, entry: ObjectEntry) -> HeadwaterError:
        # Only on the way to an error; and redactions know of objects, not the other way round.
        from headwater.storage.redactions import erased_by

        number = erased_by(self.root.parent, entry.name)
        if number is None:
            return _corrupt("An object of the store is missing", entry)
        return NotFoundError(
            f"Erasure {number} took this object away",
            obj=f"objects/{entry.name}",
            todo="open the snapshot again: it names what stands in its place",
        )

    def read_table(self, entry: ObjectEntry, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet object, or some of its columns."""
        # `pq.read_table` makes a data set of the file first: twice the time for a small one.
        with pq.ParquetFile(self.path(entry)) as file:
            table = file.read(columns=columns)
        return table if columns is None else table.select(columns)

    def listing(self) -> Iterator[tuple[ObjectEntry, Path]]:
        """Every object on the disk, whether a manifest names it or not (rows unknown: 0)."""
        if not self.root.is_dir():
            return
        for folder in sorted(self.root.iterdir()):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                sha256, _, kind = path.name.partition(".")
                # A vacuum may be at work: what is gone by now is no part of the listing.
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue
                yield ObjectEntry(sha256, kind, size), path

    def sync_names(self) -> None:
        """Make every object's name durable: a run that died may have renamed and not synced."""
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if folder.is_dir():
                files.sync_folder(folder)
        if self.root.is_dir():
            files.sync_folder(self.root)

    def discard_drafts(self) -> None:
        """Remove what this process left in `tmp/`; what cannot be removed is swept later."""
        # Never the reason for which a run that published, or failed for another reason, fails.
        with suppress(StorageUnavailableError):
            files.remove_tree(self._tmp / f"run-{os.getpid()}")


def _corrupt(what: str, entry: ObjectEntry) -> CorruptObjectError:
    return CorruptObjectError(
        what, obj=f"objects/{entry.name}", todo="run 'headwater verify --deep' to see all of it"
    )
