"""Every measurement, in the order of a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks import (
    amplification,
    churn,
    coldstart,
    databases,
    documents,
    embedding,
    fusion,
    history,
    quality,
    refresh,
    replays,
    search,
    speed,
    startup,
    swaps,
    temporal,
)
from benchmarks.figures import Measurement

MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    "startup": startup.measure,
    "coldstart": coldstart.measure,
    "search": search.measure,
    "speed": speed.measure,
    "swaps": swaps.measure,
    "churn": churn.measure,
    "refresh": refresh.measure,
    "history": history.measure,
    "amplification": amplification.measure,
    "embedding": embedding.measure,
    "quality": quality.measure,
    "temporal": temporal.measure,
    "fusion": fusion.measure,
    "databases": databases.measure,
    "documents": documents.measure,
    "replays": replays.measure,
}
