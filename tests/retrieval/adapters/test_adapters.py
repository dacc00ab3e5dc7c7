"""LangChain and LlamaIndex, with the real packages; and applications on an event loop."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import time

import pytest

from headwater.config import load
from headwater.errors import ConfigError, NotFoundError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval import Retriever
from headwater.retrieval.adapters.asked import Asked
from headwater.retrieval.adapters.langchain import HeadwaterRetriever as LangChain
from headwater.retrieval.adapters.llama_index import HeadwaterRetriever as LlamaIndex
from headwater.retrieval.asynchronous import AsyncRetriever
from headwater.retrieval.reranking import WordOverlapReranker

NOTES = {
    "ferry.md": "# Ferry\n\nThe ferry leaves at nine.\n",
    "lamp.md": "# Lamp\n\nThe lamp on the pier is broken.\n",
}
QUERY = "when does the ferry leave"


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """Two notes; the ferry left at eight in the first snapshot."""
    root = tmp_path_factory.mktemp("adapters")
    (root / "notes").mkdir()
    (root / "headwater.yaml").write_text(
        "name: adapters\nsources:\n  notes: {kind: documents, root: notes, labels: [open]}\n"
    )
    for ferry in (NOTES["ferry.md"].replace("nine", "eight"), NOTES["ferry.md"]):
        for name, text in {**NOTES, "ferry.md": ferry}.items():
            (root / "notes" / name).write_text(text)
        assert refresh(load(root), encoding=twin_encoding).published
    return root


@pytest.fixture
def hits(kb):
    """What the retriever itself finds."""
    with Retriever.open(kb) as retriever:
        return retriever.search(QUERY)


def test_every_argument_of_a_search_can_be_given():
    """None is left behind when the search learns something new."""
    searched = inspect.signature(Retriever.search).parameters
    left_out = {"self", "query", "explain"}
    assert set(Asked.__dataclass_fields__) == set(searched) - left_out
    assert set(LangChain.model_fields) >= set(Asked.__dataclass_fields__)
    for name, field in Asked.__dataclass_fields__.items():
        assert field.default == searched[name].default == LangChain.model_fields[name].default


def test_langchain_documents_are_the_hits(kb, hits):
    """Text, a stable id, and all that is known, in plain values; in a chain, a batch, a loop."""
    made = LangChain.open(kb)
    found = made.invoke(QUERY)
    assert [d.page_content for d in found] == [hit.text for hit in hits]
    told = found[0].metadata
    assert told["key"] == "ferry.md" and told["snapshot"] == hits[0].snapshot
    assert told["citation"] == hits[0].cite() and told["score"] == hits[0].score
    assert json.loads(json.dumps(told)) == told
    assert len({d.id for d in found}) == len(found)
    assert made.batch([QUERY, "lamp"])[0] == found == asyncio.run(made.ainvoke(QUERY))
    chain = made | (lambda documents: [d.metadata["key"] for d in documents])
    assert chain.invoke(QUERY)[0] == "ferry.md"


def test_langchain_restricts_as_the_search_does(kb):
    """Number, time, labels, filter and mode."""
    with Retriever.open(kb) as retriever:
        past = LangChain(retriever=retriever, k=1, as_of="1").invoke(QUERY)
        assert len(past) == 1 and "eight" in past[0].page_content
        assert LangChain(retriever=retriever, allow=["none"]).invoke(QUERY) == []
        words = LangChain(retriever=retriever, mode="lexical", where="key = 'lamp.md'")
        assert [d.metadata["key"] for d in words.invoke("lamp ferry")] == ["lamp.md"]
        with pytest.raises(NotFoundError):
            LangChain(retriever=retriever, as_of="99").invoke(QUERY)


def test_an_unchanged_passage_keeps_its_id_from_snapshot_to_snapshot(kb):
    """Whoever keeps ids knows what is new."""
    with Retriever.open(kb) as retriever:
        now = {d.id for d in LangChain(retriever=retriever).invoke("lamp")}
        then = {d.id for d in LangChain(retriever=retriever, as_of="1").invoke("lamp")}
    assert len(now & then) == 1 and len(now | then) == 3


def test_llama_index_nodes_are_the_hits(kb, hits):
    """A model is shown text, title and citation, and no more; the document is the node's source."""
    from llama_index.core.schema import MetadataMode

    made = LlamaIndex.open(kb, k=2)
    found = made.retrieve(QUERY)
    assert [n.node.text for n in found] == [hit.text for hit in hits[:2]]
    assert [n.score for n in found] == [hit.score for hit in hits[:2]]
    node = found[0].node
    shown = node.get_content(MetadataMode.LLM)
    assert hits[0].cite() in shown and "version_id" not in shown
    assert node.get_content(MetadataMode.EMBED) == node.text
    assert node.source_node.node_id == "notes/ferry.md"
    assert (node.start_char_idx, node.end_char_idx) == (hits[0].start, hits[0].end)
    assert [n.node.node_id for n in asyncio.run(made.aretrieve(QUERY))] == [
        n.node.node_id for n in found
    ]


