"""What nobody means to ask, over both services and in every mode: an answer or a refusal in words."""

from __future__ import annotations

import json
import time

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client.client import Client as AgentClient

from headwater.retrieval.hits import MODES
from headwater.serving.knowledge import Knowledge
from headwater.serving.mcp_tools import KnowledgeTools

NAUGHTY = [
    "AND OR NOT", "text:tea^9 AND -water", '"', '""" tea', "tea~2 te*", "[a TO z]", "{{7*7}} ${x}",
    "' or 1=1; drop table x; --", "<script>alert(1)</script>", "../../etc/passwd", "a\x00b", "\x7f\x1b[2J",
    "\u202etea\u202c", "t\u0335\u0336\u0337ea", "ﷺ" * 200, "👩‍👩‍👧‍👦 tea", "Å" * 3000, "\ufeff", "\ufffe\uffff", "\r\n\r\ntea",
    "-1e309", "NaN", "null", "undefined", "__proto__", "%s%n%x", "\\", "(" * 500, "tea " * 2000,
]  # fmt: skip
WRONG_CALLS = [
    ("search", {}),
    ("search", {"query": None}),
    ("search", {"query": 7}),
    ("search", {"query": ["tea"]}),
    ("search", {"query": "tea", "k": "many"}),
    ("search", {"query": "tea", "k": -1}),
    ("search", {"query": "tea", "k": 2.5}),
    ("search", {"query": "tea", "k": 10**400}),
    ("search", {"query": "tea", "mode": "fuzzy"}),
    ("search", {"query": "tea", "sources": "docs"}),
    ("search", {"query": "tea", "sources": ["x"] * 101}),
    ("search", {"query": "tea", "where": "(" * 9000}),
    ("search", {"query": "tea", "where": "'; drop table versions; --"}),
    ("search", {"query": "tea", "where": "nothing_like_it = 1"}),
    ("search", {"query": "tea", "as_of": "../../store/CURRENT"}),
    ("search", {"query": "tea", "as_of": "1" * 5000}),
    ("search", {"query": "tea", "as_of": "0001-01-01T00:00:00+23:59"}),
    ("search", {"query": "tea", "max_staleness": "9" * 40 + "w"}),
    ("search", {"query": "tea", "max_staleness": "-1d"}),
    ("read_document", {"source": "docs", "key": "../../headwater.yaml"}),
    ("read_document", {"source": "..", "key": "x"}),
    ("read_document", {"source": "docs", "key": "river.md\x00"}),
    ("read_document", {"source": "docs", "key": "river.md", "offset": -1}),
    ("read_document", {"source": "docs", "key": "river.md", "length": 10**9}),
    ("what_changed", {"since": ""}),
    ("what_changed", {"since": "2"*300}),
    ("what_changed", {"since": "1", "until": "never"}),
    ("list_snapshots", {"limit": 10**6}),
    ("no_such_tool", {}),
]  # fmt: skip


def agent(published, work):
    """Run `work(call)` with an agent's tools; `call` gives whether it failed, and what it was told."""

    async def run():
        tools = KnowledgeTools(Knowledge(published.kb))
        try:
            async with AgentClient(tools.server()) as client:

                async def call(tool, arguments):
                    try:
                        result = await client.call_tool(tool, arguments)
                    except Exception as error:  # noqa: BLE001
                        return True, str(error)
                    return result.is_error, result.content[0].text

                return await work(call)
        finally:
            tools.close()

    return anyio.run(run)


@pytest.mark.parametrize("mode", MODES)
def test_naughty_words_over_http(client, mode):
    """As a body and in the address: hits, or nothing, or a problem; never a fault of the service."""
    for text in NAUGHTY:
        for reply in (
            client.search(text, k=2, mode=mode),
            client.get("/search", q=text, k=2, mode=mode),
        ):
            assert reply.status in (200, 400, 422), (text, reply.body)
            if reply.status == 200:
                assert len(reply.json["hits"]) <= 2
    assert client.search("tea", mode=mode).json["hits"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=200), st.sampled_from(MODES))
def test_any_text_over_http(client, text, mode):
    """Half a surrogate pair cannot be sent as text; everything else can be asked."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    reply = client.search(text, mode=mode)
    assert reply.status == (200 if text.strip() else 400 if text else 422), reply.body


def test_naughty_words_of_an_agent(published):
    """In every mode, and as parts of a filter; the tools serve on."""

    async def work(call):
        for text in NAUGHTY:
            for mode in MODES:
                failed, told = await call("search", {"query": text, "mode": mode})
                assert not failed or "empty" in told, (text, told)
            await call("search", {"query": "tea", "where": text})
        return await call("search", {"query": "tea"})

    failed, told = agent(published, work)
    assert not failed and json.loads(told)["passages"]


def test_wrong_calls_of_an_agent_are_refused_in_words(published):
    """What is wrong is told, briefly; nothing of the inside is, and no path of the machine."""

    async def work(call):
        told = [await call(tool, arguments) for tool, arguments in WRONG_CALLS]
        return told, await call("search", {"query": "tea"})

    told, after = agent(published, work)
    for (tool, arguments), (failed, text) in zip(WRONG_CALLS, told, strict=True):
        assert failed, (tool, arguments, text)
        assert 0 < len(text) < 12_000 and "Traceback" not in text and 'File "' not in text
        assert str(published.root) not in text
    assert not after[0] and json.loads(after[1])["passages"]


class SlowKnowledge(Knowledge):
    """Its searches take a while."""

    def search(self, *args, **options):
        time.sleep(1.5)
        return super().search(*args, **options)


def test_an_agent_that_asks_too_much_is_told(base):
    """What takes too long, and what is more than the limit at once: in words, and the rest goes on."""
    base.publish(base.first)
    base.configure(serving={"timeout": "1s", "max_concurrent": 2})
    tools = KnowledgeTools(SlowKnowledge(base.kb))

    async def run():
        told = []
        async with AgentClient(tools.server()) as client:

            async def one():
                result = await client.call_tool("search", {"query": "tea"})
                told.append((result.is_error, result.content[0].text))

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(one)
            await anyio.sleep(1)
            result = await client.call_tool("list_snapshots", {})
            told.append((result.is_error, ""))
        tools.close()
        return told

    *searches, (failed, _) = anyio.run(run)
    assert not failed and all(bad for bad, _ in searches)
    assert sorted("too long" in text for _, text in searches) == [False, False, True, True]
    assert sorted("at once" in text for _, text in searches) == [False, False, True, True]
