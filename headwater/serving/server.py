"""The server: a socket, the application behind it, and a shutdown that lets requests finish."""

from __future__ import annotations

import math
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from headwater.config import KnowledgeBase
from headwater.errors import ConfigError, MissingExtraError, StorageUnavailableError
from headwater.serving.keys import check_exposure

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from headwater.retrieval.encoder import TextEncoder

_MOST_CONNECTIONS = 1000


def serve(
    kb: KnowledgeBase,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    insecure: bool = False,
    encoder: TextEncoder | None = None,
    ready: Callable[[str, str], None] = lambda url, note: None,
) -> None:
    """Serve a knowledge base over HTTP until SIGTERM or SIGINT; requests then finish first.

    Args:
        kb: the knowledge base; `serving` of its configuration has the keys and the limits.
        host: a name or an address of this machine; other than loopback only with keys.
        port: 0 takes a free one.
        insecure: let everybody in who reaches `host`, without keys.
        encoder: embeds the queries, in place of the one in the snapshot.
        ready: called with the service's URL when it answers, and with what it still lacks, or "".

    Raises:
        ConfigError: it would be open to a network without keys, or the address cannot be taken.
        MissingExtraError: FastAPI or uvicorn is not installed.
        HeadwaterError: the store, or its encoder, cannot be opened.
    """
    check_exposure(kb.config.serving, host, insecure=insecure)
    try:
        from headwater.serving.app import create_app
        from headwater.serving.knowledge import Knowledge
    except ImportError as error:
        raise MissingExtraError.of(error.name or "fastapi", "serve") from None
    knowledge = Knowledge(kb, encoder=encoder)
    listener = listen(host, port)
    note = ""
    try:
        knowledge.warm()
    except StorageUnavailableError as error:
        note = str(error)
    except BaseException:
        listener.close()
        raise
    app = create_app(
        knowledge, insecure=insecure, ready=lambda: ready(url_of(listener, host), note)
    )
    run_server(app, listener, timeout_s=kb.config.serving.timeout.total_seconds())


def run_server(app: ASGIApp, listener: socket.socket, *, timeout_s: float) -> None:
    """Serve an application until SIGTERM or SIGINT; requests then have `timeout_s` to finish."""
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises what stopped it once more when all is done: that was the wish, no failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
    server_of(app, timeout_s=timeout_s).run(sockets=[listener])


def server_of(app: ASGIApp, *, timeout_s: float = 30) -> uvicorn.Server:
    """A server for the application; `run(sockets=[…])` blocks until `should_exit` is set.

    Args:
        app: made by `create_app`.
        timeout_s: how long a shutdown waits for requests.
    """
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=math.ceil(timeout_s),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address cannot be taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            "The service cannot listen here",
            obj=f"{host}:{port}",
            todo=f"{error}; choose another address with --host or --port",
        ) from None
    # asyncio sends without delay only where the protocol is named: without it, the second packet
    # of every reply waits 40 ms for the client's acknowledgement of the first.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, made.detach())


def url_of(listener: socket.socket, host: str) -> str:
    """Where a listening socket is asked."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
