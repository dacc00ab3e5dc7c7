"""A web server on real sockets that does what a test asks of it, and every wrong thing a server can.

`answer` says what a request should get; a `Fault` says what becomes of it on the way. Faults are
asked for by the number of the request, so that a plan of them is the same in every run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request: path, query (first values), headers in lower case, body, and its number."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    number: int

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[0] for name, values in found.items()}


@dataclass(frozen=True)
class Answer:
    """What a request gets; an ETag among the headers is compared as a server should."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: Any, **headers: str) -> Answer:
    """A JSON reply."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json", **named})


def as_html(body: str, **headers: str) -> Answer:
    """A page with an ETag of its bytes."""
    data = body.encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    return Answer(data, 200, {"Content-Type": "text/html; charset=utf-8", "ETag": tag, **named})


FAULTS = (
    "reset",  # the connection is reset before a byte
    "reset-midway",  # ... and in the midst of the body
    "slow",  # a body that drips
    "truncated",  # half of the body, and a Content-Length of that half
    "long-length",  # a Content-Length larger than the body
    "short-length",  # ... and smaller
    "no-length",  # half of the body, its end told by closing the connection
    "429",  # busy, with Retry-After
    "503",  # broken
    "loop",  # a redirect to itself
    "private",  # a redirect to an address that is not public
    "bomb",  # a small body that decodes to a large one
    "cut-gzip",  # a compressed body without its end
    "html",  # an error page with status 200
    "empty",  # an empty body with status 200
)


class FaultyServer:
    """A server whose `answer` and `faults` a test sets; it keeps what it was asked.

    Attributes:
        answer: request -> reply.
        fault: request -> the name of what goes wrong, "" for nothing.
        asked: every request so far.
        private_url: where the fault `private` redirects to.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Asked], Answer] = lambda asked: Answer(status=404)
        self.fault: Callable[[Asked], str] = lambda asked: ""
        self.asked: list[Asked] = []
        self.private_url = "http://10.11.12.13/secret"
        self.drip_s = 0.01
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open = True
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._open = False
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._thread.join()
        self._socket.close()

    def forget(self) -> None:
        """Forget what was asked; numbers start anew."""
        with self._lock:
            self.asked.clear()

    def _accept(self) -> None:
        while self._open:
            connection, _ = self._socket.accept()
            if not self._open:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    buffer += piece
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                pairs = (line.partition(":") for line in lines)
                headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
                size = int(headers.get("content-length", "0"))
                while len(buffer) < size:
                    buffer += connection.recv(65536)
                body, buffer = buffer[:size], buffer[size:]
                method, target, _ = first.split(" ", 2)
                with self._lock:
                    asked = Asked(method, target, headers, body, len(self.asked))
                    self.asked.append(asked)
                if not self._reply(connection, asked):
                    return

    def _reply(self, connection: socket.socket, asked: Asked) -> bool:
        """Answer; whether the connection stays open."""
        answer = self.answer(asked)
        tag = answer.headers.get("ETag")
        if tag and asked.headers.get("if-none-match") == tag:
            answer = Answer(b"", 304, answer.headers)
        fault = self.fault(asked)
        if fault and answer.status == 304 and fault not in _BEFORE_THE_BODY:
            fault = "" if fault == "slow" else "reset"
        return _SPOIL.get(fault, _plain)(self, connection, answer)


def _head(answer: Answer, length: int | None, **more: str) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Said"]
    headers = dict(answer.headers)
    if length is not None:
        headers["Content-Length"] = str(length)
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _plain(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    length = None if answer.status == 304 else len(answer.body)
    connection.sendall(_head(answer, length) + answer.body)
    return True


def _reset(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def _reset_midway(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    connection.sendall(_head(answer, len(answer.body)) + answer.body[: len(answer.body) // 2])
    time.sleep(0.02)
    return _reset(server, connection, answer)


def _slow(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    connection.sendall(_head(answer, len(answer.body)))
    step = max(1, len(answer.body) // 20)
    for start in range(0, len(answer.body), step):
        connection.sendall(answer.body[start : start + step])
        time.sleep(server.drip_s)
    return True


def _truncated(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    body = answer.body[: len(answer.body) // 2]
    connection.sendall(_head(answer, len(body)) + body)
    return True


def _long_length(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    connection.sendall(_head(answer, len(answer.body) + 17) + answer.body)
    return False


def _short_length(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    connection.sendall(_head(answer, max(0, len(answer.body) - 17)) + answer.body)
    return False


def _no_length(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    body = answer.body[: len(answer.body) // 2]
    connection.sendall(_head(answer, None, Connection="close") + body)
    return False


def _busy(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    return _plain(server, connection, Answer(b"busy", 429, {"Retry-After": "0.01"}))


def _broken(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    return _plain(server, connection, Answer(b"broken", 503, {}))


def _loop(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    return _plain(server, connection, Answer(b"", 302, {"Location": "?"}))


def _private(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    return _plain(server, connection, Answer(b"", 302, {"Location": server.private_url}))


def _bomb(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    headers = {**answer.headers, "Content-Encoding": "gzip"}
    return _plain(server, connection, Answer(BOMB, 200, headers))


def _cut_gzip(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    headers = {**answer.headers, "Content-Encoding": "gzip"}
    body = gzip.compress(answer.body)
    return _plain(server, connection, Answer(body[: len(body) // 2], 200, headers))


def _html(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    return _plain(server, connection, as_html("<html><body>Bad gateway</body></html>"))


def _empty(server: FaultyServer, connection: socket.socket, answer: Answer) -> bool:
    return _plain(server, connection, Answer(b"", 200, answer.headers))


BOMB = gzip.compress(b"[" + b" " * 30_000_000)
_BEFORE_THE_BODY = ("reset", "429", "503", "loop", "private")
_SPOIL: dict[str, Callable[[FaultyServer, socket.socket, Answer], bool]] = {
    "reset": _reset,
    "reset-midway": _reset_midway,
    "slow": _slow,
    "truncated": _truncated,
    "long-length": _long_length,
    "short-length": _short_length,
    "no-length": _no_length,
    "429": _busy,
    "503": _broken,
    "loop": _loop,
    "private": _private,
    "bomb": _bomb,
    "cut-gzip": _cut_gzip,
    "html": _html,
    "empty": _empty,
}
assert set(_SPOIL) == set(FAULTS)
