"""How requests and pages of an API may look: styles, POST, credentials, times, tombstones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import stamina
from faulty_server import Answer, Asked, FaultyServer, as_json
from paged_api import STYLES as PAGED
from paged_api import PagedApi

from headwater.config import ApiConfig, parse
from headwater.config.apis import PaginationStyle
from headwater.errors import ConfigError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.api import ApiSource
from headwater.flows.sources.api_pages import STYLES
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.protocol import PullRequest, Source, Window

ITEMS = [{"id": str(number), "name": f"item {number}"} for number in range(1, 6)]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A running server."""
    running = FaultyServer()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with stamina.set_testing(True, attempts=2):
        yield


def api(server: FaultyServer, **options: Any) -> ApiSource:
    """The source under test."""
    base = {"kind": "api", "url": f"{server.url}/items", "records": "items", "key": "id"}
    config = ApiConfig.model_validate(base | {"allow_private": True} | options)
    return ApiSource("api", config, root=Path())


def keys_of(source: Source, request: PullRequest | None = None) -> list[str]:
    """The keys of a whole pull."""
    return [row["key"] for row in pull_rows(source, request)]


def test_every_style_of_the_configuration_has_its_class() -> None:
    """The registry and the configuration name the same styles."""
    assert set(STYLES) == set(get_args(PaginationStyle))


class TestStyles(SourceConformance):
    keys = ("r0", "r1", "r2", "r3", "r4")

    @pytest.fixture(autouse=True, params=sorted(PAGED))
    def _api(self, request: pytest.FixtureRequest) -> Iterator[None]:
        self.api = PagedApi(request.param)
        self.api.records = [{"id": key, "v": key.upper()} for key in self.keys]
        yield
        self.api.server.close()

    def make_source(self) -> Source:
        config = ApiConfig.model_validate(self.api.config())
        return ApiSource("api", config, root=Path())

    def test_unmodified_pages_cost_one_short_reply_each(self) -> None:
        """304 for every page confirms the whole; a link header is looked at all the same."""
        source = self.make_source()
        watermark = pull_all(source)[1].watermark
        pages = len({asked.target for asked in self.api.server.asked})
        self.api.server.forget()
        batches, end = pull_all(source, PullRequest(watermark=watermark))
        assert not batches and end.unchanged and end.watermark == watermark
        assert len(self.api.server.asked) == pages

    def test_without_etags_equal_bodies_are_proof(self) -> None:
        """Where a server has no validators, what was read is compared with what was published."""
        self.api.etags = False
        source = self.make_source()
        watermark = pull_all(source)[1].watermark
        self.api.server.forget()
        batches, end = pull_all(source, PullRequest(watermark=watermark))
        assert not batches and end.unchanged
        self.api.change("edit", 4)
        rows = pull_rows(source, PullRequest(watermark=watermark))
        assert [row["key"] for row in rows] == list(self.keys)
        assert rows[-1]["text"].startswith("edited")

    def test_a_record_on_a_new_page_is_found(self) -> None:
        """Although each known page may be what it was."""
        self.api.records = self.api.records[:4]
        source = self.make_source()
        watermark = pull_all(source)[1].watermark
        self.api.records.append({"id": "r9", "v": "new"})
        assert "r9" in keys_of(source, PullRequest(watermark=watermark))


def test_a_last_record_may_be_the_cursor(server: FaultyServer) -> None:
    """`after` reads the cursor from the last record, `more` ends the list; one reading is enough."""

    def answer(asked: Asked) -> Answer:
        after = int(asked.query.get("starting_after", "0"))
        items = ITEMS[after : after + 2]
        return as_json({"items": items, "has_more": after + 2 < 5})

    server.answer = answer
    pagination = {
        "style": "cursor",
        "param": "starting_after",
        "after": "id",
        "more": "has_more",
        "stable": True,
        "size_param": "limit",
        "size": 2,
    }
    assert keys_of(api(server, pagination=pagination)) == ["1", "2", "3", "4", "5"]
    assert len(server.asked) == 3
    assert all(asked.query["limit"] == "2" for asked in server.asked)
    server.answer = lambda asked: as_json({"items": ITEMS})
    with pytest.raises(SourceDataError, match="has_more"):
        keys_of(api(server, pagination=pagination))


