"""Who is let in, and what a caller with labels may see."""

from __future__ import annotations

import hashlib
import itertools
import re
import socket

import pytest
import yaml

from headwater.config import ServingConfig, ServingKey, parse
from headwater.errors import ConfigError
from headwater.serving.keys import Keyring, check_exposure, is_loopback, new_key, presented

KEY, OTHER = "hw_a-key-of-the-tests", "hw_another"
PATHS = (
    "/search?q=tea", "/documents/docs/river.md", "/snapshots", "/status", "/metrics",
    "/snapshots/current/changes?since=1",
)  # fmt: skip


def entry(name, key, **more):
    """A key, as headwater.yaml has it."""
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **more}


def labelled(**labels):
    """Settings with a public and a staff folder, and one key for each list of labels."""
    keys = [entry(name, name, labels=held) for name, held in labels.items()]
    return {
        "sources": {
            "docs": {"kind": "documents", "root": "docs", "labels": ["public"]},
            "staff": {"kind": "documents", "root": "staff", "labels": ["public", "staff"]},
        },
        "serving": {"api_keys": [*keys, entry("root", "root")]},
    }


def bearer(key):
    """The header that brings a key."""
    return {"Authorization": f"Bearer {key}"}


def test_every_endpoint_but_two_needs_a_key_once_one_is_configured(base, serving):
    """No key and a wrong one are 401 in three parts; being alive and the description are open."""
    base.configure(serving={"api_keys": [entry("app", KEY), entry("b", OTHER)]})
    base.publish(base.first)
    with serving(base.kb) as client:
        for path in PATHS:
            for headers in ({}, bearer("wrong"), {"X-API-Key": "wrong"}, bearer(""), bearer("é")):
                reply = client.get(path, headers)
                assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
                assert reply.json["error"] == "unauthorized" and "X-API-Key" in reply.json["todo"]
            for headers in (bearer(KEY), {"Authorization": f"bearer  {KEY}"}, {"X-API-Key": OTHER}):
                assert client.get(path, headers).status == 200, path
        assert client.post("/search", {"query": "tea"}, bearer("wrong")).status == 401
        assert client.post("/search", {"query": "tea"}, bearer(KEY)).status == 200
        assert client.get("/nowhere").status == 401
        assert client.get("/healthz").status == 200
        described = client.get("/openapi.json")
    assert described.status == 200
    assert set(described.json["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}


def test_a_key_does_not_leave_the_service(base, serving, caplog):
    """Neither replies nor the log repeat what was presented."""
    base.configure(serving={"api_keys": [entry("app", KEY)]})
    base.publish(base.first)
    with caplog.at_level("DEBUG"), serving(base.kb) as client:
        replies = [client.get(path, bearer(key)) for path in PATHS for key in (KEY, "hw_wrong")]
    for text in (caplog.text, *(reply.body.decode() for reply in replies)):
        assert KEY not in text and "hw_wrong" not in text


def test_without_keys_a_foreign_host_name_is_refused(base, serving):
    """A web page whose name was bound to 127.0.0.1 gets nothing through its visitor's browser."""
    base.publish(base.first)
    with serving(base.kb) as client:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.1"):
            assert client.get("/status", {"Host": host}).status == 403
        for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"):
            assert client.get("/status", {"Host": host}).status == 200
    with serving(base.kb, insecure=True) as client:
        assert client.get("/status", {"Host": "kb.example"}).status == 200


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("LOCALHOST.", True), ("0.0.0.0", False), ("::", False),
        ("192.0.2.1", False), ("kb.example", False), ("", False), ("127.0.0.1.example", False),
    ],
)  # fmt: skip
def test_a_network_is_let_in_with_keys_or_on_purpose(host, loopback):
    """Without keys, anything but this machine is refused, and the message says how to go on."""
    assert is_loopback(host) == loopback
    with_keys = ServingConfig(api_keys=(ServingKey(**entry("app", KEY)),))
    check_exposure(with_keys, host, insecure=False)
    check_exposure(ServingConfig(), host, insecure=True)
    if loopback:
        check_exposure(ServingConfig(), host, insecure=False)
    else:
        with pytest.raises(ConfigError, match="--new-key"):
            check_exposure(ServingConfig(), host, insecure=False)


