"""The door: what every request passes before it is understood, and every reply as it leaves.

Names the caller, bounds the body, counts, and turns whatever was not foreseen into a problem.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from headwater.serving.keys import Keyring, host_name, is_loopback, presented
from headwater.serving.metrics import Metrics
from headwater.serving.problems import (
    Problem,
    ProblemError,
    foreign_host,
    internal,
    too_large,
    too_slow_to_send,
    unauthorized,
)

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CALLER = "headwater.caller"
"""Where the request's scope holds its `Caller`."""

OPEN_PATHS = frozenset({"/healthz", "/openapi.json"})
"""Asked without a key: they tell nothing about the knowledge base."""

_DROPPED_BYTES = 16_000_000
"""So much of a body that is too large is read before the reply."""


class Door:
    """ASGI middleware around the endpoints."""

    def __init__(
        self,
        app: App,
        *,
        keyring: Keyring,
        metrics: Metrics,
        max_body_bytes: int,
        timeout_s: float,
        own_names_only: bool,
    ) -> None:
        """Stand before `app`.

        Args:
            app: the endpoints.
            keyring: who may come in.
            metrics: counts requests.
            max_body_bytes: of a request.
            timeout_s: for its body to arrive.
            own_names_only: refuse Host headers that do not name this machine: what a web page whose
                name was bound to a loopback address would send from its visitor's browser.
        """
        self._app = app
        self._keyring = keyring
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._own_names_only = own_names_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, counted)
        except ProblemError as error:
            await self._answer(counted, error.problem, scope)
        except Exception:
            number = secrets.token_hex(8)
            log.exception("request %s failed: %s %s", number, scope["method"], _route(scope))
            if status:
                raise
            await self._answer(counted, internal(number), scope)
        finally:
            self._metrics.request(_route(scope), status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        if self._own_names_only:
            host = next((v.decode("latin-1") for n, v in headers if n == b"host"), "")
            if host and not is_loopback(host_name(host)):
                raise ProblemError(foreign_host(host))
        key = presented(headers)
        caller = self._keyring.caller(key)
        if caller is None and scope["path"] not in OPEN_PATHS:
            raise ProblemError(unauthorized(given=key is not None))
        scope[CALLER] = caller
        body = await self._body(headers, receive)
        await self._app(scope, _replay(body, receive), send)

    async def _body(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """All of the body.

        Raises:
            ProblemError: it is too large, or too slow.
        """
        length = next((v for n, v in headers if n == b"content-length"), b"0")
        announced = int(length[:20]) if length.isdigit() else 0
        try:
            async with asyncio.timeout(self._timeout_s):
                parts, size = await _received(receive, self._max_body_bytes, announced)
        except TimeoutError:
            raise ProblemError(too_slow_to_send(self._timeout_s)) from None
        if size > self._max_body_bytes:
            raise ProblemError(too_large(self._max_body_bytes))
        return b"".join(parts)

    async def _answer(self, send: Send, problem: Problem, scope: Scope) -> None:
        self._metrics.problem(problem.error)
        body = problem.body()
        extra = [(k.lower().encode(), v.encode()) for k, v in problem.headers.items()]
        fixed = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send(
            {"type": "http.response.start", "status": problem.status, "headers": fixed + extra}
        )
        told = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": told})


async def _received(receive: Receive, limit: int, announced: int) -> tuple[list[bytes], int]:
    """The parts of a body and its size; one that exceeds `limit` is not kept.

    Of one that is too large the start is still read, and dropped: a client that is sending does
    not see a reply to what it has not sent, only a broken connection.
    """
    parts, size, read = list[bytes](), announced, 0
    while read <= _DROPPED_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            break
        part = message.get("body", b"")
        read += len(part)
        size = max(size, read)
        if size > limit:
            parts.clear()
        else:
            parts.append(part)
        if not message.get("more_body"):
            break
    return parts, size


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand out a body that was received already, and then whatever comes after it."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _route(scope: Scope) -> str:
    """The template of the endpoint that a request was for: few of them, whatever was asked."""
    return str(getattr(scope.get("route"), "path", "unmatched"))
