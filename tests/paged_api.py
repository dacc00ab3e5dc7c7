"""A JSON API with pages of every style over a list that a test changes, in the midst of a reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from faulty_server import Answer, Asked, FaultyServer

PAGE = 2
Record = dict[str, Any]
Truth = dict[str, str]

STYLES: dict[str, dict[str, Any]] = {
    "page": {"style": "page"},
    "offset": {"style": "offset"},
    "cursor": {"style": "cursor", "next": "cursor"},
    "next": {"style": "next", "next": "next"},
    "link": {"style": "link"},
    "page-total": {"style": "page", "total": "total"},
    "offset-total": {"style": "offset", "total": "total"},
}
"""Name -> the `pagination` that reads it."""


class PagedApi:
    """Records `{id, v}` in a list, two on a page.

    Attributes:
        records: the truth.
        before_request: called before a request is answered, with it: changes the truth.
        replace: (page number, number of the request) -> the number of the page to serve.
        etags: whether pages have ETags.
        states: the truth at every moment since `begin`.
    """

    def __init__(self, style: str, *, etags: bool = True) -> None:
        self.server = FaultyServer()
        self.style = style
        self.records: list[Record] = []
        self.etags = etags
        self.before_request: Callable[[Asked], None] = lambda asked: None
        self.replace: Callable[[int, int], int] = lambda page, number: page
        self.states: list[Truth] = []
        self._numbers = 0
        self.server.answer = self._answer

    def config(self, **options: Any) -> dict[str, Any]:
        """The source that reads it."""
        return {
            "kind": "api",
            "url": f"{self.server.url}/items",
            "records": "items",
            "key": "id",
            "text": "v",
            "pagination": STYLES[self.style],
            "allow_private": ["127.0.0.0/8"],
            "max_bytes": 1_000_000,
            **options,
        }

    @property
    def truth(self) -> Truth:
        """Key -> text."""
        return {str(record["id"]): record["v"] for record in self.records}

    def begin(self) -> None:
        """A pull begins: forget the requests and the moments so far."""
        self.server.forget()
        self.states = [self.truth]

    def change(self, kind: str, at: int) -> None:
        """Change the truth: `insert`, `delete` or `edit` at a place (modulo the length)."""
        self._numbers += 1
        place = at % len(self.records) if self.records else 0
        if kind == "insert":
            self.records.insert(place, {"id": f"k{self._numbers}", "v": f"new {self._numbers}"})
        elif kind == "delete" and len(self.records) > 1:
            del self.records[place]
        elif kind == "edit" and self.records:
            record = self.records[place]
            self.records[place] = {**record, "v": f"edited {self._numbers}"}
        self.states.append(self.truth)

    def _answer(self, asked: Asked) -> Answer:
        self.before_request(asked)
        query = asked.query
        if self.style.startswith("page"):
            page = int(query["page"]) - 1
        elif self.style.startswith("offset"):
            page = -1
        else:
            page = int(query.get("cursor", query.get("at", "0")))
        start = int(query["offset"]) if page < 0 else self.replace(page, asked.number) * PAGE
        if page < 0:
            start = self.replace(start // PAGE, asked.number) * PAGE + start % PAGE
        items = self.records[start : start + PAGE]
        more = start + PAGE < len(self.records)
        body: dict[str, Any] = {"items": items, "total": len(self.records)}
        headers = {"Content-Type": "application/json"}
        following = start // PAGE + 1
        if self.style == "cursor":
            body["cursor"] = str(following) if more else None
        elif self.style == "next":
            body["next"] = f"/items?at={following}" if more else None
        elif self.style == "link" and more:
            headers["Link"] = f'</items?at={following}>; rel="next"'
        data = json.dumps(body).encode()
        if self.etags:
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        return Answer(data, 200, headers)
