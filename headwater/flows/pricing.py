"""What embedding costs: in texts, tokens, seconds of this machine, and money where it has a price."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.config import KnowledgeBase
from headwater.errors import HeadwaterError
from headwater.flows.ahead import Wanted
from headwater.flows.collected import FOLDER
from headwater.flows.encoding import Encoding
from headwater.storage import files

_SAMPLE = 48
_ENOUGH = 16
"""Texts from which a measured speed says something."""


@dataclass(frozen=True)
class Price:
    """What it would cost to embed some texts.

    Attributes:
        texts: distinct ones without a vector.
        tokens: of all of them.
        tokens_per_s: of this model on this machine; None when nobody knows.
        measured: where that comes from: `now`, `last backfill`, or empty.
        per_million: the configured price of a million tokens; None without one.
    """

    texts: int
    tokens: int
    tokens_per_s: float | None = None
    measured: str = ""
    per_million: float | None = None

    @property
    def seconds(self) -> float | None:
        """Estimated time to embed them; None when the speed is not known."""
        if not self.texts:
            return 0.0
        return None if not self.tokens_per_s else self.tokens / self.tokens_per_s

    @property
    def money(self) -> float | None:
        """What they would cost; None without a price."""
        return None if self.per_million is None else self.tokens / 1e6 * self.per_million

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "seconds": self.seconds, "money": self.money}


def price_of(kb: KnowledgeBase, wanted: Wanted, encoding: Encoding | None) -> Price:
    """Price some texts, at the speed of the last backfill or else as measured on a few of them now.

    An endpoint is not asked: that might cost what is only to be estimated.
    """
    speed, measured = (_noted(kb, encoding) if encoding else None), "last backfill"
    if speed is None and encoding and kb.config.embedding.endpoint is None and wanted.texts:
        speed, measured = _measured(wanted, encoding), "now"
    return Price(
        texts=len(wanted.hashes),
        tokens=wanted.tokens,
        tokens_per_s=round(speed, 1) if speed else None,
        measured=measured if speed else "",
        per_million=kb.config.embedding.price_per_million_tokens,
    )


def note_speed(kb: KnowledgeBase, encoding: Encoding, wanted: Wanted, *, seconds: float) -> None:
    """Remember how fast texts were embedded, for later estimates; few of them tell nothing."""
    if len(wanted.texts) < _ENOUGH or seconds <= 0:
        return
    noted = {"space": encoding.encoder.fingerprint, "tokens_per_s": wanted.tokens / seconds}
    path = _path(kb)
    files.replace(path, json.dumps(noted).encode(), tmp=path.parent)


def _noted(kb: KnowledgeBase, encoding: Encoding) -> float | None:
    try:
        noted = json.loads(_path(kb).read_bytes())
        same = noted["space"] == encoding.encoder.fingerprint
        return float(noted["tokens_per_s"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(wanted: Wanted, encoding: Encoding) -> float | None:
    """Tokens per second on a few of the texts; None where the model cannot be opened now."""
    step = max(1, len(wanted.texts) // _SAMPLE)
    sample = wanted.texts[::step][:_SAMPLE]
    try:
        model = encoding.embedder()
        _embed(model.embed(sample[:2]))
        began = time.monotonic()
        _embed(model.embed(sample))
        seconds = time.monotonic() - began
    except HeadwaterError:
        return None
    tokens = wanted.tokens / len(wanted.texts) * len(sample)
    return tokens / max(seconds, 1e-9)


def _embed(blocks: Iterator[Any]) -> None:
    for _ in blocks:
        pass


def _path(kb: KnowledgeBase) -> Path:
    return kb.root / FOLDER / "speed.json"
