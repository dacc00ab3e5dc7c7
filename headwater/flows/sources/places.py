"""Where documents lie: what a place offers to the source that reads it.

A place lists files and hands out their bytes. It parses nothing, decides nothing about what
changed, and remembers nothing between two pulls.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from headwater.flows.sources.parsing.formats import BY_SUFFIX, Format


class Item(NamedTuple):
    """One file that is wanted.

    Attributes:
        key: its path below the root, NFC, with `/`.
        at: how its place finds it again.
        format: how it is read.
        stamp: what a file system says of it without opening it; another stamp, maybe another
            content. Empty when it says nothing to be trusted.
        version: names its content, as the place itself says (a blob id, an ETag); two contents
            never share one. None where only the bytes can tell.
    """

    key: str
    at: Any
    format: Format
    stamp: str = ""
    version: str | None = None


@dataclass
class Listing:
    """What a place holds.

    Attributes:
        files: the wanted files, in the order of keys.
        unnamed: files that no key can name, and why.
        failed: folders that could not be listed, as key prefixes, and why.
        refused: wanted files that the place will not hand out, and why.
        other: wanted files of a format that no parser reads.
        links: links that were not followed.
    """

    files: list[Item] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    other: int = 0
    links: int = 0

    def close(self) -> None:
        """Put the files in order; of two whose names are one after normalisation, keep one."""
        files = self.files
        files.sort(key=itemgetter(0, 1))
        doubles = [at for at in range(1, len(files)) if files[at].key == files[at - 1].key]
        for at in reversed(doubles):
            key = files.pop(at).key
            self.unnamed.append(f"another file's name differs only in its Unicode form: {key}")


@dataclass(frozen=True)
class Choice:
    """Which keys are wanted.

    Attributes:
        wanted: made by `matcher`; None takes nothing.
        excluded: keys to leave out; a folder that matches is not entered.
    """

    wanted: re.Pattern[str] | None
    excluded: re.Pattern[str] | None

    @classmethod
    def of(cls, globs: Iterable[str], exclude: Iterable[str]) -> Choice:
        """The choice that two lists of globs make."""
        return cls(matcher(globs), matcher(exclude))

    def leaves_out(self, key: str) -> bool:
        """Whether a file or a folder is excluded."""
        return self.excluded is not None and self.excluded.fullmatch(key) is not None

    def takes(self, key: str) -> bool:
        """Whether a file that is not excluded is wanted."""
        return self.wanted is not None and self.wanted.fullmatch(key) is not None

    def takes_path(self, key: str) -> bool:
        """Whether a file is wanted, for a place that lists no folders: its folders count too.

        Files and folders whose name starts with a dot are left out.
        """
        parts = key.split("/")
        if any(part.startswith(".") for part in parts) or not self.takes(key):
            return False
        if self.excluded is None:
            return True
        return not any(self.leaves_out("/".join(parts[:end])) for end in range(1, len(parts) + 1))


class Local:
    """What places share that hold nothing open and have no history."""

    dated = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def state(self) -> str | None:
        """See `Place.state`."""
        return None

    def time_of(self, item: Item) -> datetime | None:
        """See `Place.time_of`."""
        return None


class Place(Protocol):
    """A folder, an archive, a repository, a bucket, a web server's listing.

    Attributes:
        dated: `time_of` tells times that belong to the documents.
    """

    dated: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def state(self) -> str | None:
        """Names all that the place holds now, None when it cannot tell without listing it.

        Raises:
            SourceUnreachableError: the place cannot be reached.
        """
        ...

    def list_files(self, choice: Choice) -> Listing:
        """List what is wanted.

        Raises:
            SourceUnreachableError: the place cannot be reached or its root cannot be listed.
        """
        ...

    def read(self, item: Item, max_bytes: int) -> bytes:
        """The bytes of one file.

        Raises:
            OSError: it cannot be read.
            ParseError: it is larger than `max_bytes`, or no file any more.
            SourceUnreachableError: the place no longer answers.
        """
        ...

    def time_of(self, item: Item) -> datetime | None:
        """When the file last changed, by the place's own history (UTC); None when it has none."""
        ...


def format_of(name: str) -> Format | None:
    """The format that a file's name tells, None when no parser reads it."""
    return BY_SUFFIX.get(name.rpartition(".")[2].lower() if "." in name else "")


def normal(text: str) -> str:
    """`text` in NFC: file systems differ in how they spell an accent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def encodes(text: str) -> bool:
    """Whether `text` is text: a name of other bytes comes with lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def matcher(globs: Iterable[str]) -> re.Pattern[str] | None:
    """One pattern for all `globs`, None for none: `**` crosses folders, `*` and `?` do not."""
    patterns = [_translate(normal(glob.strip("/"))) for glob in globs]
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