@pytest.mark.parametrize("cursor", [{"a": 1}, [2], True])
def test_a_cursor_that_is_none_is_an_error(server: FaultyServer, cursor: Any) -> None:
    """Objects and lists are no cursors; neither is a cursor that leads in a circle."""
    server.answer = lambda asked: as_json({"items": ITEMS, "next": cursor})
    with pytest.raises(SourceDataError, match=r"no cursor|already read|identical"):
        keys_of(api(server, pagination={"style": "cursor"}))


@pytest.mark.parametrize("link", ["javascript:alert(1)", "file:///etc/passwd", "http://["])
def test_a_link_out_of_the_web_is_not_followed(server: FaultyServer, link: str) -> None:
    """Whatever a reply says, only URLs of the web are asked for."""
    server.answer = lambda asked: as_json({"items": ITEMS, "next": link})
    with pytest.raises(SourceDataError, match="no URL of the web"):
        keys_of(api(server, pagination={"style": "next"}))


def test_a_link_to_a_private_address_is_refused(server: FaultyServer) -> None:
    """The check is made for every connection, not for the first."""
    server.answer = lambda asked: as_json({"items": ITEMS, "next": "http://169.254.169.254/meta"})
    source = api(server, pagination={"style": "next"}, allow_private=["127.0.0.0/8"])
    with pytest.raises(SourceUnreachableError, match=r"169\.254\.169\.254 is not public"):
        keys_of(source)


# --- POST ------------------------------------------------------------------------------------------


def test_a_search_is_posted_with_its_pages_in_the_body(server: FaultyServer) -> None:
    """Positions are numbers at their paths; the rest of the body and `${NAME}` stay."""

    def answer(asked: Asked) -> Answer:
        body = json.loads(asked.body)
        assert (asked.method, body["filter"]) == ("POST", {"state": "open"})
        start = body["page"]["from"]
        return as_json({"items": ITEMS[start : start + 2]})

    server.answer = answer
    source = api(
        server,
        method="POST",
        body={"filter": {"state": "open"}, "page": {"size": 2}},
        pagination={"style": "offset", "param": "page.from"},
    )
    batches, end = pull_all(source)
    assert [k for b in batches for k in b.column("key").to_pylist()] == ["1", "2", "3", "4", "5"]
    assert json.loads(server.asked[0].body)["page"] == {"size": 2, "from": 0}
    assert server.asked[0].headers["content-type"] == "application/json"
    batches, again = pull_all(source, PullRequest(watermark=end.watermark))
    assert again.unchanged and not batches
    assert all("if-none-match" not in asked.headers for asked in server.asked)


def test_a_search_may_take_its_pages_in_the_query(server: FaultyServer) -> None:
    """`place: query` puts page parameters there although there is a body."""

    def answer(asked: Asked) -> Answer:
        assert json.loads(asked.body) == {"q": "x"}
        start = (int(asked.query["page"]) - 1) * 3
        return as_json({"items": ITEMS[start : start + 3]})

    server.answer = answer
    source = api(
        server, method="POST", body={"q": "x"}, place="query", pagination={"style": "page"}
    )
    assert keys_of(source) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("status", [302, 303, 307])
def test_a_search_is_not_carried_to_another_place(server: FaultyServer, status: int) -> None:
    """Turned into a GET it would ask something else; another origin must not see it."""
    other = FaultyServer()
    try:
        server.answer = lambda asked: Answer(b"", status, {"Location": f"{other.url}/x"})
        with pytest.raises(SourceUnreachableError, match="redirected"):
            keys_of(api(server, method="POST", body={"token": "secret"}))
        assert other.asked == []
    finally:
        other.close()


# --- credentials -----------------------------------------------------------------------------------

WAYS = [
    ({"token": "${KEY}"}, "authorization", "Bearer s3cret+/key"),
    ({"auth": {"style": "bearer", "token": "${KEY}"}}, "authorization", "Bearer s3cret+/key"),
    (
        {"auth": {"style": "basic", "user": "me", "password": "${KEY}"}},
        "authorization",
        "Basic bWU6czNjcmV0Ky9rZXk=",
    ),
    ({"auth": {"style": "header", "name": "X-Key", "value": "${KEY}"}}, "x-key", "s3cret+/key"),
    ({"headers": {"X-Key": "${KEY}"}}, "x-key", "s3cret+/key"),
]


