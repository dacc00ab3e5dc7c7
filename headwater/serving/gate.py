"""The gate: how many requests are worked on at once, in which threads, and for how long.

A thread cannot be stopped. So a request that took too long is answered, and its place is free only
when its work has ended: what is counted is work, not patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from headwater.errors import BusyError
from headwater.serving.problems import ProblemError, too_slow

T = TypeVar("T")


class Gate:
    """Runs blocking work for an event loop. Used from that loop alone."""

    def __init__(self, name: str, *, threads: int, limit: int, timeout_s: float) -> None:
        """Make a gate.

        Args:
            name: of its threads.
            threads: that work.
            limit: how much is taken in, what waits for a thread included.
            timeout_s: how long a caller waits.
        """
        self._pool = ThreadPoolExecutor(min(threads, limit), thread_name_prefix=name)
        self._limit = limit
        self._timeout_s = timeout_s
        self.held = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in a thread.

        Raises:
            BusyError: as much as may be is being worked on.
            ProblemError: it took too long; the work goes on.
        """
        if self.held >= self._limit:
            raise BusyError(
                "The service has as many requests as it may take",
                obj=f"{self._limit} at once",
                todo="ask again in a second",
            )
        self.held += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._done)
        done, _ = await asyncio.wait([future], timeout=self._timeout_s)
        if not done:
            raise ProblemError(too_slow(self._timeout_s))
        return future.result()

    def close(self) -> None:
        """Take nothing in any more; what has not begun is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self.held -= 1
        # Asked for, so that the loop does not complain about an error that nobody waited for.
        if not future.cancelled():
            future.exception()
