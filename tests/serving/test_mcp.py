"""Tools for agents, asked by the real client over both wires."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from headwater.serving.keys import new_key
from headwater.serving.knowledge import Knowledge
from headwater.serving.mcp_server import PATH, http_app
from headwater.serving.mcp_tools import KnowledgeTools
from headwater.serving.server import listen, server_of, url_of

COMMAND = "import sys; from headwater.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def served(published, tmp_path_factory):
    """The base with two snapshots, its second one changed river.md."""
    return published


@contextmanager
def http_server(kb, **options):
    """A server of the tools on a free port; gives its URL."""
    tools = KnowledgeTools(Knowledge(kb))
    listener = listen("127.0.0.1", 0)
    server = server_of(http_app(kb, tools, **options), timeout_s=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        yield url_of(listener, "127.0.0.1") + PATH
    finally:
        server.should_exit = True
        thread.join(timeout=60)
    assert not thread.is_alive()


@asynccontextmanager
async def over_http(url, headers=None):
    """A client of a URL."""
    async with (
        httpx2.AsyncClient(headers=headers or {}, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(root, *words, errlog=sys.stderr):
    """A client that started the command."""
    command = StdioServerParameters(
        command=sys.executable, args=["-c", COMMAND, "mcp", "--kb", str(root), *words]
    )
    async with Client(stdio_client(command, errlog=errlog)) as client:
        yield client


def ask(opened, work):
    """Run `work(client)` with a client."""

    async def run():
        async with opened as client:
            return await work(client)

    return anyio.run(run)


async def call(client, tool, **arguments):
    """What a tool says; a failure as its text."""
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        return result.content[0].text
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def tour(client):
    """Every tool once, and what an agent gets wrong."""
    listed = await client.list_tools()
    told = {"tools": {tool.name: tool for tool in listed.tools}}
    told["search"] = await call(client, "search", query="where does a river end", k=2)
    told["past"] = await call(client, "search", query="where does a river begin", as_of="1")
    told["words"] = await call(client, "search", query="clouds", mode="lexical")
    told["document"] = await call(client, "read_document", source="docs", key="river.md")
    told["then"] = await call(client, "read_document", source="docs", key="river.md", as_of="1")
    told["part"] = await call(
        client, "read_document", source="docs", key="river.md", offset=2, length=5
    )
    told["snapshots"] = await call(client, "list_snapshots")
    told["changed"] = await call(client, "what_changed", since="1")
    told["status"] = await call(client, "status")
    told["wrong"] = [
        await call(client, "search", query=" "),
        await call(client, "search", query="x", k=0),
        await call(client, "search", query="x", k=10**6),
        await call(client, "search", query="x" * 1_000_00),
        await call(client, "search", query="x", where="meta.nobody = 1"),
        await call(client, "search", query="x", as_of="99"),
        await call(client, "search", query="x", sources=["nowhere"]),
        await call(client, "search", query="x", max_staleness="soon"),
        await call(client, "read_document", source="docs", key="nothing.md"),
        await call(client, "what_changed", since="never"),
    ]
    told["after"] = await call(client, "search", query="tea")
    return told


def check_tour(told):
    """What the tour must have seen."""
    tools = told["tools"]
    assert set(tools) == {"search", "read_document", "list_snapshots", "what_changed", "status"}
    for tool in tools.values():
        assert tool.description and tool.annotations.read_only_hint and tool.output_schema
        properties = tool.input_schema["properties"]
        assert "ctx" not in properties
        assert all(
            "description" in p for n, p in properties.items() if n not in ("limit", "offset")
        )
    best = told["search"]["passages"][0]
    assert best["key"] == "river.md" and "sea" in best["text"]
    assert told["search"]["snapshot"] in best["citation"]
    assert "begins" in told["past"]["passages"][0]["text"]
    assert [p["key"] for p in told["words"]["passages"]] == ["rain.md"]
    assert "sea" in told["document"]["text"] and "begins" in told["then"]["text"]
    assert told["part"]["text"] == told["document"]["text"][2:7]
    assert told["part"]["next_offset"] == 7 and told["document"]["next_offset"] is None
    assert [line["number"] for line in told["snapshots"]["snapshots"]] == [2, 1]
    assert [(c["change"], c["key"]) for c in told["changed"]["changes"]] == [
        ("changed", "river.md")
    ]
    assert told["status"]["fresh"] and told["status"]["sources"][0]["source"] == "docs"
    for text in told["wrong"]:
        assert isinstance(text, str) and len(text) < 2000 and "Traceback" not in text
    assert "empty" in told["wrong"][0] and "99" in told["wrong"][5]
    assert told["after"]["passages"]


def test_the_tour_over_http(served):
    """Every tool answers, every mistake is explained, and the server serves on."""
    with http_server(served.kb) as url:
        check_tour(ask(over_http(url), tour))


@pytest.mark.slow
def test_the_tour_over_standard_input_and_output(served, tmp_path):
    """The command itself, as an agent starts it; no path of the machine in what it is told."""
    with (tmp_path / "stderr").open("w") as errlog:
        told = ask(over_stdio(served.root, errlog=errlog), tour)
    check_tour(told)
    assert str(served.root) not in json.dumps(told["wrong"])


@pytest.mark.slow
def test_standard_output_is_the_protocols_alone(served):
    """Whatever libraries print goes elsewhere; a line that is no request is answered, not fatal."""
    import subprocess

    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "0"},
        },
    }
    search = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "search", "arguments": {"query": "tea"}},
    }
    code = COMMAND.replace("sys.exit(", "import os; os.environ['X']='1'; sys.exit(")
    started = subprocess.Popen(
        [sys.executable, "-c", code, "mcp", "--kb", str(served.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdin and started.stdout
    replies = []
    for message in (opening, {"jsonrpc": "2.0", "method": "notifications/initialized"}, search):
        started.stdin.write(json.dumps(message) + "\n")
        started.stdin.flush()
        if "id" in message:
            replies.append(json.loads(started.stdout.readline()))
    out, _ = started.communicate(timeout=30)
    assert [reply["id"] for reply in replies] == [1, 2] and out == ""
    assert replies[1]["result"]["structuredContent"]["passages"]
    assert started.returncode == 0


def test_metadata_with_a_number_that_is_none_reaches_an_agent(base):
    """As null, on the wire as in the text: NaN is no JSON."""
    metadata = {"share": math.nan, "most": math.inf, "n": 1, "deep": [{"x": -math.inf}]}
    record = {"key": "a", "text": "A river.", "metadata": metadata}
    base.configure(sources={"odd": {"kind": "memory", "options": {"records": [record]}}})
    base.publish({})

    async def look(client):
        return [
            await call(client, "search", query="river"),
            await call(client, "read_document", source="odd", key="a"),
        ]

    with http_server(base.kb) as url:
        found, document = ask(over_http(url), look)
    wanted = {"share": None, "most": None, "n": 1, "deep": [{"x": None}]}
    assert found["passages"][0]["metadata"] == document["metadata"] == wanted


def test_labels_restrict_an_agent(base):
    """By its key over HTTP, by the command's option otherwise; what it may not see is not there."""
    key, lines = new_key("agent")
    sha256 = next(line.split()[1].strip('"') for line in lines.splitlines() if "sha256" in line)
    keys = [{"name": "agent", "sha256": sha256, "labels": ["other"]}]
    base.configure(serving={"api_keys": keys})
    base.publish(base.first)

    async def look(client):
        return [
            await call(client, "search", query="tea"),
            await call(client, "read_document", source="docs", key="river.md"),
            await call(client, "what_changed", since="1"),
            await call(client, "status"),
        ]

    with http_server(base.kb) as url:
        found, document, changed, status = ask(over_http(url, {"X-API-Key": key}), look)
        with pytest.raises(BaseException):  # noqa: B017
            ask(over_http(url), look)
    assert found["passages"] == [] and changed["total"] == 0
    assert "No such document" in document and "some documents only" in status
    tools = KnowledgeTools(Knowledge(base.kb), allow=frozenset({"other"}))
    assert ask(Client(tools.server()), look)[0]["passages"] == []
    tools = KnowledgeTools(Knowledge(base.kb), allow=frozenset({"public"}))
    assert ask(Client(tools.server()), look)[0]["passages"]


