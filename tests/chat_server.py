"""A real HTTP server that speaks the chat part of the OpenAI protocol, well or badly."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """Answers every request as it was told to.

    Attributes:
        url: the base of the API.
        requests: bodies, in their order.
        keys: what the Authorization headers were.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.behaviours: list[Any] = []
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                chat.requests.append(json.loads(self.rfile.read(size)))
                chat.keys.append(self.headers.get("Authorization", ""))
                behave = chat.behaviours[min(len(chat.requests), len(chat.behaviours)) - 1]
                try:
                    behave(self, chat.requests[-1])
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def does(self, *behaviours: Any) -> None:
        """What it does at each request; the last one for all that follow."""
        self.behaviours = list(behaviours)
        self.requests.clear()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def says(text: str, *, finish: str = "stop", pause: float = 0.0, piece: int = 7):
    """A whole and friendly reply, in pieces where that was asked for."""

    def behave(handler, asked):
        if not asked.get("stream"):
            message = {"role": "assistant", "content": text}
            body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
            send(handler, 200, json.dumps(body | {"usage": {"total_tokens": 7}}))
            return
        start(handler)
        for first in range(0, len(text), piece):
            event(handler, {"content": text[first : first + piece]})
            time.sleep(pause)
        event(handler, {}, finish=finish)
        raw(handler, json.dumps(chunk([], usage={"total_tokens": 7})))
        raw(handler, "[DONE]")
        handler.wfile.write(b"0\r\n\r\n")

    return behave


def refuses(status: int, *, headers: dict[str, str] | None = None, body: str = '{"error": {}}'):
    """A status other than 200."""
    return lambda handler, asked: send(handler, status, body, headers)


def breaks_off(after: str):
    """Half of a stream, and then nothing."""

    def behave(handler, asked):
        start(handler)
        event(handler, {"content": after})
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.close()

    return behave


def drips(handler, asked):
    """A piece every now and then, for ever."""
    start(handler)
    while True:
        event(handler, {"content": "and "})
        time.sleep(0.05)


def floods(handler, asked):
    """As much as the other side takes, for ever."""
    start(handler)
    while True:
        event(handler, {"content": "words " * 5000})


def sleeps(handler, asked):
    """Nothing at all, for longer than anybody waits."""
    time.sleep(30)


def babbles(content_type: str, body: str):
    """Something that is no reply of the protocol."""
    return lambda handler, asked: send(handler, 200, body, {"Content-Type": content_type})


def start(handler) -> None:
    """The head of a stream."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    """A chunk of a stream."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return {**head, "choices": choices, **more}


def event(handler, delta: dict[str, str], *, finish: str | None = None) -> None:
    """One piece of a reply."""
    raw(handler, json.dumps(chunk([{"index": 0, "delta": delta, "finish_reason": finish}])))


def raw(handler, data: str) -> None:
    """One event of a stream."""
    line = f"data: {data}\n\n".encode()
    handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


def send(handler, status: int, body: str, headers: dict[str, str] | None = None) -> None:
    """A whole reply."""
    handler.send_response(status)
    for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())
