"""Embedding in bulk: the exported graph on OpenVINO against sentence-transformers in float32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.corpora import passages
from benchmarks.figures import Figure
from headwater.config import DEFAULT_MODEL
from headwater.retrieval.chunking import chunk
from headwater.retrieval.embedding import (
    SAME_SPACE,
    Embedder,
    OpenVinoEmbedder,
    agreement,
    open_embedder,
)
from headwater.retrieval.models import resolve
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.space import space_of
from headwater.retrieval.tokens import Tokenizer

_CHUNKS = 150
_PASSES = 2


def measure(work: Path) -> Iterator[Figure]:
    """Texts per CPU second of both backends over the same chunks, and how far they agree."""
    folder = resolve(DEFAULT_MODEL)
    space = space_of(folder, model=DEFAULT_MODEL)
    tokenizer = Tokenizer(folder / "tokenizer.json")
    kind, texts = passages(_CHUNKS)
    pieces = [
        piece
        for text in texts
        for piece in chunk(text, tokenizer=tokenizer, max_tokens=space.max_tokens, min_tokens=64)
    ][:_CHUNKS]
    tokens = sum(piece.tokens for piece in pieces) / len(pieces)
    chunks = [normalise(piece.text) for piece in pieces]
    export = work / f"export-{space.fingerprint[:16]}"
    export.mkdir(parents=True, exist_ok=True)
    names = ("openvino", "sentence-transformers")
    models = {name: open_embedder(folder, space, work=export, backend=name) for name in names}
    seconds: dict[str, float] = dict.fromkeys(names, np.inf)
    vectors: dict[str, np.ndarray] = {}
    import torch

    # Two threads of torch wait for each other in a busy loop; on a machine that others use, too,
    # that would count against it. OpenVINO runs a text per core, each on one thread.
    torch.set_num_threads(1)
    for model in models.values():
        model.encode(chunks[:8])
    # In turn, so that what else the machine does falls on both.
    for _ in range(_PASSES):
        for name, model in models.items():
            used, vectors[name] = _timed(model, chunks)
            seconds[name] = min(seconds[name], used)
    fast, plain = (seconds[name] for name in names)
    openvino = models["openvino"]
    precision = openvino.precision if isinstance(openvino, OpenVinoEmbedder) else ""
    note = f"{len(chunks)} chunks of {kind}, {tokens:.0f} tokens on average; best of {_PASSES}"
    yield Figure(
        f"openvino ({precision}), texts per CPU-s", len(chunks) / fast, note=note, digits=1
    )
    yield Figure(
        "sentence-transformers (f32), texts per CPU-s",
        len(chunks) / plain,
        note="the same chunks, one thread of torch, batches of 8",
        digits=1,
    )
    yield Figure("openvino over sentence-transformers", plain / fast, "x", note="same run")
    lowest = agreement(*(vectors[name] for name in names))
    yield Figure(
        "lowest cosine between the two", lowest, least=SAME_SPACE, note="same space", digits=5
    )


def _timed(model: Embedder, texts: list[str]) -> tuple[float, np.ndarray]:
    out = np.empty((len(texts), model.space.dim), dtype=np.float32)
    began = time.process_time()
    for places, block in model.embed(texts):
        out[places] = block
    return time.process_time() - began, out
