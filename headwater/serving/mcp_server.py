"""The tools for agents on their two wires: standard input and output, and HTTP."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from headwater.config import KnowledgeBase
from headwater.errors import MissingExtraError
from headwater.serving.keys import Keyring, check_exposure

if TYPE_CHECKING:
    from headwater.retrieval.encoder import TextEncoder
    from headwater.serving.mcp_tools import KnowledgeTools

PATH = "/mcp"


def serve_stdio(
    kb: KnowledgeBase, *, labels: Sequence[str] = (), encoder: TextEncoder | None = None
) -> None:
    """Serve an agent that started this process, until it closes standard input.

    Args:
        kb: the knowledge base.
        labels: of the caller; it sees everything without any.
        encoder: embeds the queries, in place of the one in the snapshot.

    Raises:
        MissingExtraError: the package `mcp` is not installed.
    """
    import anyio

    allow = frozenset(labels) if labels else None
    tools = _tools(kb, allow=allow, encoder=encoder)
    _protect_stdout()
    try:
        anyio.run(tools.server().run_stdio_async)
    finally:
        tools.close()


def _protect_stdout() -> None:
    """Leave standard output to the protocol: what libraries print goes to standard error."""
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = io.TextIOWrapper(wire, encoding="utf-8", write_through=True)


def serve_http(
    kb: KnowledgeBase,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    insecure: bool = False,
    encoder: TextEncoder | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve agents over streamable HTTP until SIGTERM or SIGINT; keys and limits as `serve` has.

    Args:
        kb: the knowledge base; `serving` of its configuration has the keys and the limits.
        host: a name or an address of this machine; other than loopback only with keys.
        port: 0 takes a free one.
        insecure: let everybody in who reaches `host`, without keys.
        encoder: embeds the queries, in place of the one in the snapshot.
        ready: called with the URL when it answers.

    Raises:
        ConfigError: it would be open to a network without keys, or the address cannot be taken.
        MissingExtraError: the package `mcp` or the extra `serve` is not installed.
    """
    check_exposure(kb.config.serving, host, insecure=insecure)
    tools = _tools(kb, allow=None, encoder=encoder)
    from headwater.serving.server import listen, run_server, url_of

    listener = listen(host, port)
    app = http_app(kb, tools, insecure=insecure, ready=lambda: ready(url_of(listener, host) + PATH))
    run_server(app, listener, timeout_s=kb.config.serving.timeout.total_seconds())


def http_app(
    kb: KnowledgeBase,
    tools: KnowledgeTools,
    *,
    insecure: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> Any:
    """The ASGI application: the protocol behind the same door as the HTTP service.

    Every request stands for itself: an agent may come back to another process.
    """
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.applications import Starlette

    from headwater.serving.door import Door
    from headwater.serving.metrics import Metrics

    config = kb.config.serving
    inner: Starlette = tools.server().streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        # The door looks at names and sizes, as for every request.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=config.max_body_bytes,
    )
    started = inner.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with started(app) as state:
            ready()
            yield state
        tools.close()

    inner.router.lifespan_context = lifespan
    keyring = Keyring(config.api_keys)
    return Door(
        inner,
        keyring=keyring,
        metrics=Metrics(tools.state),
        max_body_bytes=config.max_body_bytes,
        timeout_s=config.timeout.total_seconds(),
        own_names_only=not keyring and not insecure,
    )


def _tools(
    kb: KnowledgeBase, *, allow: frozenset[str] | None, encoder: TextEncoder | None
) -> KnowledgeTools:
    try:
        from headwater.serving.knowledge import Knowledge
        from headwater.serving.mcp_tools import KnowledgeTools
    except ImportError as error:
        raise MissingExtraError.of(error.name or "mcp", "mcp") from None
    return KnowledgeTools(Knowledge(kb, encoder=encoder), allow=allow)
