"""What the serving tests share: a knowledge base in a folder, and a server on a real socket."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater.config import KnowledgeBase, load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.serving.app import create_app
from headwater.serving.knowledge import Knowledge
from headwater.serving.server import listen, server_of, url_of
from headwater.storage.store import Store

FIRST = {
    "river.md": "A spring is where a river begins.\n",
    "rain.md": "Rain falls from the clouds of the west.\n",
    "notes/tea time.md": "Tea is made with hot water.\n",
}


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks a server."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> Reply:
        query = f"?{urllib.parse.urlencode(params, doseq=True)}" if params else ""
        return self._ask(urllib.request.Request(self.url + path + query), headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data)
        return self._ask(request, {"Content-Type": "application/json", **(headers or {})})

    def search(self, query: str, **more: Any) -> Reply:
        return self.post("/search", {"query": query, **more})

    @property
    def address(self) -> tuple[str, int]:
        parts = urllib.parse.urlsplit(self.url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port

    def _ask(self, request: urllib.request.Request, headers: dict[str, str] | None) -> Reply:
        for name, value in {**self.headers, **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Reply(answer.status, answer.read(), _named(answer.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read(), _named(error.headers))


def _named(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Base:
    """A knowledge base of documents, refreshed with the model-free twin."""

    first = FIRST

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "docs").mkdir(parents=True)
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write headwater.yaml anew."""
        source = {"kind": "documents", "root": "docs", "labels": ["public"], "freshness": "1h"}
        config = {"name": "test", "sources": {"docs": source}, **settings}
        (self.root / "headwater.yaml").write_text(yaml.safe_dump(config))

    def write(self, texts: dict[str, str]) -> None:
        """Put documents below docs/."""
        for name, text in texts.items():
            path = self.root / "docs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def publish(self, texts: dict[str, str]) -> str:
        """Write documents and refresh; returns the snapshot's name."""
        self.write(texts)
        report = refresh(self.kb, encoding=twin_encoding)
        assert report.published
        name = self.store.current_name()
        assert name
        return name

    @property
    def kb(self) -> KnowledgeBase:
        return load(self.root)

    @property
    def store(self) -> Store:
        return Store.open(self.root / "store")


@contextmanager
def _serving(
    kb: KnowledgeBase, *, knowledge: Knowledge | None = None, **options: Any
) -> Iterator[Client]:
    """A server in a thread, on a free port of the loopback interface."""
    knowledge = knowledge or Knowledge(kb)
    listener = listen("127.0.0.1", 0)
    server = server_of(create_app(knowledge, **options), timeout_s=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        yield Client(url_of(listener, "127.0.0.1"))
    finally:
        server.should_exit = True
        thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A knowledge base with nothing published."""
    return Base(tmp_path / "kb")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A knowledge base with two snapshots, for tests that only look."""
    base = Base(tmp_path_factory.mktemp("serving") / "kb")
    base.publish(FIRST)
    base.publish({"river.md": "A river ends in the sea.\n"})
    return base


@pytest.fixture(scope="module")
def client(published: Base) -> Iterator[Client]:
    """A server over it."""
    with _serving(published.kb) as found:
        yield found


@pytest.fixture
def serving() -> Any:
    """Serves a knowledge base inside a `with`."""
    return _serving