def test_an_agent_follows_what_is_published(base):
    """One session, two states; and questions at the same time are each answered."""
    base.publish(base.first)

    async def work(client):
        before = await call(client, "search", query="tea")
        await anyio.to_thread.run_sync(
            lambda: base.publish({"notes/tea time.md": "Tea is made with milk.\n"})
        )
        found = []

        async def one(number):
            found.append(await call(client, "search", query=f"tea {number}", k=1))

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        # While one question opens the new snapshot, others are still answered from the old one.
        found.append(await call(client, "search", query="tea", k=1))
        return before, found

    with http_server(base.kb) as url:
        before, found = ask(over_http(url), work)
    assert "water" in before["passages"][0]["text"]
    assert len(found) == 21 and found[-1]["snapshot"] == base.store.current_name()
    assert {f["snapshot"] for f in found} <= {before["snapshot"], found[-1]["snapshot"]}
    assert "milk" in found[-1]["passages"][0]["text"]


def test_nothing_published_is_said_and_foreign_names_are_refused(base):
    """The server is there before the knowledge is; a page under another name gets nothing."""
    with http_server(base.kb) as url:
        told = ask(over_http(url), lambda client: call(client, "search", query="tea"))
        assert "Nothing is published" in told
        reply = httpx2.post(url, json={}, headers={"Host": "evil.example"})
        assert reply.status_code == 403
        large = httpx2.post(url, content=b"x" * 3_000_000)
        assert large.status_code == 413


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"jsonrpc": "2.0", "id": 1}', b"null"]
)
def test_what_is_no_message_of_the_protocol_is_refused(served, body):
    """Over HTTP, before any tool sees it."""
    with http_server(served.kb) as url:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        reply = httpx2.post(url, content=body, headers=headers, timeout=30)
        assert 400 <= reply.status_code < 500, reply.text
        assert "Traceback" not in reply.text
        told = ask(over_http(url), lambda client: call(client, "search", query="tea"))
    assert told["passages"]
