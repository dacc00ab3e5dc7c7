"""Hostile requests and limits: an answer in three parts, never a traceback, never a dead service."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headwater import errors
from headwater.serving.knowledge import Knowledge
from headwater.serving.problems import STATUS, dump_json, problem_of, status_of
from headwater.serving.server import listen


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.01)


class SlowKnowledge(Knowledge):
    """Holds every search until it is let go."""

    def __init__(self, kb) -> None:
        super().__init__(kb)
        self.let_go = threading.Event()
        self.entered = threading.Semaphore(0)

    def search(self, *args: Any, **options: Any) -> Any:
        self.entered.release()
        assert self.let_go.wait(60)
        return super().search(*args, **options)


class BrokenKnowledge(Knowledge):
    """Fails as no error of headwater does."""

    def snapshots(self, limit: int) -> Any:
        raise ZeroDivisionError("a secret of the inside")


def refused(reply, status: int) -> dict[str, str]:
    """A problem in three parts, with this status and nothing of the inside."""
    assert reply.status == status, reply.body
    told: dict[str, str] = reply.json
    assert set(told) == {"error", "what", "object", "todo"} and told["error"] and told["what"]
    assert b"Traceback" not in reply.body and b'File "' not in reply.body
    return told


def raw(client, data: bytes) -> bytes:
    """Send bytes as they are; returns all that comes back until the server closes."""
    with socket.create_connection(client.address, timeout=30) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    "ask, status, where",
    [
        ({"query": ""}, 422, "body.query"),
        ({"query": " \n\t "}, 400, ""),
        ({"query": "x" * 900_000}, 422, "body.query"),
        ({"query": "x" * 1_000_000}, 413, "more than 1000000 bytes"),
        ({"query": "\ud800"}, 422, "body.query"),
        ({"query": 7}, 422, "body.query"),
        ({}, 422, "body.query"),
        ([], 422, "body"),
        ({"query": "x", "k": 0}, 422, "body.k"),
        ({"query": "x", "k": -1}, 422, "body.k"),
        ({"query": "x", "k": 10**6}, 422, "body.k"),
        ({"query": "x", "k": 10**400}, 422, "body.k"),
        ({"query": "x", "k": "many"}, 422, "body.k"),
        ({"query": "x", "kk": 3}, 422, "body.kk"),
        ({"query": "x", "as_of": "99"}, 404, "99"),
        ({"query": "x", "as_of": "no such tag"}, 404, "no such tag"),
        ({"query": "x", "as_of": "../../etc/passwd"}, 404, "../../etc/passwd"),
        ({"query": "x", "as_of": "00000001-\x00"}, 404, "00000001-\x00"),
        ({"query": "x", "as_of": "0001-01-01T00:00:00+23:59"}, 422, "body.as_of"),
        ({"query": "x", "as_of": "1" * 5000}, 422, "body.as_of"),
        ({"query": "x", "max_staleness": "soon"}, 422, "body.max_staleness"),
        ({"query": "x", "max_staleness": "9" * 40 + "w"}, 422, "body.max_staleness"),
        ({"query": "x", "max_staleness": -5}, 422, "body.max_staleness"),
        ({"query": "x", "changed_since": "yesterday"}, 422, "body.changed_since"),
        ({"query": "x", "changed_since": "0001-01-01T00:00:00+23:59"}, 422, "body.changed_since"),
        ({"query": "x", "where": ""}, 422, "body.where"),
        ({"query": "x", "where": "x" * 10_001}, 422, "body.where"),
        ({"query": "x", "sources": []}, 422, "body.sources"),
        ({"query": "x", "sources": ["s"] * 101}, 422, "body.sources"),
        ({"query": "x", "sources": ["../docs"]}, 404, "../docs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_search_is_refused_with_what_is_wrong(client, ask, status, where):
    """The status says whose fault it is, the object which part, the last part what to do."""
    told = refused(client.post("/search", ask), status)
    assert told["object"] == where and told["todo"]
    assert client.search("tea", k=1).status == 200


@pytest.mark.parametrize(
    "where",
    ["key =", "(" * 9_000, "not " * 2_000 + "key = 'a'", "'; drop table versions; --",
     "nothing_like_it = 1", "key = 'a' and", "labels > 3", "\x00", "key = '\ud7ff'"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_filter_that_cannot_be_read_is_refused(client, where: str):
    """Whatever stands in the place of a filter: an answer, and never a bug."""
    reply = client.search("tea", where=where)
    assert reply.status in (200, 400), reply.body
    if reply.status == 400:
        refused(reply, 400)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"query": "x"', b"\xff\xfe", b"null", b"[" * 200_000, b'{"query": NaN}'],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_json_is_refused(client, body: bytes):
    """Whatever stands in the place of JSON."""
    reply = client.post("/search", body)
    assert reply.status in (400, 422)
    refused(reply, reply.status)


@pytest.mark.parametrize(
    "path",
    [
        "/documents/docs/../../../etc/passwd",
        "/documents/docs/..%2f..%2f..%2fetc%2fpasswd",
        "/documents/docs//etc/passwd",
        "/documents/..%2f..%2fstore/CURRENT",
        "/documents/docs/%00",
        "/documents/docs/%ff%fe",
        "/documents/docs/river.md%0d%0aX-Evil:%201",
        "/documents/wiki/river.md",
        "/documents/docs/" + "a" * 4000,
        "/snapshots/..%2f..%2fCURRENT/changes?since=1",
        "/snapshots/current/changes?since=../../CURRENT",
        "/snapshots/current/changes?since=00000009-0000000000000000",
    ],
)
def test_a_key_or_snapshot_is_looked_up_and_never_opened_as_a_file(client, path: str):
    """Nothing that a caller names becomes a path: what is not there is not found."""
    reply = client.get(path)
    refused(reply, 404)
    assert b"root:" not in reply.body and "x-evil" not in reply.headers


@pytest.mark.parametrize(
    "path, status",
    [
        ("/documents/docs/" + "a" * 5000, 422),
        ("/snapshots?limit=0", 422),
        ("/snapshots?limit=100000", 422),
        ("/snapshots/current/changes", 422),
        ("/snapshots/current/changes?since=1&limit=0", 422),
        ("/snapshots/current/changes?since=1&offset=-1", 422),
        ("/snapshots/current/changes?since=1&offset=99999999999999999999", 422),
        ("/snapshots/current/changes?since=9999-12-31T23:59:59-23:59", 422),
        ("/search", 422),
        ("/search?q=tea&k=1000000", 422),
        ("/nowhere", 404),
        ("/", 404),
        ("/docs", 404),
    ],
)
def test_a_wrong_address_is_refused(client, path: str, status: int):
    """Parameters beyond their limits, and paths that do not exist."""
    refused(client.get(path), status)


def test_a_wrong_method_is_refused(client):
    """A path that exists, asked in another way."""
    assert refused(client.post("/status", {}), 405)["error"] == "method-not-allowed"


def test_an_offset_beyond_the_end_is_an_empty_part(client):
    """Whoever asks too far learns that there is no more."""
    told = client.get("/snapshots/2/changes", since="1", offset=2**40).json
    assert told["changes"] == [] and told["next_offset"] is None and told["total"] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET /search?q=" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-A: 1\rX-Evil: 1\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX A: 1\r\n\r\n",
        b"GET /sta\x00tus HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        (b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nhello"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
    ],
    ids=["long-url", "long-header", "bare-cr", "space", "nul", "negative", "two-lengths",
         "tls", "nonsense"],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_the_service_lives(client, data: bytes):
    """Smuggled headers, endless lines, other protocols: 400 at most, then business as usual."""
    try:
        found = raw(client, data)
    except OSError:
        found = b""
    assert found == b"" or found.startswith(b"HTTP/1.1 4"), found[:200]
    assert b"Traceback" not in found and b"X-Evil" not in found
    assert client.get("/healthz").status == 200


def test_a_body_without_a_length_is_bounded_too(client):
    """Chunks are counted as they come."""
    chunk = b"%x\r\n" % 60_000 + b" " * 60_000 + b"\r\n"
    head = (
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    found = raw(client, head + chunk * 20 + b"0\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 413"), found[:200]
    fits = b'{"query":"tea","k":1}'
    body = b"%x\r\n" % len(fits) + fits + b"\r\n0\r\n\r\n"
    assert raw(client, head + body).startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_arrive_ends_in_time(base, serving):
    """A client that promises a body and goes quiet holds nothing for long."""
    base.configure(serving={"timeout": "0.3s"})
    base.publish(base.first)
    with serving(base.kb) as client, socket.create_connection(client.address, 30) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_too_many_at_once_are_turned_away_and_told_when_to_return(base, serving):
    """Beyond the limit 503 at once; figures are still shown; afterwards everything is answered."""
    base.configure(serving={"max_concurrent": 2})
    base.publish(base.first)
    slow = SlowKnowledge(base.kb)
    with serving(base.kb, knowledge=slow) as client, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.search, "tea") for _ in range(2)]
        for _ in held:
            assert slow.entered.acquire(timeout=30)
        reply = client.search("tea")
        assert refused(reply, 503)["error"] == "busy" and reply.headers["retry-after"] == "1"
        assert client.get("/status").status == 200 and client.get("/metrics").status == 200
        slow.let_go.set()
        assert [future.result().status for future in held] == [200, 200]
        assert client.search("tea").status == 200


def test_an_answer_that_takes_too_long_is_a_504_and_holds_its_place(base, serving):
    """The caller is told; as long as the work goes on, it counts; then the place is free again."""
    base.configure(serving={"max_concurrent": 1, "timeout": "0.3s"})
    base.publish(base.first)
    slow = SlowKnowledge(base.kb)
    with serving(base.kb, knowledge=slow) as client:
        assert refused(client.search("tea"), 504)["error"] == "timeout"
        refused(client.search("tea"), 503)
        slow.let_go.set()
        until(lambda: client.search("tea").status == 200)


def test_a_bug_is_a_500_with_a_number_that_the_log_explains(base, caplog, serving):
    """The caller sees no inside; the log has the traceback under the number the caller was told."""
    base.publish(base.first)
    with (
        caplog.at_level(logging.ERROR, "headwater.serving"),
        serving(base.kb, knowledge=BrokenKnowledge(base.kb)) as client,
    ):
        reply = client.get("/snapshots")
        told = refused(reply, 500)
        assert client.search("tea").status == 200
    assert told["error"] == "internal" and b"secret" not in reply.body
    (record,) = [r for r in caplog.records if told["object"] in r.getMessage()]
    assert record.exc_info and "a secret of the inside" in str(record.exc_info[1])


def test_a_damaged_store_is_a_500_that_names_no_folder_of_the_server(base, serving):
    """What is damaged is named within the store."""
    base.publish(base.first)
    manifest = base.store.current()
    assert manifest is not None
    for entry in manifest.contents:
        base.store.objects.path(entry).write_bytes(b"not parquet")
    with serving(base.kb) as client:
        told = refused(client.get("/documents/docs/river.md"), 500)
    assert told["error"] == "corrupt-object" and str(base.root) not in json.dumps(told)


def test_a_shutdown_lets_requests_finish(base, serving):
    """What was begun is answered, and then the server is gone."""
    base.publish(base.first)
    slow = SlowKnowledge(base.kb)
    replies: list = []
    with serving(base.kb, knowledge=slow) as client:
        asking = threading.Thread(target=lambda: replies.append(client.search("tea")))
        asking.start()
        assert slow.entered.acquire(timeout=30)
        threading.Thread(target=lambda: (time.sleep(0.5), slow.let_go.set())).start()
    asking.join(timeout=30)
    assert [reply.status for reply in replies] == [200]
    with pytest.raises(OSError):
        socket.create_connection(client.address, timeout=5)


def test_what_json_cannot_hold_never_breaks_a_reply():
    """Numbers that are none become null, half characters stay escapes, and all else is kept."""
    odd = {"a": [math.nan, 1.5, {"b": math.inf}], "c": (-math.inf, "x\ud800y"), "d": "ü\u0000"}
    body = dump_json(odd)
    assert b"NaN" not in body and b"Infinity" not in body
    assert json.loads(body.decode("utf-8")) == {
        "a": [None, 1.5, {"b": None}], "c": [None, "x\ud800y"], "d": "ü\u0000",
    }  # fmt: skip


def test_metadata_with_a_number_that_is_none_is_served(base, serving):
    """A source may hold NaN; its documents are found and read all the same."""
    record = {"key": "a", "text": "A river.", "metadata": {"share": math.nan, "n": 1}}
    source = {"kind": "memory", "options": {"records": [record]}}
    base.configure(sources={"odd": source})
    base.publish({})
    with serving(base.kb) as client:
        (hit,) = client.search("river").json["hits"]
        assert hit["metadata"] == {"share": None, "n": 1}
        assert client.get("/documents/odd/a").json["metadata"] == hit["metadata"]


def test_every_error_has_a_status():
    """The table covers the tree, and blames the caller only for what the caller can mend."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.HeadwaterError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        error = kind("It failed", obj="this", todo="do that")
        problem = problem_of(error)
        assert problem.status == status_of(error) in STATUS.values()
        assert (problem.what, problem.obj, problem.todo) == ("It failed", "this", "do that")
        assert problem.error == kind.kind
    assert status_of(errors.CorruptObjectError("x")) == 500
    assert status_of(errors.StorageUnavailableError("x")) == 503
    assert status_of(errors.ParentMovedError("x")) == 503


def test_replies_are_sent_without_delay():
    """Asyncio switches Nagle's algorithm off only for sockets that name their protocol."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP
