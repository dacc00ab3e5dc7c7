"""The files below a folder: which there are, and what is in them.

Nothing is remembered between two listings, and nothing is followed out of the folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from headwater.errors import ParseError, SourceUnreachableError
from headwater.flows.sources.places import Choice, Item, Listing, Local, encodes, format_of, normal

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


class FolderPlace(Local):
    """A folder of this machine.

    Files and folders whose name starts with a dot are left out. A link is followed when it leads to
    a file inside of the folder; links to folders are not, as what they hold is listed already.

    Args:
        name: of the source, for messages.
        folder: its path.
    """

    def __init__(self, name: str, folder: str) -> None:
        self._name = name
        self._folder = folder

    def list_files(self, choice: Choice) -> Listing:
        """See `Place.list_files`; without recursion, as the depth is the folder's choice."""
        try:
            root = os.path.realpath(self._folder, strict=True)
            with os.scandir(root):
                pass
        except OSError as error:
            raise self._unreachable(
                f"{error.strerror}; check the path, the mount and the permissions"
            ) from None
        listing = Listing()
        folders = [(root, "")]
        while folders:
            folder, prefix = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        _take(listing, folders, root, entry, prefix, choice)
            except OSError as error:
                listing.failed[prefix] = error.strerror or str(error)
        if "" in listing.failed:
            raise self._unreachable(listing.failed[""])
        listing.close()
        return listing

    def read(self, item: Item, max_bytes: int) -> bytes:
        """See `Place.read`."""
        return read_file(item.at, max_bytes)

    def _unreachable(self, why: str) -> SourceUnreachableError:
        return SourceUnreachableError(
            "The folder cannot be listed", obj=f"{self._name}: {self._folder}", todo=why
        )


def _take(
    listing: Listing,
    folders: list[tuple[str, str]],
    root: str,
    entry: os.DirEntry[str],
    prefix: str,
    choice: Choice,
) -> None:
    if entry.name.startswith("."):
        return
    key = normal(prefix + entry.name)
    if choice.leaves_out(key):
        return
    if entry.is_dir(follow_symlinks=False):
        folders.append((entry.path, key + "/"))
    elif choice.takes(key):
        _add_file(listing, root, entry, key)


def _add_file(listing: Listing, root: str, entry: os.DirEntry[str], key: str) -> None:
    path = entry.path
    if entry.is_symlink():
        target = _inside(root, path)
        if target is None:
            listing.links += 1
            return
        path = target
    elif not entry.is_file(follow_symlinks=False):
        listing.other += 1
        return
    fmt = format_of(entry.name)
    if fmt is None:
        listing.other += 1
    elif not key.isascii() and not encodes(key):
        shown = key.encode("utf-8", "backslashreplace").decode()
        listing.unnamed.append(f"the file's name is not UTF-8: {shown}")
    else:
        listing.files.append(Item(key, path, fmt, _stamp(entry, path)))


def _stamp(entry: os.DirEntry[str], path: str) -> str:
    """Size, both times and the inode: see `seen` for what they are worth."""
    try:
        info = entry.stat(follow_symlinks=False) if path == entry.path else os.lstat(path)
    except OSError:
        return ""
    return stamp_of(info)


def stamp_of(info: os.stat_result) -> str:
    """`newest time:size:mtime:ctime:inode`, times in ns."""
    changed, moved = info.st_mtime_ns, info.st_ctime_ns
    return f"{max(changed, moved)}:{info.st_size}:{changed}:{moved}:{info.st_ino}"


def _inside(root: str, path: str) -> str | None:
    """Where a link leads, None when that is outside of `root`, hidden, or a folder."""
    target = os.path.realpath(path)
    if not target.startswith(root.rstrip(os.sep) + os.sep) or os.path.isdir(target):  # noqa: PTH112
        return None
    below = target[len(root.rstrip(os.sep)) :]
    return None if f"{os.sep}." in below else target


def read_file(path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it cannot be read.
        ParseError: it is larger than `max_bytes`, or no regular file any more.
    """
    handle = os.open(path, _FLAGS)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise ParseError("The file is no regular file", obj=path)
        if info.st_size > max_bytes:
            raise too_large(path, info.st_size, max_bytes)
        # One byte more than announced tells, in most cases with one call, that this was all.
        data = os.read(handle, info.st_size + 1)
        if len(data) == info.st_size:
            return data
        return b"".join([data, *_rest(handle, max_bytes - len(data), path)])
    finally:
        os.close(handle)


def too_large(name: str, size: int, max_bytes: int) -> ParseError:
    """The error for a file above the configured bound."""
    return ParseError(
        "The file is too large", obj=name, todo=f"{size:,} bytes, max_bytes is {max_bytes:,}"
    )


def _rest(handle: int, left: int, path: str) -> Iterator[bytes]:
    while part := os.read(handle, 1 << 20):
        left -= len(part)
        if left < 0:
            raise ParseError("The file is too large", obj=path, todo="it grew while it was read")
        yield part