@pytest.mark.parametrize(("options", "header", "value"), WAYS)
def test_credentials_reach_their_origin_alone(
    server: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    header: str,
    value: str,
) -> None:
    """Every way to prove who asks is sent to the configured origin and to no redirect's."""
    monkeypatch.setenv("KEY", "s3cret+/key")
    other = FaultyServer()
    try:
        other.answer = lambda asked: as_json({"items": ITEMS})
        server.answer = lambda asked: Answer(b"", 302, {"Location": f"{other.url}/moved"})
        _, end = pull_all(api(server, **options))
        assert server.asked[0].headers[header] == value
        assert all("s3cret" not in str(asked) for asked in other.asked)
        assert "s3cret" not in str(end)
    finally:
        other.close()


def test_a_key_in_the_query_is_sent_anew_and_never_kept(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the server repeats it in its links; and no message shows it."""
    monkeypatch.setenv("KEY", "s3cret+/key")

    def answer(asked: Asked) -> Answer:
        assert asked.query["api_key"] == "s3cret+/key"
        start = int(asked.query.get("at", "0"))
        more = f"/items?at={start + 2}&api_key=s3cret%2B%2Fkey" if start < 4 else None
        return as_json({"items": ITEMS[start : start + 2], "next": more}, ETag=f'"{start}"')

    server.answer = answer
    source = api(
        server,
        auth={"style": "query", "name": "api_key", "value": "${KEY}"},
        pagination={"style": "next"},
    )
    _, end = pull_all(source)
    assert "s3cret" not in str(end) and "api_key" not in str(end.watermark)
    assert pull_all(source, PullRequest(watermark=end.watermark))[1].unchanged
    other = FaultyServer()
    try:
        other.answer = lambda asked: as_json({"items": ITEMS})
        server.answer = lambda asked: Answer(b"", 302, {"Location": f"{other.url}/x"})
        pull_all(source)
        assert "api_key" not in other.asked[0].target
    finally:
        other.close()


def test_a_secret_in_a_path_is_not_shown(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages name the URL without what came from the environment."""
    monkeypatch.setenv("KEY", "s3cret")
    for answer in (Answer(b"", 404), Answer(b"{", 200)):
        server.answer = lambda asked, a=answer: a
        with pytest.raises((SourceUnreachableError, SourceDataError)) as raised:
            pull_all(api(server, url=f"{server.url}/hook/${{KEY}}/items"))
        assert "s3cret" not in str(raised.value) and "/hook/" in str(raised.value)


def test_credentials_in_a_url_are_refused(server: FaultyServer) -> None:
    """They would be kept with the pages; the message does not repeat them."""
    with pytest.raises(ConfigError, match="holds credentials") as raised:
        api(server, url="https://user:pa55@api.example/items")
    assert "pa55" not in str(raised.value)


def test_configured_headers_take_the_place_of_ours(server: FaultyServer) -> None:
    """However they are spelled, each is sent once."""
    server.answer = lambda asked: as_json({"items": ITEMS})
    pull_all(api(server, headers={"accept": "application/vnd.api+json"}))
    assert server.asked[0].headers["accept"] == "application/vnd.api+json"


def test_a_parameter_that_may_be_a_key_stays_out_of_the_watermark(server: FaultyServer) -> None:
    """Also one that stands in the configuration as it is."""
    server.answer = lambda asked: as_json({"items": ITEMS}, ETag='"1"')
    source = api(server, params={"key": "literal-secret", "lang": "en"})
    _, end = pull_all(source)
    assert "literal-secret" not in str(end.watermark) and "lang=en" in str(end.watermark)
    assert pull_all(source, PullRequest(watermark=end.watermark))[1].unchanged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("token: x, auth: {style: bearer, token: y}", "short for 'auth'"),
        ("auth: {style: basic, user: u}", "takes exactly user and password"),
        ("auth: {style: query, name: n, value: v, token: t}", "takes exactly name and value"),
        ("body: {q: 1}", "a body needs"),
        ("incremental: {param: since}", "needs 'updated_at'"),
        ("deleted_values: [x]", "needs 'deleted'"),
        ("pagination: {style: page, after: id}", "belongs to the style 'cursor'"),
        ("allow_private: [nonsense]", "networks such as"),
        ("pagination: {style: pages}", "'page'"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_explained(options: str, message: str) -> None:
    """The message says what does not go together."""
    text = f"name: kb\nsources: {{s: {{kind: api, url: https://x.example, key: id, {options}}}}}\n"
    with pytest.raises(ConfigError) as raised:
        parse(text.encode())
    assert message in str(raised.value)


# --- tombstones and times --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "value", "gone"),
    [
        ({"deleted": "x"}, True, True),
        ({"deleted": "x"}, "2024-01-01T00:00:00Z", True),
        ({"deleted": "x"}, 1, True),
        ({"deleted": "x"}, {"by": "me"}, True),
        ({"deleted": "x"}, False, False),
        ({"deleted": "x"}, "false", False),
        ({"deleted": "x"}, None, False),
        ({"deleted": "x"}, 0, False),
        ({"deleted": "x"}, "", False),
        ({"deleted": "x"}, {}, False),
        ({"deleted": "x.state", "deleted_values": ["archived"]}, {"state": "archived"}, True),
        ({"deleted": "x.state", "deleted_values": ["archived"]}, {"state": "open"}, False),
    ],
)
def test_a_field_says_that_a_record_was_deleted(
    server: FaultyServer, options: dict[str, Any], value: Any, gone: bool
) -> None:
    """Any value but an empty one means deleted, or those that are configured."""
    server.answer = lambda asked: as_json({"items": [{"id": "a", "t": "text", "x": value}]})
    (row,) = pull_rows(api(server, text="t", **options))
    assert row["state"] == ("gone" if gone else "present")


@pytest.mark.parametrize(
    ("form", "since"),
    [
        ("iso", "2024-01-02T03:04:05Z"),
        ("unix", "1704164645"),
        ("unix_ms", "1704164645000"),
        ("date", "2024-01-02"),
    ],
)
def test_times_are_sent_as_the_api_takes_them(server: FaultyServer, form: str, since: str) -> None:
    """For windows and for what changed since."""
    server.answer = lambda asked: as_json({"items": ITEMS})
    source = api(server, since_param="from", until_param="to", time_format=form)
    start = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    pull_all(source, PullRequest(window=Window(start, datetime(2024, 2, 1, tzinfo=UTC))))
    assert server.asked[0].query["from"] == since


def test_a_key_on_two_pages_is_doubled_only_where_it_contradicts_itself(
    server: FaultyServer,
) -> None:
    """Equal rows are one record; different ones are both handed on, and either way it shows."""

    def pages(second: dict[str, str]) -> None:
        listed = [[ITEMS[0], ITEMS[1]], [second, ITEMS[2]], []]
        server.answer = lambda asked: as_json({"items": listed[int(asked.query["page"]) - 1]})

    source = api(server, pagination={"style": "page"})
    pages(ITEMS[0])
    batches, end = pull_all(source)
    assert sorted(k for b in batches for k in b.column("key").to_pylist()) == ["1", "2", "3"]
    assert not end.complete and "keys on more than one page: 1" in end.note
    pages({**ITEMS[0], "name": "another"})
    batches, end = pull_all(source)
    assert sorted(k for b in batches for k in b.column("key").to_pylist()) == ["1", "1", "2", "3"]
    assert not end.complete


def test_a_list_that_cannot_be_read_twice_is_incomplete(server: FaultyServer) -> None:
    """What was read once is taken in; it deletes nothing."""
    listed = [[ITEMS[0], ITEMS[1]], [ITEMS[2]], []]
    server.answer = lambda asked: as_json({"items": listed[int(asked.query["page"]) - 1]})
    server.fault = lambda asked: "truncated" if asked.number > 2 else ""
    batches, end = pull_all(api(server, pagination={"style": "page"}))
    assert sum(batch.num_rows for batch in batches) == 3
    assert not end.complete and "could not be read twice (the reply is no JSON)" in end.note
