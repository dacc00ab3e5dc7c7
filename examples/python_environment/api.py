"""A small JSON API on loopback: pages that link to the next, and an ETag on each."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PAGE_SIZE = 50

Item = dict[str, Any]


class EnvironmentApi:
    """Serves `/modules?page=N` while its `with` block runs.

    A reply is `{"items": [...], "total": n, "next": path or null}`. Whoever sends the ETag of a page
    that did not change gets 304 and no body.

    Attributes:
        items: what is served; replace it to change the source.
        answers: status -> how often it was given.
    """

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.answers: Counter[int] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens: a free port that the system chose."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, number: int) -> bytes:
        """The body of one page, 1-based; beyond the last one it has no items."""
        items, start = self.items, (number - 1) * PAGE_SIZE
        more = len(items) > start + PAGE_SIZE
        body = {
            "items": items[start : start + PAGE_SIZE],
            "total": len(items),
            "next": f"/modules?page={number + 1}" if more else None,
        }
        return json.dumps(body, ensure_ascii=False).encode()


def _handler(api: EnvironmentApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            page = parse_qs(parts.query).get("page", ["1"])[0]
            if parts.path != "/modules" or not page.isdecimal() or int(page) < 1:
                self._answer(404, b'{"error": "no such page"}')
                return
            body = api.page(int(page))
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            if self.headers.get("If-None-Match") == etag:
                self._answer(304, b"", etag)
            else:
                self._answer(200, body, etag)

        def _answer(self, status: int, body: bytes, etag: str = "") -> None:
            api.answers[status] += 1
            self.send_response(status)
            if etag:
                self.send_header("ETag", etag)
            if status != 304:
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """The tour counts answers; a line for each would drown its output."""

    return Handler
