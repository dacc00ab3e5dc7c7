"""When each source was last confirmed: the run log, read again only when it has grown."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from headwater.storage.runlog import RunLog

_AT_MOST_S = 5.0
"""Readings of the log are never older than this, even where the file system hides a change."""

_TICK_NS = 1_000_000_000
"""No file system's clock is coarser."""


class Verification:
    """The last verification of each source of a store, as far as the run log knows."""

    def __init__(self, store: Path) -> None:
        self._log = RunLog(store)
        self._folder = store / "runs"
        self._lock = threading.Lock()
        self._listed = (0, "")
        self._mark = (0, 0)
        self._read_at = 0.0
        self._found: dict[tuple[frozenset[str], datetime | None], dict[str, datetime]] = {}

    def last(
        self, sources: Iterable[str], *, known_by: datetime | None = None
    ) -> dict[str, datetime]:
        """When each of `sources` was last verified; `known_by` leaves out what came later."""
        key = (frozenset(sources), known_by)
        with self._lock:
            mark, now = self._state(), time.monotonic()
            if mark != self._mark or now - self._read_at > _AT_MOST_S or len(self._found) > 64:
                self._found.clear()
                self._mark, self._read_at = mark, now
            if key not in self._found:
                self._found[key] = self._log.last_verified(key[0], known_by=known_by)
            return self._found[key]

    def _state(self) -> tuple[int, int]:
        """What changes when a run begins a file, or the newest file grows."""
        try:
            changed = self._folder.stat().st_mtime_ns
            newest = self._newest(changed)
            return changed, (self._folder / newest).stat().st_size if newest else 0
        except OSError:
            return 0, 0

    def _newest(self, changed: int) -> str:
        """The newest file; the folder is listed again when it changed, or did so a moment ago.

        Args:
            changed: when it last changed, nanoseconds since 1970.
        """
        known, newest = self._listed
        if known != changed:
            newest = max((entry.name for entry in os.scandir(self._folder)), default="")
            # Within a tick of the clock a second file would not show.
            settled = time.time_ns() - changed > _TICK_NS
            self._listed = (changed if settled else 0, newest)
        return newest
