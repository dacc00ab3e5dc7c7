"""The files in a zip archive, and in archives in it.

Nothing is unpacked to the disk, so that no name of an entry can lead anywhere.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

from headwater.errors import ParseError, SourceUnreachableError
from headwater.flows.sources.folder import stamp_of, too_large
from headwater.flows.sources.parsing import MAX_DEPTH
from headwater.flows.sources.places import (
    Choice,
    Item,
    Listing,
    Local,
    encodes,
    format_of,
    normal,
)

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_ENTRIES = 1_000_000
_LARGEST_INNER = 200_000_000
_PART = 1 << 20
_BROKEN = (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError)


class ZipPlace(Local):
    """A zip archive of this machine; keys are the names of its entries.

    Entries of an archive in it have that archive's name as their folder: `inner.zip/a.md`.

    Args:
        name: of the source, for messages.
        path: of the archive.
    """

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._path = path
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def list_files(self, choice: Choice) -> Listing:
        """See `Place.list_files`. An archive that is cut short cannot be listed at all."""
        listing = Listing()
        try:
            file = self._open.enter_context(open(self._path, "rb"))  # noqa: PTH123, SIM115
            # Of the open file: a path may be another archive by now.
            stamp = stamp_of(os.fstat(file.fileno()))
            self._list(file, "", 1, stamp, choice, listing)
        except OSError as error:
            raise self._unreachable(f"{error.strerror}; check the path") from None
        except _BROKEN as error:
            raise self._unreachable(f"{error}; it is no whole zip file") from None
        listing.close()
        return listing

    def _list(
        self, file: IO[bytes], prefix: str, depth: int, stamp: str, choice: Choice, into: Listing
    ) -> None:
        archive = self._open.enter_context(zipfile.ZipFile(file))
        entries = archive.infolist()
        if len(entries) > _MAX_ENTRIES:
            raise ValueError(f"it has more than {_MAX_ENTRIES:,} entries")
        for entry in entries:
            key = normal(prefix + entry.filename.replace("\\", "/"))
            parts = key.split("/")
            if entry.is_dir() or not all(parts) or ".." in parts:
                continue
            if key.lower().endswith(".zip"):
                self._list_inner(archive, entry, key, depth, stamp, choice, into)
            elif choice.takes_path(key):
                _add(archive, entry, key, stamp, into)

    def _list_inner(
        self,
        archive: zipfile.ZipFile,
        entry: zipfile.ZipInfo,
        key: str,
        depth: int,
        stamp: str,
        choice: Choice,
        into: Listing,
    ) -> None:
        """List an archive in the archive; one that cannot be is refused by its own name."""
        if any(part.startswith(".") for part in key.split("/")) or choice.leaves_out(key):
            return
        try:
            if depth >= MAX_DEPTH:
                raise ValueError(f"archives lie in each other more than {MAX_DEPTH} deep")
            data = _read(archive, entry, key, _LARGEST_INNER)
            self._list(io.BytesIO(data), f"{key}/", depth + 1, stamp, choice, into)
        except ParseError as error:
            into.refused[key] = error.what[0].lower() + error.what[1:]
        except (*_BROKEN, OSError) as error:
            into.refused[key] = f"the archive cannot be listed: {error}"

    def read(self, item: Item, max_bytes: int) -> bytes:
        """See `Place.read`."""
        archive, entry = item.at
        return _read(archive, entry, item.key, max_bytes)

    def _unreachable(self, why: str) -> SourceUnreachableError:
        return SourceUnreachableError(
            "The archive cannot be listed", obj=f"{self._name}: {self._path}", todo=why
        )


def _add(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, key: str, stamp: str, into: Listing
) -> None:
    fmt = format_of(key.rpartition("/")[2])
    if fmt is None:
        into.other += 1
    elif not encodes(key):
        into.unnamed.append(f"the entry's name is no text: {key.encode('utf-8', 'replace')!r}")
    else:
        own = f"{stamp}:{entry.CRC}:{entry.file_size}:{entry.header_offset}"
        into.files.append(Item(key, _Entry((archive, entry)), fmt, own))


class _Entry(tuple[zipfile.ZipFile, zipfile.ZipInfo]):
    """An archive and one of its entries; of two with one name the later wins, as in any unzip."""

    def __lt__(self, other: tuple[object, ...]) -> bool:
        at = other[1]
        return isinstance(at, zipfile.ZipInfo) and self[1].header_offset > at.header_offset


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, key: str, max_bytes: int) -> bytes:
    """The bytes of an entry, in steps: its announced size may be a lie."""
    if entry.flag_bits & 1:
        raise ParseError("The entry is protected by a password", obj=key, todo="zip it without one")
    if entry.compress_type not in _METHODS:
        raise ParseError("The entry is packed by a method that is not read", obj=key)
    if entry.file_size > max_bytes:
        raise too_large(key, entry.file_size, max_bytes)
    parts = []
    size = 0
    try:
        with archive.open(entry) as stream:
            while part := stream.read(_PART):
                size += len(part)
                if size > max_bytes:
                    raise too_large(key, size, max_bytes)
                parts.append(part)
    except (*_BROKEN, zlib.error) as error:
        raise ParseError("The entry is damaged", obj=key, todo=str(error)) from None
    return b"".join(parts)
