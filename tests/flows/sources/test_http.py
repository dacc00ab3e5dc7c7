"""The one place that speaks HTTP: limits, addresses, redirects, broken replies."""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import stamina
from faulty_server import Answer, FaultyServer

from headwater.errors import SourceDataError, SourceUnreachableError
from headwater.flows.sources.http import HttpSession, Limits, Request, Validators
from headwater.flows.sources.http_access import Access
from headwater.flows.sources.http_bodies import CutShortError, WrongEncodingError, decode
from headwater.flows.sources.http_guard import Addresses, proxy_of
from headwater.flows.sources.urls import normal_url, origin_of, shown


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A running server."""
    running = FaultyServer()
    running.answer = lambda asked: Answer(b"hello")
    with stamina.set_testing(True, attempts=2):
        yield running
    running.close()


def session(server: FaultyServer, *, private: Any = True, **limits: Any) -> HttpSession:
    """A session with credentials for the server's origin."""
    access = Access(frozenset({origin_of(server.url)}), headers={"X-Key": "k"}, params={"q": "s"})
    chosen = {"timeout_s": 5, "deadline_s": 20, "max_bytes": 1_000_000} | limits
    return HttpSession(access, Limits(**chosen), Addresses(private))


# --- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "192.0.2.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1"),
        *("fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    """None of them may be connected to, however it is spelled, unless its network is allowed."""
    assert not Addresses().allows(address)
    assert Addresses(True).allows(address)
    assert not Addresses(("203.0.113.0/24",)).allows(address)


def test_networks_are_allowed_one_by_one() -> None:
    """What is allowed is that network and what is public; a mapped address counts as its own."""
    addresses = Addresses(("10.0.0.0/8", "fd00::/8"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "93.184.216.34", "2606:4700::1111"):
        assert addresses.allows(address)
    assert not addresses.allows("127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]"])
def test_no_spelling_of_loopback_is_connected_to(server: FaultyServer, host: str) -> None:
    """Names and odd numbers are judged by what they resolve to."""
    with session(server, private=False) as http, pytest.raises(SourceUnreachableError) as raised:
        http.get(f"http://{host}:{server.port}/")
    assert "not public" in str(raised.value) or "does not answer" in str(raised.value)
    assert server.asked == []


def test_the_address_that_was_judged_is_connected_to(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once: what it stands for a moment later plays no part."""
    import socket

    import httpcore2

    resolved: list[str] = []
    connected: list[str] = []

    def resolve(host: str, port: int, **kwargs: Any) -> Any:
        resolved.append(host)
        address = "93.184.216.34" if len(resolved) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(self: Any, host: str, *args: Any, **kwargs: Any) -> Any:
        connected.append(host)
        raise httpcore2.ConnectError("no traffic leaves this machine")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    with session(server, private=False) as http, pytest.raises(SourceUnreachableError) as raised:
        http.get(f"http://rebind.example:{server.port}/")
    assert connected == ["93.184.216.34"]
    assert resolved == ["rebind.example"] * 2, "each attempt resolves and judges anew"
    assert "127.0.0.1 is not public" in str(raised.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused(server: FaultyServer, status: int) -> None:
    """The first hop was allowed, the second is judged by itself, and nothing is sent to it."""
    server.answer = lambda asked: Answer(b"", status, {"Location": "http://192.168.0.1/admin"})
    allowed = ("127.0.0.0/8",)
    with session(server, private=allowed) as http, pytest.raises(SourceUnreachableError) as raised:
        http.get(server.url)
    assert "192.168.0.1 is not public" in str(raised.value)
    assert "allow_private" in str(raised.value)


def test_a_proxy_of_the_environment_is_used(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resolves names itself; an address written as a number is judged before it is asked."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    assert proxy_of("http://public.example/") == server.url
    with session(server, private=False) as http:
        assert http.get("http://public.example/page").body == b"hello"
        assert server.asked[0].target == "http://public.example/page"
        with pytest.raises(SourceUnreachableError, match="not public"):
            http.get("http://10.0.0.1/")
    monkeypatch.setenv("no_proxy", "public.example")
    assert proxy_of("http://public.example/") is None


# --- redirects -------------------------------------------------------------------------------------


def test_redirects_are_followed_and_end(server: FaultyServer) -> None:
    """Relative ones too; a circle is an error after a few hops."""
    server.answer = lambda a: (
        Answer(b"", 302, {"Location": "/b"}) if a.path == "/a" else Answer(b"b")
    )
    with session(server) as http:
        reply = http.get(f"{server.url}/a")
        assert (reply.body, shown(reply.url)) == (b"b", f"{server.url}/b")
        server.answer = lambda asked: Answer(b"", 302, {"Location": "?again"})
        server.forget()
        with pytest.raises(SourceUnreachableError, match="redirects"):
            http.get(f"{server.url}/a")
        assert len(server.asked) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h.example/", "gopher://h/"])
def test_a_redirect_out_of_the_web_is_refused(server: FaultyServer, target: str) -> None:
    """Only HTTP is spoken."""
    server.answer = lambda asked: Answer(b"", 302, {"Location": target})
    with session(server) as http, pytest.raises(SourceUnreachableError, match="out of the web"):
        http.get(server.url)


def test_credentials_do_not_follow_a_redirect(server: FaultyServer) -> None:
    """Another port is another origin: neither header nor parameter is sent to it."""
    other = FaultyServer()
    other.answer = lambda asked: Answer(b"there")
    server.answer = lambda asked: Answer(b"", 302, {"Location": f"{other.url}/x"})
    try:
        with session(server) as http:
            assert http.get(f"{server.url}/a").body == b"there"
        assert (server.asked[0].headers["x-key"], server.asked[0].query["q"]) == ("k", "s")
        assert "x-key" not in other.asked[0].headers and other.asked[0].query == {}
    finally:
        other.close()


# --- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw deflate", "identity", ""])
def test_bodies_are_decoded(server: FaultyServer, encoding: str) -> None:
    """As the reply says, in whatever pieces it comes."""
    body = b"text " * 200_000
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(body[:1000]) + gzip.compress(body[1000:]),
        "x-gzip": gzip.compress(body) + b"\0" * 20,
        "deflate": zlib.compress(body),
        "raw deflate": raw.compress(body) + raw.flush(),
    }.get(encoding, body)
    headers = {"Content-Encoding": encoding.removeprefix("raw ")} if encoding else {}
    server.answer = lambda asked: Answer(packed, 200, headers)
    with session(server, max_bytes=len(body)) as http:
        assert http.get(server.url).body == body


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_an_encoding_that_was_not_asked_for_is_an_error(
    server: FaultyServer, encoding: str
) -> None:
    """Layers of compression multiply what a few bytes can grow to."""
    packed = gzip.compress(gzip.compress(b"x"))
    server.answer = lambda asked: Answer(packed, 200, {"Content-Encoding": encoding})
    with session(server) as http, pytest.raises(SourceDataError, match="compressed wrongly"):
        http.get(server.url)
    assert server.asked[0].headers["accept-encoding"] == "gzip, deflate"


def test_a_bomb_is_stopped_at_the_cap() -> None:
    """Not a piece more than needed is decoded, whatever the ratio."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    taken = 0
    for piece in decode([bomb], "gzip"):
        assert len(piece) <= 1 << 18
        taken += len(piece)
        if taken > 1_000_000:
            break
    assert taken < 1_400_000


def test_every_byte_of_a_body_comes_out() -> None:
    """Also where the output ends just at the end of a piece, and the input in single bytes."""
    for size in (0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18):
        body = bytes(size)
        packed = gzip.compress(body)
        assert b"".join(decode([packed], "gzip")) == body
        assert b"".join(decode((bytes([b]) for b in packed), "gzip")) == body
        if size:
            with pytest.raises(CutShortError):
                list(decode([packed[:-5]], "gzip"))
    with pytest.raises(WrongEncodingError):
        list(decode([b"no gzip at all"], "gzip"))


def test_the_cap_counts_decoded_bytes_over_all_replies(server: FaultyServer) -> None:
    """Until it is given back for another reading; one reply may have a cap of its own."""
    server.answer = lambda asked: Answer(b"x" * 400)
    with session(server, max_bytes=1000) as http:
        http.get(server.url)
        http.get(server.url)
        with pytest.raises(SourceDataError, match="max_bytes"):
            http.get(server.url)
        http.start_over()
        http.get(server.url)
        with pytest.raises(SourceDataError, match="larger than 100 bytes"):
            http.send(Request(server.url, max_bytes=100))


@pytest.mark.parametrize("fault", ["reset-midway", "long-length", "cut-gzip"])
def test_a_body_cut_short_is_tried_again_and_never_taken(server: FaultyServer, fault: str) -> None:
    """Once is mended by the second attempt; always is an error."""
    server.answer = lambda asked: Answer(b"whole body")
    server.fault = lambda asked: fault if asked.number == 0 else ""
    with session(server) as http:
        assert http.get(server.url).body == b"whole body"
        server.fault = lambda asked: fault
        with pytest.raises((SourceDataError, SourceUnreachableError)):
            http.get(server.url)


def test_a_body_without_an_announced_end_says_so(server: FaultyServer) -> None:
    """A closed connection may be its end or not: `bounded` tells."""
    server.fault = lambda asked: "no-length"
    with session(server) as http:
        assert not http.get(server.url).bounded
        server.fault = lambda asked: ""
        assert http.get(server.url).bounded


def test_a_part_of_a_body_is_no_answer(server: FaultyServer) -> None:
    """206 was not asked for."""
    server.answer = lambda asked: Answer(b"part", 206)
    with session(server) as http, pytest.raises(SourceDataError, match="206"):
        http.get(server.url)


# --- time ------------------------------------------------------------------------------------------


def test_a_dripping_body_meets_the_deadline(server: FaultyServer) -> None:
    """Each read is quick, and all of them are not."""
    server.answer = lambda asked: Answer(b"x" * 400)
    server.fault = lambda asked: "slow"
    server.drip_s = 0.1
    began = time.monotonic()
    with session(server, deadline_s=0.4) as http, pytest.raises(SourceUnreachableError) as raised:
        http.get(server.url)
    assert "deadline" in str(raised.value)
    assert time.monotonic() - began < 5


def test_a_storm_of_429_is_waited_out(server: FaultyServer) -> None:
    """A server that says when to come back is no failed attempt, for a while."""
    server.fault = lambda asked: "429" if asked.number < 8 else ""
    with session(server) as http:
        assert http.get(server.url).body == b"hello"
    assert len(server.asked) == 9


def test_a_storm_that_does_not_end_is_given_up(server: FaultyServer) -> None:
    """After so many waits, or when the deadline would pass."""
    server.fault = lambda asked: "429"
    with session(server, deadline_s=1.5) as http, pytest.raises(SourceUnreachableError) as raised:
        http.get(server.url)
    assert re.search("429|deadline", str(raised.value))


def test_retry_after_may_be_a_date(server: FaultyServer) -> None:
    """Both forms of the header are read."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    busy = Answer(b"", 503, {"Retry-After": soon})
    server.answer = lambda asked: busy if asked.number == 0 else Answer(b"hello")
    with session(server) as http:
        assert http.get(server.url).body == b"hello"


def test_the_rate_is_kept(server: FaultyServer) -> None:
    """Requests leave no faster than configured, redirects and retries counted."""
    began = time.monotonic()
    with session(server, rate=20) as http:
        for _ in range(5):
            http.get(server.url)
    assert time.monotonic() - began >= 0.2


# --- validators ------------------------------------------------------------------------------------


def test_a_young_time_of_modification_proves_nothing() -> None:
    """It counts whole seconds: what changed in that second again would never be seen."""
    made = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)

    def of(age_s: float) -> Validators:
        modified = format_datetime(made - timedelta(seconds=age_s), usegmt=True)
        return Validators.of(
            {"date": format_datetime(made, usegmt=True), "last-modified": modified}
        )

    assert of(0).headers() == {} and of(1).headers() == {}
    assert set(of(60).headers()) == {"If-Modified-Since"}
    assert Validators.of({"last-modified": "nonsense", "date": "x"}).headers() == {}
    assert Validators.of({"etag": '"x"'}).headers() == {"If-None-Match": '"x"'}


def test_a_304_nobody_asked_for_is_an_error(server: FaultyServer) -> None:
    """It has no body, and must not be taken for an empty one."""
    server.answer = lambda asked: Answer(b"", 304)
    with session(server) as http:
        with pytest.raises(SourceDataError, match="304"):
            http.get(server.url)
        assert http.get(server.url, Validators(etag='"x"')).not_modified


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Host.Example:80/a?b=c#d", "http://host.example/a?b=c"),
        ("https://h.example", "https://h.example/"),
        ("https://h.example:444/x", "https://h.example:444/x"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("https://user:pw@h.example/x", "https://h.example/x"),
    ],
)
def test_a_url_has_one_spelling(url: str, normal: str) -> None:
    """And no credentials, fragment or default port in it."""
    assert normal_url(url) == normal


@pytest.mark.parametrize(
    "url", ["", "no url", "ftp://h/", "http://", "http://[", "//h/x", "http://h:x/"]
)
def test_what_is_no_url_of_the_web_is_refused(url: str) -> None:
    """In words."""
    with pytest.raises(SourceDataError):
        normal_url(url)


def test_a_check_is_made_at_each_hop(server: FaultyServer) -> None:
    """Whoever asks may refuse where a redirect leads."""
    seen: list[str] = []
    server.answer = lambda a: (
        Answer(b"", 302, {"Location": "/b"}) if a.path == "/a" else Answer(b"b")
    )
    with session(server) as http:
        http.send(Request(f"{server.url}/a", check=seen.append))
    assert [shown(url) for url in seen] == [f"{server.url}/a", f"{server.url}/b"]
