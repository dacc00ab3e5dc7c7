"""The retriever for applications on an event loop: the same searches, in threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from headwater.errors import ConfigError
from headwater.retrieval.retriever import Retriever

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_THREADS = 4


class _Awaited(Generic[P, R]):
    """A method of `Retriever`, awaited: it has that method's parameters, whatever they become."""

    def __init__(self, method: Callable[Concatenate[Retriever, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(
        self, owner: AsyncRetriever, kind: type[AsyncRetriever]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        async def awaited(*args: P.args, **options: P.kwargs) -> R:
            return await owner._run(partial(self._method, owner.retriever, *args, **options))

        return awaited


class AsyncRetriever:
    """Searches without holding up the event loop. Make one with `open`, or over a `Retriever`.

    A search that is cancelled goes on in its thread, and nobody waits for it; the retriever stays
    usable. Used from one event loop.

    Args:
        retriever: asked by this alone or by others too; closed with this.
        threads: searches at once; others wait.
    """

    def __init__(self, retriever: Retriever, *, threads: int = _THREADS) -> None:
        if threads < 1:
            raise ConfigError("Too few threads", obj=f"threads={threads}", todo="give it 1 or more")
        self.retriever = retriever
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="headwater-search")
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path, *, threads: int = _THREADS, **options: Any) -> Self:
        """Open a knowledge base; `options` are those of `Retriever.open`.

        Raises:
            HeadwaterError: as `Retriever.open`.
        """
        return cls(await asyncio.to_thread(Retriever.open, path, **options), threads=threads)

    search = _Awaited(Retriever.search)

    @property
    def snapshot(self) -> str:
        """The name of the snapshot that a search would answer from now."""
        return self.retriever.snapshot

    async def close(self) -> None:
        """Wait for the searches that run, and let go of the files."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        self.retriever.close()

    async def __aenter__(self) -> Self:
        """The retriever itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise ConfigError("The retriever is closed", todo="open another one")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
