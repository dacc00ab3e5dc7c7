"""The retriever for applications on an event loop: the same searches and answers, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from headwater.errors import ConfigError
from headwater.retrieval.answers import Answer, AnswerStream, answer, answer_stream
from headwater.retrieval.retriever import Retriever

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_THREADS = 4
_ANSWERING = 32
"""Threads that wait for a model; they do next to nothing else."""


class _Awaited(Generic[P, R]):
    """What asks a `Retriever`, awaited: it has that function's parameters, whatever they become."""

    def __init__(
        self, method: Callable[Concatenate[Retriever, P], R], *, answering: bool = False
    ) -> None:
        self._method = method
        self._answering = answering
        self.__doc__ = method.__doc__

    def __get__(
        self, owner: AsyncRetriever, kind: type[AsyncRetriever]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        async def awaited(*args: P.args, **options: P.kwargs) -> R:
            work = partial(self._method, owner.retriever, *args, **options)
            return await owner._run(work, answering=self._answering)

        return awaited


class _Streamed(Generic[P]):
    """`answer_stream`, as `_Awaited` has methods."""

    def __init__(self, method: Callable[Concatenate[Retriever, P], AnswerStream]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(
        self, owner: AsyncRetriever, kind: type[AsyncRetriever]
    ) -> Callable[P, AsyncAnswerStream]:
        def begun(*args: P.args, **options: P.kwargs) -> AsyncAnswerStream:
            return AsyncAnswerStream(
                owner, partial(self._method, owner.retriever, *args, **options)
            )

        return begun


class AsyncRetriever:
    """Searches without holding up the event loop. Make one with `open`, or over a `Retriever`.

    What is cancelled goes on in its thread, a search to its end, an answer to the model's next word
    or its deadline; nobody waits for it, and the retriever stays usable. Used from one event loop.

    Args:
        retriever: asked by this alone or by others too; closed with this.
        threads: searches at once; others wait.
    """

    def __init__(self, retriever: Retriever, *, threads: int = _THREADS) -> None:
        if threads < 1:
            raise ConfigError("Too few threads", obj=f"threads={threads}", todo="give it 1 or more")
        self.retriever = retriever
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="headwater-search")
        # Answers wait for a model, and must not keep searches waiting.
        self._answering = ThreadPoolExecutor(_ANSWERING, thread_name_prefix="headwater-answer")
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path, *, threads: int = _THREADS, **options: Any) -> Self:
        """Open a knowledge base; `options` are those of `Retriever.open`.

        Raises:
            HeadwaterError: as `Retriever.open`.
        """
        return cls(await asyncio.to_thread(Retriever.open, path, **options), threads=threads)

    search = _Awaited(Retriever.search)
    answer = _Awaited(answer, answering=True)
    answer_stream = _Streamed(answer_stream)

    @property
    def snapshot(self) -> str:
        """The name of the snapshot that a search would answer from now."""
        return self.retriever.snapshot

    async def close(self) -> None:
        """Wait for the searches and answers that run, and let go of the files."""
        self._closed = True
        for pool in (self._answering, self._pool):
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
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

    async def _run(self, work: Callable[[], T], *, answering: bool = False) -> T:
        if self._closed:
            raise ConfigError("The retriever is closed", todo="open another one")
        pool = self._answering if answering else self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, work)


class AsyncAnswerStream:
    """The pieces of an answer as they come: `async with retriever.answer_stream(…) as pieces`.

    The search is done when the block begins. Leaving it early ends the request, without waiting for
    that.
    """

    def __init__(self, owner: AsyncRetriever, begin: Callable[[], AnswerStream]) -> None:
        self._owner = owner
        self._begin = begin
        self._stream: AnswerStream | None = None

    async def __aenter__(self) -> Self:
        """The stream itself.

        Raises:
            HeadwaterError: as `Retriever.search`.
        """
        self._stream = await self._owner._run(self._begin, answering=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the request, if it goes on."""
        if self._stream is not None:
            self._stream.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        """Each piece of the text; nothing at all where it abstains.

        Raises:
            EndpointError: the model cannot be asked, or its reply cannot be used.
        """
        while (piece := await self._owner._run(self._next, answering=True)) is not None:
            yield piece

    async def answer(self) -> Answer:
        """The checked answer; what was not read yet is read first.

        Raises:
            EndpointError: as when the pieces are read.
        """
        return await self._owner._run(self._whole, answering=True)

    def _next(self) -> str | None:
        return next(self._opened(), None)

    def _whole(self) -> Answer:
        return self._opened().answer

    def _opened(self) -> AnswerStream:
        if self._stream is None:
            raise ConfigError(
                "The answer has not begun",
                todo="write 'async with retriever.answer_stream(…) as pieces'",
            )
        return self._stream
