"""What a source that mostly reads what is new must know to list all of its records now and then."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.storage.runlog import RunLog

_NOT_LISTED = ("partial", "stopped")
"""Outcomes of runs that pulled the source and did not confirm every document."""


@dataclass(frozen=True, eq=False)
class CurrentKeys(Collection[str]):
    """The keys of live documents that are as the source last sent them.

    Attributes:
        live: by key.
        held: keys with a newer version in quarantine.
    """

    live: Mapping[str, Any]
    held: frozenset[str]

    def __contains__(self, key: object) -> bool:
        return key not in self.held and key in self.live

    def __iter__(self) -> Iterator[str]:
        return (key for key in self.live if key not in self.held)

    def __len__(self) -> int:
        return len(self.live) - sum(key in self.live for key in self.held)


def current_keys(live: Mapping[str, Any], quarantine: pa.Table, source: str) -> CurrentKeys:
    """The keys of a source that may be listed without being read.

    Args:
        live: its live documents.
        quarantine: all that was held back so far.
        source: its name.
    """
    own = quarantine.filter(pc.equal(quarantine["source"], source))
    return CurrentKeys(live, frozenset(own["key"].to_pylist()))


def partial_runs(log: RunLog, source: str) -> int:
    """How many runs pulled a source since one confirmed every document of it."""
    count = 0
    for entry in log.newest_first():
        if entry.source != source:
            continue
        if entry.outcome == "verified":
            break
        count += entry.outcome in _NOT_LISTED
    return count
