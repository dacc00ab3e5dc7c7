"""What nobody means to ask, over both services and in every mode: an answer or a refusal in words."""

from __future__ import annotations

import json
import time

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client.client import Client as AgentClient

from headwater.errors import EndpointError, ModelError
from headwater.retrieval import Retriever
from headwater.retrieval.embedding import HashEmbedder
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


# --- an encoder that is ill -------------------------------------------------------------------


class Ill:
    """Encodes like the twin, but for some queries."""

    SICK = {  # noqa: RUF012
        "nan": np.full((1, 32), np.nan, dtype=np.float32),
        "inf": np.full((1, 32), np.inf, dtype=np.float32),
        "zero": np.zeros((1, 32), dtype=np.float32),
        "short": np.ones((1, 3), dtype=np.float32),
        "flat": np.ones(32, dtype=np.float32),
        "none": None,
    }

    def __init__(self):
        self._twin = HashEmbedder()

    def encode(self, texts):
        if texts[0] == "slow":
            raise EndpointError("The model did not answer in time", obj="m at u", todo="ask again")
        return self.SICK[texts[0]] if texts[0] in self.SICK else self._twin.encode(texts)


@pytest.mark.parametrize("query", [*Ill.SICK, "slow"])
def test_an_encoder_that_fails_fails_its_question_alone(published, serving, query):
    """In words, by every door; words need no vector, and the next question is answered."""
    what = "in time" if query == "slow" else "no vector of the snapshot's space"
    with Retriever.open(published.root, encoder=Ill()) as retriever:
        for mode in ("dense", "hybrid"):
            with pytest.raises((ModelError, EndpointError), match=what) as caught:
                retriever.search(query, mode=mode)
            assert caught.value.obj and caught.value.todo
        assert retriever.search("tea", mode="lexical") and retriever.search("tea")
    with serving(published.kb, knowledge=Knowledge(published.kb, encoder=Ill())) as client:
        reply = client.search(query)
        assert reply.status == (502 if query == "slow" else 503) and what in reply.json["what"]
        assert client.search("tea").status == client.search(query, mode="lexical").status == 200
        assert client.post("/answer", {"question": query}).status == reply.status
    tools = KnowledgeTools(Knowledge(published.kb, encoder=Ill()))

    async def run():
        async with AgentClient(tools.server()) as client:
            bad = await client.call_tool("search", {"query": query})
            good = await client.call_tool("search", {"query": "tea"})
            return bad.is_error, bad.content[0].text, good.is_error

    failed, told, after = anyio.run(run)
    tools.close()
    assert failed and what in told and not after
