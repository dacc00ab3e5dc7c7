"""JSON APIs as sources, against a real server on a loopback socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import stamina

from headwater.config import ApiConfig
from headwater.errors import ConfigError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.api import ApiSource
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.protocol import PullRequest, Source, Window

ITEMS = [{"id": i, "name": f"item {i}", "seen": i * 7} for i in range(1, 6)]
Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A server whose `answer` a test sets; it keeps the requests it got."""

    def __init__(self) -> None:
        self.answer: Callable[[str, dict[str, str], dict[str, str]], Answer] = paged
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.piece, self.pause_s = 1 << 20, 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {k.lower(): v for k, v in self.headers.items()}
                outer.requests.append((self.path, headers))
                parts = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(parts.query).items()}
                status, extra, body = outer.answer(parts.path, query, headers)
                etag = extra.get("ETag")
                if etag and headers.get("if-none-match") == etag:
                    status, body = 304, b""
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | extra).items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(ConnectionError):  # the client may have given up
                    for start in range(0, len(body), outer.piece):
                        self.wfile.write(body[start : start + outer.piece])
                        self.wfile.flush()
                        time.sleep(outer.pause_s)

            def log_message(self, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def ok(value: Any, **headers: str) -> Answer:
    """A 200 with `value` as JSON, or as it is when it is bytes."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return 200, {k.replace("_", "-"): v for k, v in headers.items()}, body


def paged(path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
    """Two records per page, by page, by offset or all at once."""
    if "page" in query:
        start = (int(query["page"]) - 1) * 2
    elif "offset" in query:
        start = int(query["offset"])
    else:
        return ok({"data": {"items": ITEMS}, "total": 5}, ETag='"all"')
    chosen = ITEMS[start : start + 2]
    return ok({"data": {"items": chosen}, "total": 5}, ETag=f'"{hash(str(chosen))}"')


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    running = Server()
    yield running
    running.close()


@pytest.fixture
def few_attempts() -> Iterator[None]:
    """Two attempts and no waiting between them."""
    with stamina.set_testing(True, attempts=2):
        yield


def api(server: Server, **options: Any) -> ApiSource:
    """The source under test, with a few options set."""
    base = {"kind": "api", "url": f"{server.url}/items", "records": "data.items", "key": "id"}
    base |= {"allow_private": True}
    return ApiSource("api", ApiConfig.model_validate(base | options), root=Path())


def keys_of(source: Source, request: PullRequest | None = None) -> list[str]:
    """The keys of a whole pull."""
    return [row["key"] for row in pull_rows(source, request)]


class TestApi(SourceConformance):
    keys = ("1", "2", "3", "4", "5")

    @pytest.fixture(autouse=True, params=["none", "page", "offset"])
    def _server(self, server: Server, request: pytest.FixtureRequest) -> None:
        self.server, self.style = server, request.param

    def make_source(self) -> Source:
        return api(self.server, pagination={"style": self.style, "total": "total"})


def test_next_links_are_followed(server: Server) -> None:
    """Relative links lead on, and their absence ends the list."""

    def linked(path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        at = int(query.get("after", "0"))
        return ok({"data": {"items": ITEMS[at : at + 1]}, "next": f"?after={at + 1}"} if at < 4
                  else {"data": {"items": ITEMS[at:]}, "next": None})  # fmt: skip

    server.answer = linked
    assert keys_of(api(server, pagination={"style": "next"})) == ["1", "2", "3", "4", "5"]


def test_records_become_text_without_the_volatile(server: Server) -> None:
    """Fields are written by name; ignored ones are left out, also inside objects."""
    record = {"id": 1, "b": "two", "a": {"x": 1, "seen": 5}, "seen": 9, "tags": ["p", "q"]}
    server.answer = lambda *_: ok({"data": {"items": [record]}})
    row = pull_rows(api(server, ignore=["seen", "a.seen"], labels=["l"]))[0]
    assert row["text"] == 'A: {"x":1}\nB: two\nTags: p, q'
    assert row["labels"] == ["l"]


def test_paths_reach_into_records(server: Server) -> None:
    """Text, title, link, time and metadata may all lie deeper."""
    record = {"meta": {"id": "a", "at": "2024-01-01T00:00:00Z", "url": "https://x/a"}, "t": "hi"}
    server.answer = lambda *_: ok([record])
    row = pull_rows(
        api(
            server,
            records="",
            key="meta.id",
            text="t",
            title="t",
            metadata="meta.at",
            record_url="meta.url",
            updated_at="meta.at",
        )
    )[0]
    assert (row["key"], row["text"], row["title"], row["url"]) == ("a", "hi", "hi", "https://x/a")
    assert row["source_ts"] == datetime(2024, 1, 1, tzinfo=UTC)
    assert json.loads(row["metadata"]) == {"meta.at": "2024-01-01T00:00:00Z"}


@pytest.mark.parametrize("style", ["none", "page"])
def test_unmodified_pages_prove_that_nothing_changed(server: Server, style: str) -> None:
    """Only 304 for every page confirms the whole; the watermark stays."""
    source = api(server, pagination={"style": style})
    watermark = pull_all(source)[1].watermark
    batches, end = pull_all(source, PullRequest(watermark=watermark))
    assert not batches
    assert (end.complete, end.unchanged, end.watermark) == (True, True, watermark)


def test_one_modified_page_lists_everything_again(server: Server) -> None:
    """A 304 on the first page says nothing of the others."""
    source = api(server, pagination={"style": "page"})
    watermark = pull_all(source)[1].watermark
    changed = [*ITEMS[:-1], ITEMS[-1] | {"name": "new"}]
    server.answer = lambda path, query, headers: ok(
        {"data": {"items": changed[(n := int(query["page"]) * 2 - 2) : n + 2]}},
        ETag=paged(path, query, headers)[1]["ETag"] if n < 4 else '"new"',
    )
    rows = pull_rows(source, PullRequest(watermark=watermark))
    assert [r["key"] for r in rows] == ["1", "2", "3", "4", "5"]
    assert "new" in rows[-1]["text"]


def test_another_rendering_is_not_served_by_a_304(server: Server) -> None:
    """A changed configuration lists everything, whatever the server says."""
    watermark = pull_all(api(server))[1].watermark
    _, end = pull_all(api(server, text="name"), PullRequest(watermark=watermark))
    assert not end.unchanged


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"data": {"items": [{"id": 1}', "no JSON"),
        (b"\xff\xfe\xff", "no JSON"),
        (b'{"data": {"items": [{"id": NaN}]}}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"data": {}, "things": []}', "things"),
        (b'{"data": {"items": {"id": 1}}}', "no list of records"),
        (b'{"data": {"items": [{"id": 1}, 2]}}', "Record 1"),
    ],
)
def test_a_malformed_reply_is_an_error(server: Server, body: bytes, message: str) -> None:
    """Whatever is not the promised list is refused as a whole."""
    server.answer = lambda *_: ok(body)
    with pytest.raises(SourceDataError, match=message):
        pull_all(api(server))


def test_an_empty_list_is_an_answer(server: Server) -> None:
    """No records is a complete extract; what follows from it is decided elsewhere."""
    server.answer = lambda *_: ok({"data": {"items": []}})
    batches, end = pull_all(api(server))
    assert not batches
    assert end.complete


def test_a_total_that_is_not_met_is_an_error(server: Server) -> None:
    """A list shorter than its own count is no success."""
    server.answer = lambda *_: ok({"data": {"items": ITEMS}, "total": 6})
    with pytest.raises(SourceDataError, match="counts 6 records and listed 5"):
        pull_all(api(server, pagination={"total": "total"}))


def test_a_server_that_ignores_the_page_is_found_out(server: Server) -> None:
    """The same page again and again is an error and no endless loop."""
    server.answer = lambda *_: ok({"data": {"items": ITEMS}})
    with pytest.raises(SourceDataError, match="identical"):
        pull_all(api(server, pagination={"style": "page"}))


def test_a_next_link_in_a_circle_is_found_out(server: Server) -> None:
    """A link to a page already read is an error."""
    server.answer = lambda path, query, headers: ok(
        {"data": {"items": ITEMS}, "next": f"{server.url}/items?at={1 - int(query.get('at', 0))}"}
    )
    with pytest.raises(SourceDataError, match="already read"):
        pull_all(api(server, pagination={"style": "next"}))


def test_endless_pages_end_at_the_byte_cap(server: Server) -> None:
    """A pull that never ends stops at `max_bytes`."""
    server.answer = lambda path, query, headers: ok({"data": {"items": [{"id": query["page"]}]}})
    with pytest.raises(SourceDataError, match="max_bytes"):
        pull_all(api(server, pagination={"style": "page"}, max_bytes=500))


def test_endless_pages_end_at_the_deadline(server: Server) -> None:
    """A pull that never ends stops at `deadline`."""
    server.answer = lambda path, query, headers: ok({"data": {"items": [{"id": query["page"]}]}})
    with pytest.raises(SourceUnreachableError, match="deadline"):
        pull_all(api(server, pagination={"style": "page"}, deadline="0.3s"))


def test_a_busy_server_is_asked_again(server: Server) -> None:
    """429 with Retry-After and 503 are retried, and then the pull succeeds."""
    answers = [(429, {"Retry-After": "0"}, b""), (503, {"Retry-After": "0"}, b"")]
    server.answer = lambda *a: answers.pop() if answers else paged(*a)
    assert len(keys_of(api(server))) == 5
    assert len(server.requests) == 3


def test_a_wait_beyond_the_deadline_is_not_waited_for(server: Server) -> None:
    """A server that asks for an hour gets one request."""
    server.answer = lambda *_: (429, {"Retry-After": "3600"}, b"")
    with pytest.raises(SourceUnreachableError, match="429"):
        pull_all(api(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_final_and_advises(server: Server, status: int) -> None:
    """Credentials and paths are not mended by asking again."""
    server.answer = lambda *_: (status, {}, b"")
    with pytest.raises(SourceUnreachableError, match=rf"{status}[\s\S]*check"):
        pull_all(api(server))
    assert len(server.requests) == 1


@pytest.mark.usefixtures("few_attempts")
def test_a_reply_cut_short_is_a_data_error(server: Server) -> None:
    """A body shorter than announced is never parsed."""
    body = json.dumps({"data": {"items": ITEMS}}).encode()
    server.answer = lambda *_: (200, {"Content-Length": str(len(body) + 9)}, body)
    with pytest.raises(SourceDataError, match="cut short"):
        pull_all(api(server))
    assert len(server.requests) == 2


@pytest.mark.usefixtures("few_attempts")
def test_a_closed_port_is_unreachable() -> None:
    """No server is no traceback, and the message hides the query."""
    running = Server()
    running.close()
    with pytest.raises(SourceUnreachableError) as raised:
        pull_all(api(running, params={"api_key": "hidden"}))
    assert "hidden" not in str(raised.value)


def test_secrets_stay_with_their_origin(server: Server) -> None:
    """Token and headers reach the configured origin, and no other after a redirect."""
    other = Server()
    try:
        server.answer = lambda *_: (302, {"Location": f"{other.url}/moved"}, b"")
        assert len(keys_of(api(server, token="t0ken", headers={"X-Api-Key": "k3y"}))) == 5
        assert server.requests[0][1]["authorization"] == "Bearer t0ken"
        assert server.requests[0][1]["x-api-key"] == "k3y"
        assert not {"authorization", "x-api-key"} & set(other.requests[0][1])
    finally:
        other.close()


def test_redirects_end(server: Server) -> None:
    """A redirect in a circle is an error."""
    server.answer = lambda *_: (302, {"Location": "/items"}, b"")
    with pytest.raises(SourceUnreachableError, match="redirects"):
        pull_all(api(server))


def test_the_environment_stays_out_of_the_watermark(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret in a query is sent, never kept, and still used to ask whether pages changed."""
    monkeypatch.setenv("API_SECRET", "s3cret/&")
    source = api(server, params={"api_key": "${API_SECRET}"}, pagination={"style": "page"})
    watermark = pull_all(source)[1].watermark
    assert "s3cret" not in str(watermark)
    assert pull_all(source, PullRequest(watermark=watermark))[1].unchanged
    assert all("api_key=s3cret%2F%26" in path for path, _ in server.requests)


def test_an_unset_variable_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which key wants which variable."""
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ConfigError, match=r"sources\.api\.token.*ABSENT"):
        api(server, token="${ABSENT}")


def test_a_window_is_asked_for_and_kept_half_open(server: Server) -> None:
    """The bounds are sent, and a record at the end of the window is left out."""
    items = [{"id": d, "at": f"2024-01-0{d}T00:00:00Z"} for d in (1, 2, 3)]
    server.answer = lambda *_: ok({"data": {"items": items}})
    window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    source = api(server, since_param="from", until_param="to", updated_at="at")
    batches, end = pull_all(source, PullRequest(window=window, watermark="w"))
    assert [k for b in batches for k in b.column("key").to_pylist()] == ["1", "2"]
    assert (end.complete, end.watermark) == (False, "w")
    query = parse_qs(urlsplit(server.requests[0][0]).query)
    assert query == {"from": ["2024-01-01T00:00:00Z"], "to": ["2024-01-03T00:00:00Z"]}
    with pytest.raises(ConfigError, match="since_param"):
        pull_all(api(server), PullRequest(window=window))


def test_a_record_without_a_key_passes_through(server: Server) -> None:
    """A missing key is null; quarantine decides about it."""
    server.answer = lambda *_: ok({"data": {"items": [{"id": None}, {"x": 1}, {"id": [1]}]}})
    assert keys_of(api(server)) == [None, None, None]


def test_a_dripping_server_meets_the_deadline(server: Server) -> None:
    """A slow answer ends at the deadline, although each read is quick."""
    server.piece, server.pause_s = 8, 0.05
    with pytest.raises(SourceUnreachableError, match="deadline"):
        pull_all(api(server, deadline="0.3s", timeout="5s"))