def test_a_new_key_is_let_in_by_the_lines_that_come_with_it():
    """What is printed can be pasted; the key is long, fresh and not in the file."""
    key, lines = new_key("reporting")
    again, _ = new_key("reporting")
    assert key != again and re.fullmatch(r"hw_[\w-]{43}", key) and key not in lines
    config = parse(f"name: kb\nsources: {{d: {{kind: documents, root: d}}}}\n{lines}".encode())
    keyring = Keyring(config.serving.api_keys)
    caller = keyring.caller(key.encode())
    assert caller is not None and caller.name == "reporting" and caller.allow is None
    assert keyring.caller(again.encode()) is None and keyring.caller(None) is None
    with pytest.raises(ConfigError, match="no name"):
        new_key("two words")


@pytest.mark.parametrize(
    "key, said",
    [
        ({"name": "a", "sha256": "abc"}, "serving.api_keys.0.sha256"),
        ({"name": "A B", "sha256": "0" * 64}, "serving.api_keys.0.name"),
        ({"name": "a"}, "this key is required"),
        ({"name": "a", "sha256": "0" * 64, "label": ["x"]}, "did you mean 'labels'"),
    ],
)
def test_a_wrong_key_in_the_configuration_is_named(key, said):
    """The file, the line and what was expected."""
    config = {"name": "kb", "sources": {"d": {"kind": "documents", "root": "d"}}}
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(yaml.safe_dump({**config, "serving": {"api_keys": [key]}}).encode())


def test_either_header_brings_a_key():
    """The first that holds one; other schemes do not."""
    assert presented([(b"authorization", b"Bearer  abc ")]) == b"abc"
    assert presented([(b"authorization", b"Basic abc")]) is None
    assert presented([(b"authorization", b"Basic x"), (b"x-api-key", b"abc")]) == b"abc"
    assert presented([]) is None


def test_a_caller_with_labels_sees_what_carries_no_other(base, serving):
    """The same documents by search and by name, now and in the past; others are not found."""
    base.configure(**labelled(guest=["public"], clerk=["public", "staff"], nobody=[]))
    (base.root / "staff").mkdir()
    (base.root / "staff" / "pay.md").write_text("Wages of the crew on the river.\n")
    base.publish(base.first)
    base.publish({"rain.md": "Rain falls on the river.\n"})
    every = {("docs", name) for name in base.first} | {("staff", "pay.md")}
    expected = {
        "guest": every - {("staff", "pay.md")}, "clerk": every, "nobody": set(), "root": every,
    }  # fmt: skip
    with serving(base.kb) as client:
        for (name, seen), ref in itertools.product(expected.items(), ("1", "2", "current")):
            client.headers = bearer(name)
            hits = client.search("the river", k=100, as_of=ref).json["hits"]
            assert {(hit["source"], hit["key"]) for hit in hits} == seen, (name, ref)
            for source, key in every:
                path = f"/documents/{source}/{key.replace(' ', '%20')}"
                status = client.get(path, as_of=ref).status
                assert status == (200 if (source, key) in seen else 404), (name, ref, key)
        client.headers = bearer("guest")
        hidden = client.get("/documents/staff/pay.md").json
        missing = client.get("/documents/staff/no.md").json
        assert hidden == {**missing, "object": missing["object"].replace("no.md", "pay.md")}
        assert "staff" not in client.search("x", sources=["wiki"]).json["todo"]


def test_a_document_that_became_secret_is_hidden_in_the_past_too(base, serving):
    """Labels of now decide about then, in searches and by name."""
    base.configure(**labelled(guest=["public"]))
    (base.root / "staff").mkdir()
    base.publish(base.first)
    settings = labelled(guest=["public"])
    settings["sources"]["docs"]["labels"] = ["public", "staff"]
    base.configure(**settings)
    base.publish({"rain.md": "Rain falls on the river.\n", "new.md": "All is new.\n"})
    with serving(base.kb) as client:
        client.headers = bearer("guest")
        for ref in ("1", "2"):
            assert client.search("river", k=100, as_of=ref).json["hits"] == []
            assert client.get("/documents/docs/river.md", as_of=ref).status == 404


