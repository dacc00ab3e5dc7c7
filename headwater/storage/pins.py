"""Pins: leases by which a reader that may write keeps a snapshot's objects from the vacuum.

A pin is `pins/<id>.json`. It ends by its own time, or with its process where that ran on this
machine since it was started. A reader that may not write relies on the vacuum's grace.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headwater.errors import StorageUnavailableError
from headwater.storage import files
from headwater.storage.claims import is_alive
from headwater.storage.manifest import format_time, parse_time

LEASE = timedelta(hours=1)
"""How long a pin holds unless it is renewed."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Pin:
    """One lease.

    Attributes:
        snapshot: whose objects it keeps.
        pid, boot_id, host: of the process that reads; `boot_id` is empty where there is none.
        expires: RFC 3339 in UTC.
    """

    snapshot: str
    pid: int
    boot_id: str
    host: str
    expires: str

    def holds(self, now: datetime) -> bool:
        """Whether its time is not over and its process is not known to be dead."""
        if parse_time(self.expires) <= now:
            return False
        if self.host != socket.gethostname():
            return True
        return self.boot_id == boot_id() and is_alive(self.pid)


def boot_id() -> str:
    """What the kernel calls the time since this machine was started; empty where it does not."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def read_pins(root: Path) -> Iterator[tuple[Path, Pin | None]]:
    """Every pin of the store at `root` with its file; None for a file that is no pin."""
    folder = root / "pins"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            pin = Pin(**json.loads(path.read_bytes()))
            parse_time(pin.expires)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError):
            yield path, None
        else:
            yield path, pin


def pinned_snapshots(root: Path, *, now: datetime) -> frozenset[str]:
    """The snapshots that pins keep at this moment."""
    return frozenset(pin.snapshot for _, pin in read_pins(root) if pin and pin.holds(now))


def clear_pins(root: Path, *, now: datetime) -> int:
    """Remove the pins that no longer hold; returns how many."""
    over = [path for path, pin in read_pins(root) if pin is None or not pin.holds(now)]
    for path in over:
        files.remove(path)
    return len(over)


class Lease:
    """Keeps one snapshot at a time, as far as the store can be written; never fails.

    Safe to share between threads. Not across a fork: the child makes its own.
    """

    def __init__(self, root: Path, *, length: timedelta = LEASE) -> None:
        self._root = root
        self._length = length
        self._path = root / "pins" / f"{uuid.uuid4().hex}.json"
        self._lock = threading.Lock()
        self._snapshot = ""
        self._renew_at = datetime.min.replace(tzinfo=UTC)
        self.written = False

    def hold(self, snapshot: str) -> None:
        """Pin `snapshot` in place of what was pinned; renews the lease when half of it is over."""
        now = datetime.now(UTC)
        if snapshot == self._snapshot and now < self._renew_at:
            return
        with self._lock:
            # Set although the store refuses: a read-only one is not asked again at every search.
            self._snapshot, self._renew_at = snapshot, now + self._length / 2
            expires = format_time(now + self._length)
            pin = Pin(snapshot, os.getpid(), boot_id(), socket.gethostname(), expires)
            data = json.dumps(asdict(pin)).encode() + b"\n"
            try:
                files.replace(self._path, data, tmp=self._root / "tmp")
                self.written = True
            except StorageUnavailableError:
                self.written = False

    def release(self) -> None:
        """Remove the pin."""
        with self._lock:
            self._snapshot = ""
            if self.written:
                self.written = False
                try:
                    files.remove(self._path)
                except StorageUnavailableError:
                    # It ends by its time.
                    return
