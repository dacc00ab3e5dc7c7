"""The store's one door to the disk: every mutating operation passes through here.

Nothing becomes visible under its final name before its bytes are on the disk: write to a temporary
file, fsync it, rename it, fsync the folder. A reader therefore sees a whole file or none.

Each operation announces itself to `before`, if anybody listens: that is how the tests kill a run, or
let the disk refuse, at every single step.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headwater.errors import BusyError, NotFoundError, StorageUnavailableError

_CHUNK = 1 << 18

before: Callable[[str, Path], None] | None = None
"""Called with (operation, path) before each mutating operation; None but in tests. It may raise an
`OSError`, as the operating system would. Operations: `create`, `write`, `library` (a library wrote
the file; nothing of it is synced), `fsync`, `mkdir`, `rename`, `fsync-folder`, `append`, `cut`,
`unlink`, `rmdir`, `lock`, `holder`, `touch`."""


def _step(operation: str, path: Path) -> None:
    if before is not None:
        before(operation, path)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into `StorageUnavailableError` about `path`."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError.of(error, path) from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents; their names are not yet durable."""
    if path.is_dir():
        return
    with translated(path):
        _step("mkdir", path)
        path.mkdir(parents=True, exist_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to `path` and force it to the disk; the name itself is not yet durable."""
    with translated(path):
        _step("create", path)
        with path.open("wb", buffering=0) as file:
            _write(file.fileno(), data, "write", path)
            _step("fsync", path)
            os.fsync(file.fileno())


def _write(handle: int, data: bytes, operation: str, path: Path) -> None:
    # Who listens also learns of the moment at which half of the bytes are written.
    half = len(data) // 2 if before is not None else len(data)
    for piece in (data[:half], data[half:]):
        if piece:
            _step(operation, path)
        # A nearly full disk takes a part and refuses the rest in the next call.
        while piece:
            piece = piece[os.write(handle, piece) :]


@contextmanager
def library_write(path: Path) -> Iterator[None]:
    """Around a library that writes the draft `path` by itself."""
    with translated(path):
        _step("create", path)
        yield
        _step("library", path)


def sync_file(path: Path) -> None:
    """Force the bytes of a file another library wrote to the disk."""
    with translated(path), path.open("rb") as file:
        _step("fsync", path)
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make renames and new names in `path` durable."""
    with translated(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _step("fsync-folder", path)
            os.fsync(handle)
        finally:
            os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename `source` (already synced) to `target` and make the new name durable."""
    make_folder(target.parent)
    with translated(target):
        _step("rename", target)
        source.replace(target)
    sync_folder(target.parent)


def replace(path: Path, data: bytes, *, tmp: Path) -> None:
    """Atomically make `path` hold `data`, by way of the folder `tmp` on the same file system."""
    make_folder(tmp)
    draft = tmp / f"{path.name}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        write_new(draft, data)
        move(draft, path)
    except BaseException:
        with suppress(StorageUnavailableError):
            remove(draft)
        raise


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write, so that concurrent lines never interleave.

    A line that a crash or a full disk left half written stays alone: the new one begins below it.
    """
    make_folder(path.parent)
    with translated(path):
        created = not path.exists()
        if created:
            _step("create", path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = b"\n" * torn + line.rstrip("\n").encode() + b"\n"
            _write(handle, data, "append", path)
            _step("fsync", path)
            os.fsync(handle)
        finally:
            os.close(handle)
    if created:
        sync_folder(path.parent)


def cut(path: Path, size: int) -> None:
    """Shorten a file to its first `size` bytes."""
    with translated(path), path.open("r+b") as file:
        _step("cut", path)
        os.ftruncate(file.fileno(), size)
        _step("fsync", path)
        os.fsync(file.fileno())


def touch(path: Path) -> None:
    """Make a file look as if it were written now."""
    with translated(path):
        _step("touch", path)
        os.utime(path)


def remove(path: Path) -> None:
    """Delete a file; a file that is already gone is fine."""
    with translated(path):
        _step("unlink", path)
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Delete a folder and what it holds. Two processes may do it at once: gone is gone."""
    for name, folders, names in os.walk(path, topdown=False):
        folder = Path(name)
        links = [child for child in folders if (folder / child).is_symlink()]
        for child in sorted((*names, *links)):
            remove(folder / child)
        with translated(folder), suppress(FileNotFoundError):
            _step("rmdir", folder)
            folder.rmdir()


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        NotFoundError: there is no such file.
        StorageUnavailableError: it may not be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            "A file of the store is missing", obj=str(path), todo="run 'headwater verify'"
        ) from None
    except OSError as error:
        raise StorageUnavailableError.of(error, path) from error


def sha256(data: bytes) -> str:
    """The hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with translated(path), path.open("rb", buffering=0) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def locked(
    path: Path, *, wait_s: float = 0.0, holder: str = "", shared: bool = False
) -> Iterator[None]:
    """Hold a lock that the kernel releases when the process dies.

    Args:
        path: the lock file; created when absent, never deleted.
        wait_s: how long to wait for another holder.
        holder: written into the file, for the message of whoever is refused.
        shared: others may hold it shared at the same time; otherwise nobody may.

    Raises:
        BusyError: still held after `wait_s` seconds.
    """
    make_folder(path.parent)
    with translated(path):
        if not path.exists():
            _step("create", path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(handle, path, wait_s, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if holder:
            with translated(path):
                _step("holder", path)
                os.ftruncate(handle, 0)
                os.pwrite(handle, holder.encode(), 0)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock alone at this moment. Whoever asks for it just then is refused."""
    with translated(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def _acquire(handle: int, path: Path, wait_s: float, how: int) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            _step("lock", path)
            fcntl.flock(handle, how | fcntl.LOCK_NB)
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
        except OSError as error:
            raise StorageUnavailableError.of(error, path) from error