def test_reranking_reaches_both(kb):
    """As any argument of the search."""
    with Retriever.open(kb, reranker=WordOverlapReranker()) as retriever:
        one = LangChain(retriever=retriever, k=1, rerank=5).invoke("lamp broken")
        other = LlamaIndex(retriever, k=1, rerank=5).retrieve("lamp broken")
    assert one[0].metadata["rerank"] == other[0].score == 1.0


def test_a_framework_that_is_not_there_is_named():
    """With what to install; and nobody else needs it."""
    for module, package, extra in (
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index.core", "llama-index"),
    ):
        code = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from headwater.errors import MissingExtraError\n"
            "try:\n"
            f"    import headwater.retrieval.adapters.{module}\n"
            "except MissingExtraError as error:\n"
            f"    assert 'headwater[{extra}]' in error.todo; print('named')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "named\n", done.stderr


# --- on an event loop -------------------------------------------------------------------------


class Slow:
    """A query encoder that takes its time."""

    def __init__(self):
        from headwater.retrieval.embedding import HashEmbedder

        self._twin = HashEmbedder()

    def encode(self, texts):
        time.sleep(0.1)
        return self._twin.encode(texts)


def test_the_loop_goes_on_while_searches_run(kb, hits):
    """A heartbeat beats; each search is answered from one snapshot as by the retriever itself."""

    async def work():
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                await asyncio.sleep(0.005)
                beats += 1

        async with await AsyncRetriever.open(kb, encoder=Slow(), threads=4) as retriever:
            heart = asyncio.create_task(beat())
            found = await asyncio.gather(*(retriever.search(QUERY, k=2) for _ in range(20)))
            heart.cancel()
            return beats, found

    beats, found = asyncio.run(work())
    # 20 searches of 0.1 s by 4 threads: half a second, in which a blocked loop would not beat.
    assert beats > 20
    assert all([h.text for h in one] == [h.text for h in hits] for one in found)


def test_a_cancelled_search_harms_nothing_and_a_closed_retriever_says_so(kb):
    """Later searches are answered; closing waits for what runs."""

    async def work():
        retriever = await AsyncRetriever.open(kb, encoder=Slow())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(retriever.search(QUERY), 0.01)
        assert (await retriever.search("lamp", 1))[0].key == "lamp.md"
        with pytest.raises(ConfigError, match="empty"):
            await retriever.search(" ")
        assert retriever.snapshot == retriever.retriever.snapshot
        await retriever.close()
        with pytest.raises(ConfigError, match="closed"):
            await retriever.search(QUERY)

    asyncio.run(work())


def test_too_few_threads_are_refused(kb):
    """Before anything is opened for them."""
    with Retriever.open(kb) as retriever, pytest.raises(ConfigError, match="threads"):
        AsyncRetriever(retriever, threads=0)
