"""Embedding in bulk: the exported graph on OpenVINO against sentence-transformers in float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import passages, questions, sentences
from benchmarks.figures import Figure, skipped
from headwater.config import DEFAULT_MODEL
from headwater.retrieval.chunking import chunk
from headwater.retrieval.embedding import (
    SAME_SPACE,
    OpenVinoEmbedder,
    SentenceTransformersEmbedder,
    agreement,
)
from headwater.retrieval.embedding.gpu import gpu_seen
from headwater.retrieval.encoder import QueryEncoder
from headwater.retrieval.export import Exported, export_encoder
from headwater.retrieval.models import resolve
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.space import Space, space_of
from headwater.retrieval.tokens import Tokenizer

_CHUNKS = 300
_SENTENCES = 1000
_QUERIES = 100
_PASSES = 2
_K = 10
_BATCH = 8

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass
class Cost:
    """The least that a pass took, and the vectors it gave.

    Attributes:
        cpu, wall: seconds.
        vectors: float32 (texts, dim).
    """

    cpu: float = float("inf")
    wall: float = float("inf")
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def add(self, encode: Encode, texts: Sequence[str]) -> None:
        """Take one more pass over the texts."""
        began = time.process_time(), time.perf_counter()
        self.vectors = encode(texts)
        self.cpu = min(self.cpu, time.process_time() - began[0])
        self.wall = min(self.wall, time.perf_counter() - began[1])


def measure(work: Path) -> Iterator[Figure]:
    """What a text costs with each, of chunks and of sentences, and whether they find the same."""
    folder = resolve(DEFAULT_MODEL)
    space = space_of(folder, model=DEFAULT_MODEL)
    export = work / f"export-{space.fingerprint[:16]}"
    export.mkdir(parents=True, exist_ok=True)
    files = _exported(folder, space, export)
    graph = OpenVinoEmbedder(files.xml, files.weights, files.tokenizer, space=space)
    ways: dict[str, Encode] = {
        "openvino": _bulk(graph),
        "f32": _plain_graph(files, space),
        "torch": _sentence_transformers(folder),
    }
    kind, chunks = _chunks(folder, space)
    costs = _costs(ways, chunks)
    yield from _speed(f"{len(chunks)} chunks of {kind}", chunks, costs, graph.precision)
    short_kind, short = sentences(_SENTENCES)
    short = [normalise(text) for text in short]
    few = {name: ways[name] for name in ("openvino", "torch")}
    short_costs = _costs(few, short)
    yield Figure(
        "sentences: openvino over sentence-transformers",
        short_costs["torch"].cpu / short_costs["openvino"].cpu,
        "x",
        least=_target(graph.precision),
        note=f"{len(short)} {short_kind} sentences; texts of equal length run together: "
        f"{'yes' if graph.batched else 'no, it changes vectors here'}",
    )
    yield from _fidelity(ways, short_costs, costs)
    yield from _company(graph, short)
    yield from _on_a_gpu(folder, space, chunks, costs["torch"])


def _speed(
    what: str, texts: Sequence[str], costs: dict[str, Cost], precision: str
) -> Iterator[Figure]:
    fast, plain, torch = costs["openvino"], costs["f32"], costs["torch"]
    note = f"{what}; CPU time, best of {_PASSES}"
    yield Figure(f"openvino ({precision}), texts per CPU-s", len(texts) / fast.cpu, note=note)
    yield Figure(
        "sentence-transformers (f32), texts per CPU-s",
        len(texts) / torch.cpu,
        note=f"its own encode() in batches of {_BATCH}, cheaper than its 32; one thread of torch",
    )
    yield Figure(
        f"openvino ({precision}) over sentence-transformers",
        torch.cpu / fast.cpu,
        "x",
        least=_target(precision),
        note="same texts, same run",
    )
    yield Figure(
        "openvino (f32) over sentence-transformers",
        torch.cpu / plain.cpu,
        "x",
        least=1.5,
        note="what a processor without bf16 does",
    )


def _target(precision: str) -> float:
    return 2.5 if precision == "bf16" else 1.5


def _fidelity(
    ways: dict[str, Encode], short: dict[str, Cost], costs: dict[str, Cost]
) -> Iterator[Figure]:
    lowest = min(
        agreement(found["openvino"].vectors, found["torch"].vectors) for found in (short, costs)
    )
    yield Figure(
        "lowest cosine between the two", lowest, least=SAME_SPACE, note="same space", digits=5
    )
    asked = [normalise(query) for query in questions(_QUERIES)]
    nearest = []
    for name in ("openvino", "torch"):
        scores = ways[name](asked) @ short[name].vectors.T
        nearest.append(np.argpartition(scores, -_K, axis=1)[:, -_K:])
    shared = [len({*a} & {*b}) / _K for a, b in zip(*nearest, strict=True)]
    yield Figure(
        "overlap@10 between the two",
        float(np.mean(shared)),
        least=0.99,
        note=f"{_QUERIES} unseen queries over the sentences, both sides embedded by each",
        digits=4,
    )


def _company(graph: OpenVinoEmbedder, texts: Sequence[str]) -> Iterator[Figure]:
    together = graph.encode(texts)
    alone = np.vstack([graph.encode([text]) for text in texts])
    same = float((together == alone).all(axis=1).mean())
    yield Figure(
        "texts with the same bits alone and in a batch", same, least=1.0, most=1.0, digits=4
    )


def _on_a_gpu(folder: Path, space: Space, texts: Sequence[str], torch: Cost) -> Iterator[Figure]:
    if not gpu_seen():
        yield skipped("a GPU over the processor", "torch sees no GPU here")
        return
    model = SentenceTransformersEmbedder(folder, space, device="cuda")
    many = [*texts] * 20
    model.encode(many[:500])
    cost = Cost()
    cost.add(model.encode, many)
    yield Figure(
        "a GPU over sentence-transformers on the processor", 20 * torch.wall / cost.wall, "x"
    )
    found = agreement(model.encode(texts), torch.vectors)
    yield Figure("lowest cosine between them", found, least=SAME_SPACE, digits=5)


# --- the ways ---------------------------------------------------------------------------------


def _exported(folder: Path, space: Space, work: Path) -> Exported:
    """The graph of the last measurement, or a new one."""
    found = Exported(work / "encoder.xml", work / "encoder.bin", work / "tokenizer.json")
    whole = all(path.is_file() for path in (found.xml, found.weights, found.tokenizer))
    return found if whole else export_encoder(folder, space, work)


def _bulk(graph: OpenVinoEmbedder) -> Encode:
    """As a refresh does it: in groups of texts of like length."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        out = np.empty((len(texts), graph.space.dim), dtype=np.float32)
        for places, block in graph.embed(texts):
            out[places] = block
        return out

    return encode


