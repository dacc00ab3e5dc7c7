"""A refresh for `test_kill` to kill: `killed_refresh.py ROOT PAUSE_S [NUMBER before|after]`.

It rests PAUSE_S seconds after each 64 texts embedded. With a NUMBER it kills itself before or after
that many renames: the only steps by which anything of the store changes under its final name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import headwater.flows.sources.documents
import headwater.retrieval.vector_search  # noqa: F401
from headwater.config import load
from headwater.flows.encoding import Encoding, twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval.embedding import HashEmbedder
from headwater.storage import files


class Slow(HashEmbedder):
    """Embeds 64 texts at a time and rests after each."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s = pause_s

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Any]]:
        for first in range(0, len(texts), 64):
            indices = list(range(first, min(first + 64, len(texts))))
            yield indices, self.encode([texts[i] for i in indices])
            time.sleep(self.pause_s)


def die_at(number: int, when: str) -> None:
    """Have this process killed at the rename with that number, counted from 1."""
    rename, done = files.move, 0

    def counted(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    files.move = counted


def main() -> None:
    root, pause_s = sys.argv[1], float(sys.argv[2])
    if len(sys.argv) > 3:
        die_at(int(sys.argv[3]), sys.argv[4])

    def slow(*args: Any, **options: Any) -> Encoding:
        made = twin_encoding(*args, **options)
        return Encoding(made.encoder, made.cutter, lambda: Slow(pause_s))

    print("begin", flush=True)
    report = refresh(load(root), encoding=slow)
    print(json.dumps({"embedded": report.embedded, "snapshot": report.snapshot}))


if __name__ == "__main__":
    main()
