"""The store's one door to the disk: every mutating operation passes through here.

Nothing becomes visible under its final name before its bytes are on the disk: write to a temporary
file, fsync it, rename it, fsync the folder. A reader therefore sees a whole file or none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.errors import BusyError, NotFoundError, StorageUnavailableError

_CHUNK = 1 << 20


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into `StorageUnavailableError` about `path`."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError.of(error, path) from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents."""
    with translated(path):
        path.mkdir(parents=True, exist_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to `path` and force it to the disk; the name itself is not yet durable."""
    with translated(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Force the bytes of a file another library wrote to the disk."""
    with translated(path), path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make renames and new names in `path` durable."""
    with translated(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename `source` (already synced) to `target` and make the new name durable."""
    with translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    sync_folder(target.parent)


def replace(path: Path, data: bytes, *, tmp: Path) -> None:
    """Atomically make `path` hold `data`, by way of the folder `tmp` on the same file system."""
    make_folder(tmp)
    draft = tmp / f"{path.name}.{os.getpid()}.{time.monotonic_ns()}"
    write_new(draft, data)
    move(draft, path)


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write, so that concurrent lines never interleave."""
    make_folder(path.parent)
    with translated(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.rstrip("\n").encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Delete a file; a file that is already gone is fine."""
    with translated(path):
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Delete a folder and what it holds."""
    if not path.is_dir():
        return
    for child in sorted(path.rglob("*"), reverse=True):
        with translated(child):
            child.rmdir() if child.is_dir() and not child.is_symlink() else child.unlink()
    with translated(path):
        path.rmdir()


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        NotFoundError: there is no such file.
        StorageUnavailableError: it may not be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError("A file of the store is missing", obj=str(path)) from None
    except OSError as error:
        raise StorageUnavailableError.of(error, path) from error


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with translated(path), path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def locked(path: Path, *, wait_s: float = 0.0, holder: str = "") -> Iterator[None]:
    """Hold an exclusive lock that the kernel releases when the process dies.

    Args:
        path: the lock file; created when absent, never deleted.
        wait_s: how long to wait for another holder.
        holder: written into the file, for the message of whoever is refused.

    Raises:
        BusyError: still held after `wait_s` seconds.
    """
    make_folder(path.parent)
    with translated(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(handle, path, wait_s)
        if holder:
            with translated(path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, holder.encode(), 0)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(handle, 200, 0).decode(errors="replace")
                raise BusyError(
                    "Another run is at work",
                    obj=holder or str(path),
                    todo="wait for it and run again; nothing was lost",
                ) from None
            time.sleep(0.05)
