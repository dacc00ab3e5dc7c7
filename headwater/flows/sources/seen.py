"""The prefilter: which files still are what they were when their fingerprint was computed.

A mark is 8 bytes: a keyed hash over a file's key, its fingerprint and its stamp (size, times,
inode). It says "with this stamp the file had that fingerprint", which stays true whatever is
published or rolled back: the fingerprint to look for comes from the store. So the marks need no
transaction. They live beside the knowledge base, like git's index beside a repository, and losing
them costs one reading of every file.

A stamp younger than two seconds when the listing began is not marked: the file may change again
within the same tick of its clock. A checkout that resets times gives other stamps; such files are
read once more, found equal, and marked.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

_MAGIC = b"headwater marks 1\n"
_SALT = 16
_MARK = 8
_RACY_NS = 2_000_000_000


class Seen:
    """The marks of one source.

    Args:
        path: the file they are kept in.
        scope: what else a stamp depends on: marks of another folder are none.

    Attributes:
        trouble: why the marks could not be kept, empty when they could.
    """

    def __init__(self, path: Path, *, scope: str) -> None:
        self._path = path
        self._racy_after = time.time_ns() - _RACY_NS
        self._kept: set[bytes] = set()
        self.trouble = ""
        salt, self._before = _load(path)
        self._salt = salt or os.urandom(_SALT)
        self._key = blake2b(scope.encode("utf-8", "replace"), key=self._salt).digest()

    def holds(self, key: str, fingerprint: str, stamp: str) -> bool:
        """Whether the file was seen with this stamp and fingerprint; if so, the mark is kept."""
        if not stamp:
            return False
        mark = self._mark(key, fingerprint, stamp)
        if mark in self._before:
            self._kept.add(mark)
            return True
        return False

    def keep(self, key: str, fingerprint: str, stamp: str) -> None:
        """Mark a file that was just read, unless its stamp is too young to be trusted."""
        if stamp and int(stamp.partition(":")[0]) < self._racy_after:
            self._kept.add(self._mark(key, fingerprint, stamp))

    def save(self) -> None:
        """Keep the marks of this listing, and only those; a failure costs the next run time."""
        if self._kept == self._before:
            return
        data = _MAGIC + self._salt + b"".join(sorted(self._kept))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            self.trouble = error.strerror or str(error)

    def _mark(self, key: str, fingerprint: str, stamp: str) -> bytes:
        text = f"{key}\0{fingerprint}\0{stamp}"
        return blake2b(text.encode(), key=self._key, digest_size=_MARK).digest()


def _load(path: Path) -> tuple[bytes, set[bytes]]:
    """The salt and the marks of a file; nothing when it is missing, cut short or another's."""
    try:
        data = path.read_bytes()
    except OSError:
        return b"", set()
    start = len(_MAGIC) + _SALT
    if not data.startswith(_MAGIC) or (len(data) - start) % _MARK or len(data) < start:
        return b"", set()
    marks = {data[at : at + _MARK] for at in range(start, len(data), _MARK)}
    return data[len(_MAGIC) : start], marks
