"""Where many texts are embedded: on a GPU, where torch sees one and it is worth its start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from headwater.retrieval.embedding.protocol import Embedder
from headwater.retrieval.encoder import Vectors

_WORTH_A_GPU: Final = 2000
"""Texts. torch and sentence-transformers take 7 CPU-seconds to load, in which OpenVINO has embedded
several hundred on one core."""
_DEVICES: Final = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""What Linux shows of NVIDIA's and AMD's GPUs, and of any through WSL."""


def gpu_seen() -> bool:
    """Whether torch sees a GPU; torch, which is slow to load, is asked only where there may be one."""
    if not any(Path(device).exists() for device in _DEVICES):
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


class GpuForMany:
    """A few texts on the processor, many on a GPU.

    Args:
        few: embeds a few; its space is that of both.
        many: opens what embeds many; None where it turns out that it cannot.
    """

    def __init__(self, few: Embedder, many: Callable[[], Embedder | None]) -> None:
        self.space = few.space
        self._few = few
        self._many = many

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        return self._few.encode(texts)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`."""
        many = self._many() if len(texts) >= _WORTH_A_GPU else None
        yield from (many or self._few).embed(texts)
