"""A refresh for `test_kill` to kill: `killed_refresh.py ROOT PAUSE_S`, a pause per 64 texts embedded."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import headwater.flows.sources.documents
import headwater.retrieval.vector_search  # noqa: F401
from headwater.config import load
from headwater.flows.encoding import Encoding, twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval.embedding import HashEmbedder


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


def main() -> None:
    root, pause_s = sys.argv[1], float(sys.argv[2])

    def slow(*args: Any, **options: Any) -> Encoding:
        made = twin_encoding(*args, **options)
        return Encoding(made.encoder, made.cutter, lambda: Slow(pause_s))

    print("begin", flush=True)
    report = refresh(load(root), encoding=slow)
    print(json.dumps({"embedded": report.embedded, "snapshot": report.snapshot}))


if __name__ == "__main__":
    main()