def test_the_change_feed_tells_a_caller_what_came_into_sight_and_what_went(base, serving):
    """Hidden documents are not in it; one that became hidden is removed, so that copies go."""
    base.configure(**labelled(guest=["public"], clerk=["public", "staff"]))
    staff = base.root / "staff"
    staff.mkdir()
    (staff / "pay.md").write_text("Wages of the crew.\n")
    (staff / "plan.md").write_text("The plan of the year.\n")
    base.publish(base.first)
    (staff / "pay.md").write_text("Higher wages of the crew.\n")
    (base.root / "docs" / "rain.md").rename(staff / "rain.md")
    (staff / "plan.md").rename(base.root / "docs" / "plan.md")
    base.publish({"river.md": "A river ends in the sea.\n"})
    path = "/snapshots/2/changes?since=1"
    with serving(base.kb) as client:
        feeds = {name: client.get(path, bearer(name)).json for name in ("guest", "clerk", "root")}
        parts = [client.get(f"{path}&limit=1&offset={n}", bearer("guest")).json for n in range(4)]
    told = {
        name: [(row["source"], row["key"], row["op"]) for row in feed["changes"]]
        for name, feed in feeds.items()
    }
    assert told["guest"] == [
        ("docs", "plan.md", "added"), ("docs", "rain.md", "removed"), ("docs", "river.md", "changed"),
    ]  # fmt: skip
    assert told["clerk"] == told["root"] and ("staff", "pay.md", "changed") in told["root"]
    assert feeds["guest"]["total"] == 3
    assert [row for part in parts for row in part["changes"]] == feeds["guest"]["changes"]


def test_a_change_of_labels_alone_takes_a_document_out_of_sight(base, serving):
    """Hidden, not deleted: to the caller it is removed, and comes back as added."""
    settings = labelled(guest=["public"])
    base.configure(**settings)
    (base.root / "staff").mkdir()
    base.publish(base.first)
    settings["sources"]["docs"]["labels"] = ["public", "staff"]
    base.configure(**settings)
    base.publish({"rain.md": "Rain falls on the river.\n"})
    with serving(base.kb) as client:
        client.headers = bearer("guest")
        changes = client.get("/snapshots/2/changes", since="1").json["changes"]
    assert {row["op"] for row in changes} == {"removed"}
    assert {row["key"] for row in changes} == set(base.first)
    assert all(row["after_version_id"] is None for row in changes)


def test_what_tells_of_every_document_needs_a_key_without_labels(base, serving):
    """Figures, the state of the sources and full histories; the log comes without its counts."""
    base.configure(**labelled(guest=["public"]))
    (base.root / "staff").mkdir()
    base.publish(base.first)
    with serving(base.kb) as client:
        for path in ("/status", "/metrics", "/documents/docs/river.md?versions=true"):
            reply = client.get(path, bearer("guest"))
            assert reply.status == 403 and reply.json["error"] == "forbidden"
            assert client.get(path, bearer("root")).status == 200
        (guests,) = client.get("/snapshots", bearer("guest")).json["snapshots"]
        (roots,) = client.get("/snapshots", bearer("root")).json["snapshots"]
    counts = {"documents", "chunks", "texts", "quarantined"}
    assert {name for name in roots if guests[name] != roots[name]} == counts
    assert all(guests[name] is None for name in counts)


def test_a_key_on_a_reused_connection_counts_for_its_own_request(base, serving):
    """The second request of a connection without a key is refused."""
    base.configure(serving={"api_keys": [entry("app", KEY)]})
    base.publish(base.first)
    head = "GET /snapshots HTTP/1.1\r\nHost: localhost\r\n"
    with serving(base.kb) as client, socket.create_connection(client.address, 30) as connection:
        connection.sendall(
            f"{head}X-API-Key: {KEY}\r\n\r\n{head}Connection: close\r\n\r\n".encode()
        )
        found = b""
        while part := connection.recv(65536):
            found += part
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"401"]
