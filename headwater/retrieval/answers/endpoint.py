"""The one place that talks to a model: any endpoint of the OpenAI protocol, through its client.

The request runs in a thread of its own, and what it brings comes through a queue: so a deadline
holds whatever the other side does, and whoever has read enough can leave.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from headwater.config import EndpointConfig
from headwater.errors import EndpointError, HeadwaterError
from headwater.retrieval.endpoints import endpoint_client, refusal

if TYPE_CHECKING:
    from openai import OpenAI

_MOST_CHARACTERS: Final = 400_000
_WAITING: Final = 256


@dataclass(frozen=True)
class Said:
    """A piece of a reply.

    Attributes:
        text: to be added to what was said before.
        finish_reason: `stop`, `length`, …; empty while there is more to come.
        usage: tokens, as the endpoint counts them.
    """

    text: str = ""
    finish_reason: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)


def said_by(
    endpoint: EndpointConfig,
    messages: Sequence[Mapping[str, str]],
    *,
    max_tokens: int,
    temperature: float,
    deadline: timedelta,
    stream: bool,
) -> Iterator[Said]:
    """Ask a model, and give its reply piece by piece; closing the iterator ends the request.

    Args:
        endpoint: where, and how patiently.
        messages: role and content.
        max_tokens: of the reply.
        temperature: 0 to 2.
        deadline: for all of it.
        stream: ask for the reply in pieces.

    Raises:
        EndpointError: it cannot be reached, refuses, is too slow, says nothing, or what cannot be
            read.
        MissingExtraError: the package `openai` is not installed.
        ConfigError: the variable that holds the key is not set.
    """
    client = endpoint_client(endpoint)
    asked = {
        "model": endpoint.model,
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    request = _Request(client, endpoint, asked, stream=stream)
    threading.Thread(target=request.run, name="headwater-endpoint", daemon=True).start()
    ends = time.monotonic() + deadline.total_seconds()
    characters = 0
    try:
        while True:
            try:
                found = request.found.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                raise EndpointError(
                    "The model did not answer in time",
                    obj=f"{endpoint.model} at {endpoint.url}",
                    todo=f"it had {deadline.total_seconds():.0f} s; see answers.deadline",
                ) from None
            if found is None:
                return
            if isinstance(found, HeadwaterError):
                raise found
            characters += len(found.text)
            if characters > _MOST_CHARACTERS:
                raise EndpointError(
                    "The model does not stop",
                    obj=f"{endpoint.model} at {endpoint.url}",
                    todo=f"it said {characters:,} characters; lower answers.answer_tokens",
                )
            yield found
    finally:
        request.abandon()


class _Request:
    """One request in its thread."""

    def __init__(
        self, client: OpenAI, endpoint: EndpointConfig, asked: dict[str, Any], *, stream: bool
    ) -> None:
        self._client, self._endpoint, self._asked, self._stream = client, endpoint, asked, stream
        self.found: queue.Queue[Said | HeadwaterError | None] = queue.Queue(_WAITING)
        self._abandoned = threading.Event()
        self._finished = threading.Event()

    def run(self) -> None:
        """Put what comes into the queue; at the end None, or what went wrong."""
        last: HeadwaterError | None = None
        try:
            for piece in self._streamed() if self._stream else self._whole():
                if not self._put(piece):
                    break
        except HeadwaterError as error:
            last = error
        except Exception as error:  # noqa: BLE001
            # Whatever the client and the other side's bytes made of it, it is one failed request.
            last = refusal(error, self._endpoint)
        finally:
            self._finished.set()
            self._put(last)
            self._client.close()

    def abandon(self) -> None:
        """Nobody reads on: let the thread end, and the connection with it."""
        self._abandoned.set()
        if not self._finished.is_set():
            self._client.close()

    def _put(self, item: Said | HeadwaterError | None) -> bool:
        while not self._abandoned.is_set():
            try:
                self.found.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _streamed(self) -> Iterator[Said]:
        reply = self._client.chat.completions.create(
            **self._asked, stream=True, stream_options={"include_usage": True}
        )
        finished = ""
        said = False
        for chunk in reply:
            piece = _read(chunk.model_dump(), "delta")
            finished = piece.finish_reason or finished
            said = said or bool(piece.text)
            if piece != Said():
                yield piece
        if not finished:
            raise self._unusable("the connection ended in the middle of the answer")
        if not said:
            raise self._unusable("it said nothing")

    def _whole(self) -> Iterator[Said]:
        raw = self._client.chat.completions.with_raw_response.create(**self._asked)
        try:
            body = json.loads(raw.text if isinstance(raw.text, str) else raw.text())
            piece = _read(body, "message")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._unusable("what it sent is no reply of the protocol") from None
        if not piece.text:
            raise self._unusable("it said nothing")
        yield piece

    def _unusable(self, why: str) -> EndpointError:
        return EndpointError(
            "The model's reply cannot be used",
            obj=f"{self._endpoint.model} at {self._endpoint.url}",
            todo=f"{why}; ask again, or name another model",
        )


def _read(body: Mapping[str, Any], part: str) -> Said:
    """A reply, or a piece of one, as the protocol has it."""
    choices = body.get("choices") or []
    counted = body.get("usage") or {}
    usage = {k: v for k, v in counted.items() if isinstance(v, int)}
    if not choices:
        return Said(usage=usage)
    message = choices[0].get(part) or {}
    text = message.get("content") or message.get("refusal") or ""
    if not isinstance(text, str):
        raise TypeError("content")
    return Said(text, str(choices[0].get("finish_reason") or ""), usage)
