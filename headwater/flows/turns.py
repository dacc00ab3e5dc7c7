"""How a backfill and the schedule take turns at a source: each waits for the other's short claims."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headwater.errors import BusyError
from headwater.storage.claims import Claim, claimed

BACKFILL_MARK = "-backfill-"
"""In the id of a backfill's runs, and so in what a refused run is told."""

_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.1


@contextmanager
def claimed_patiently(store: Path, source: str, *, run_id: str) -> Iterator[Claim]:
    """Hold the claim on a source; a backfill that holds it for a window is waited for.

    Any other run is at work on what we want, and is not.

    Raises:
        BusyError: another run holds it, or a backfill does for longer than a minute.
    """
    deadline = time.monotonic() + _PATIENCE_S
    with ExitStack() as stack:
        while True:
            try:
                claim = stack.enter_context(claimed(store, source, run_id=run_id))
                break
            except BusyError as error:
                if BACKFILL_MARK not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_EVERY_S)
        yield claim
