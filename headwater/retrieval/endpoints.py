"""The client of the OpenAI protocol, and what its errors mean here."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from headwater.config import EndpointConfig, expand
from headwater.errors import EndpointError, MissingExtraError

if TYPE_CHECKING:
    from openai import OpenAI


def endpoint_client(endpoint: EndpointConfig) -> OpenAI:
    """A client of an endpoint; it retries what may pass, and waits as long as it is told to.

    Raises:
        MissingExtraError: the package `openai` is not installed.
        ConfigError: the variable that holds the key is not set.
    """
    try:
        from openai import DefaultHttpxClient, OpenAI
    except ImportError:
        raise MissingExtraError.of("openai", "openai") from None
    # A redirect could carry questions, and the key, to somebody else.
    connections = DefaultHttpxClient(follow_redirects=False)
    client = OpenAI(
        base_url=endpoint.url,
        api_key=_key(endpoint) or "none",
        timeout=endpoint.timeout.total_seconds(),
        max_retries=endpoint.retries,
        http_client=connections,
    )
    # Whoever searches has an encoder, and nothing to close it with.
    weakref.finalize(client, connections.close)
    return client


def _key(endpoint: EndpointConfig) -> str:
    return expand(endpoint.api_key, where="api_key") if endpoint.api_key else ""


def refusal(error: Exception, endpoint: EndpointConfig) -> EndpointError:
    """What the client's error means; never with the key in it."""
    import openai

    where = f"{endpoint.model} at {endpoint.url}"
    if isinstance(error, openai.APITimeoutError):
        waited = f"it was silent for {endpoint.timeout.total_seconds():.0f} s"
        return EndpointError(
            "The model's endpoint is too slow", obj=where, todo=f"{waited}; raise timeout"
        )
    if isinstance(error, openai.APIStatusError):
        code = error.status_code
        todo = {
            401: "it does not accept the key; see api_key",
            403: "the key is not allowed to do this",
            404: "there is no such model or path; see url and model",
            429: "it asks to wait, also after retries; ask later",
        }.get(code, _told(error, endpoint))
        return EndpointError(f"The model's endpoint refused with {code}", obj=where, todo=todo)
    if isinstance(error, openai.APIConnectionError):
        return EndpointError(
            "The model's endpoint cannot be reached", obj=where, todo="is it running? see url"
        )
    return EndpointError(
        "The model's reply cannot be read", obj=where, todo=_told(error, endpoint) or "ask again"
    )


def _told(error: Exception, endpoint: EndpointConfig) -> str:
    """The first line of what was said, without the key."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    key = _key(endpoint)
    return (text.replace(key, "***") if key else text)[:300]