def _plain_graph(files: Exported, space: Space) -> Encode:
    encoder = QueryEncoder(
        files.xml,
        files.weights,
        files.tokenizer,
        max_tokens=space.max_tokens,
        threads=2,
        streams=2,
        precision="f32",
        probes=("a few words", "to try a run of several texts on"),
    )
    return encoder.encode


def _sentence_transformers(folder: Path) -> Encode:
    """`SentenceTransformer.encode` as it comes, but for the batches."""
    import torch
    from sentence_transformers import SentenceTransformer

    # Two threads of torch wait for each other in a busy loop; on a machine that others use, too,
    # that would count against it. OpenVINO runs a text per core, each on one thread.
    torch.set_num_threads(1)
    model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors: np.ndarray = model.encode(
            list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return encode


def _costs(ways: dict[str, Encode], texts: Sequence[str]) -> dict[str, Cost]:
    for encode in ways.values():
        encode(texts[:8])
    costs = {name: Cost() for name in ways}
    # In turn, so that what else the machine does falls on all.
    for _ in range(_PASSES):
        for name, encode in ways.items():
            costs[name].add(encode, texts)
    return costs


def _chunks(folder: Path, space: Space) -> tuple[str, list[str]]:
    tokenizer = Tokenizer(folder / "tokenizer.json")
    kind, texts = passages(_CHUNKS)
    pieces = (
        piece
        for text in texts
        for piece in chunk(text, tokenizer=tokenizer, max_tokens=space.max_tokens, min_tokens=64)
    )
    return kind, [normalise(piece.text) for piece, _ in zip(pieces, range(_CHUNKS), strict=False)]
