"""Claims: two runs never pull the same source, and a run that was overtaken cannot publish.

A claim is a kernel lock on `claims/<source>.lock` (gone with its process) plus a fencing token in
`claims/<source>.json` that only rises. `publish` checks the token under the store's lock.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headwater.errors import BusyError
from headwater.storage import files

_HOLDER = re.compile(r"process (?P<pid>\d+) on (?P<host>\S+)")
_TRUSTED = timedelta(days=1)


@dataclass(frozen=True)
class Claim:
    """The right to change one source.

    Attributes:
        source: its name.
        token: higher than that of every earlier claim on the source.
        path: the file that holds the newest token.
    """

    source: str
    token: int
    path: Path

    def check(self) -> None:
        """Make sure that nobody claimed the source after us.

        Raises:
            BusyError: somebody did.
        """
        if _token(self.path) != self.token:
            raise BusyError(
                "Another run took over the source", obj=self.source, todo="let it finish"
            )


@contextmanager
def claimed(store: Path, source: str, *, run_id: str) -> Iterator[Claim]:
    """Hold the claim on `source` of the store at `store`.

    Raises:
        BusyError: another run holds it; the message names that run and its process.
    """
    folder = store / "claims"
    holder = f"source {source}, run {run_id}, process {os.getpid()} on {socket.gethostname()}"
    with files.locked(folder / f"{source}.lock", holder=holder):
        path = folder / f"{source}.json"
        token = _token(path) + 1
        stamp = json.dumps({"token": token, "run_id": run_id})
        files.replace(path, stamp.encode() + b"\n", tmp=store / "tmp")
        yield Claim(source, token, path)


def running_since(store: Path, *, now: datetime) -> datetime | None:
    """When the oldest run that may still be at work claimed its source, or None when none is.

    What is decided by this must err towards leaving things alone: for a day a process counts that
    lives, or may live on another machine, although its run may be over. Then only the lock does:
    asking for it could refuse a run that is just beginning.
    """
    found = []
    folder = store / "claims"
    for lock in sorted(folder.glob("*.lock")) if folder.is_dir() else ():
        try:
            holder = _HOLDER.search(lock.read_text("utf-8", "replace"))
            began = datetime.fromtimestamp(lock.with_suffix(".json").stat().st_mtime, UTC)
        except OSError:
            continue
        if holder is None:
            continue
        here = holder["host"] == socket.gethostname()
        if here and not is_alive(int(holder["pid"])):
            continue
        if now - began < _TRUSTED or files.is_locked(lock):
            found.append(began)
    return min(found, default=None)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _token(path: Path) -> int:
    try:
        return int(json.loads(path.read_bytes())["token"])
    except (OSError, ValueError, KeyError):
        return 0
