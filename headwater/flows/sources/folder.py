"""The files below a folder: which there are, and what is in them.

Nothing is remembered between two listings, and nothing is followed out of the folder.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from headwater.errors import ParseError
from headwater.flows.sources.parsing.formats import BY_SUFFIX, Format

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        files: (key, path, format) of each file that is wanted, in the order of keys.
        unnamed: files that no key can name, and why.
        failed: folders that could not be listed, as key prefixes, and why.
        other: wanted files of a format that no parser reads.
        links: links that were not followed.
    """

    files: list[tuple[str, str, Format]] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    other: int = 0
    links: int = 0


def list_files(
    root: str, wanted: re.Pattern[str] | None, excluded: re.Pattern[str] | None
) -> Listing:
    """List the files below `root`, without recursion: the depth is the folder's choice.

    Args:
        root: the folder, its links resolved.
        wanted: keys to take, as made by `matcher`; None takes nothing.
        excluded: keys to leave out; a folder that matches is not entered.
    """
    listing = Listing()
    folders = [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    key = _normal(prefix + entry.name)
                    if excluded is not None and excluded.fullmatch(key):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, key + "/"))
                    elif wanted is not None and wanted.fullmatch(key):
                        _add_file(listing, root, entry, key)
        except OSError as error:
            listing.failed[prefix] = error.strerror or str(error)
    listing.files.sort(key=itemgetter(0, 1))
    _set_doubles_aside(listing)
    return listing


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
    fmt = BY_SUFFIX.get(entry.name.rpartition(".")[2].lower() if "." in entry.name else "")
    if fmt is None:
        listing.other += 1
    elif not key.isascii() and not _encodes(key):
        shown = key.encode("utf-8", "backslashreplace").decode()
        listing.unnamed.append(f"the file's name is not UTF-8: {shown}")
    else:
        listing.files.append((key, path, fmt))


def _inside(root: str, path: str) -> str | None:
    """Where a link leads, None when that is outside of `root`, hidden, or a folder."""
    target = os.path.realpath(path)
    if not target.startswith(root.rstrip(os.sep) + os.sep) or os.path.isdir(target):  # noqa: PTH112
        return None
    below = target[len(root.rstrip(os.sep)) :]
    return None if f"{os.sep}." in below else target


def _set_doubles_aside(listing: Listing) -> None:
    """Two names that are one after normalisation: the first keeps the key."""
    files = listing.files
    doubles = [at for at in range(1, len(files)) if files[at][0] == files[at - 1][0]]
    for at in reversed(doubles):
        key = files.pop(at)[0]
        listing.unnamed.append(f"another file's name differs only in its Unicode form: {key}")


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
            raise ParseError(
                "The file is too large",
                obj=path,
                todo=f"{info.st_size:,} bytes, max_bytes is {max_bytes:,}",
            )
        # One byte more than announced tells, in most cases with one call, that this was all.
        data = os.read(handle, info.st_size + 1)
        if len(data) == info.st_size:
            return data
        return b"".join([data, *_rest(handle, max_bytes - len(data), path)])
    finally:
        os.close(handle)


def _rest(handle: int, left: int, path: str) -> Iterator[bytes]:
    while part := os.read(handle, 1 << 20):
        left -= len(part)
        if left < 0:
            raise ParseError("The file is too large", obj=path, todo="it grew while it was read")
        yield part


def matcher(globs: Iterable[str]) -> re.Pattern[str] | None:
    """One pattern for all `globs`, None for none: `**` crosses folders, `*` and `?` do not."""
    patterns = [_translate(_normal(glob.strip("/"))) for glob in globs]
    return re.compile("|".join(patterns), re.DOTALL) if patterns else None


def _translate(glob: str) -> str:
    out = ""
    for part in re.findall(r"\*\*/|\*+|\?|\[!?\]?[^\]/]*\]|.", glob, re.DOTALL):
        if part == "**/":
            out += "(?:[^/]+/)*" if not out or out.endswith(("/", ")*")) else ".*/"
        elif part.startswith("*"):
            out += ".*" if len(part) > 1 else "[^/]*"
        elif part == "?":
            out += "[^/]"
        elif part.startswith("[") and len(part) > 2:
            inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            out += f"(?!/)[{'^' + inner[1:] if inner.startswith('!') else inner}]"
        else:
            out += re.escape(part)
    return out


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
