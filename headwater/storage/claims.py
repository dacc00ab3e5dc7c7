"""Claims: two runs never pull the same source, and a run that was overtaken cannot publish.

A claim is a kernel lock on `claims/<source>.lock` (gone with its process) plus a fencing token in
`claims/<source>.json` that only rises. `publish` checks the token under the store's lock.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headwater.errors import BusyError
from headwater.storage import files


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


def _token(path: Path) -> int:
    try:
        return int(json.loads(path.read_bytes())["token"])
    except (OSError, ValueError, KeyError):
        return 0
