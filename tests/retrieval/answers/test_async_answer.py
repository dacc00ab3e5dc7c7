"""Answers on an event loop: the same ones, while the loop goes on."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from chat_server import breaks_off, drips, says, sleeps

from headwater.config import AnswersConfig
from headwater.errors import ConfigError, EndpointError
from headwater.retrieval.answers import answer
from headwater.retrieval.asynchronous import AsyncRetriever

QUESTION = "When does the ferry to the island leave?"


def on_a_loop(kb, work, **options):
    """Run `work(retriever)` on a loop of its own."""

    async def run():
        async with await AsyncRetriever.open(kb, **options) as retriever:
            return await work(retriever)

    return asyncio.run(run())


def honest(retriever, **how):
    """What an honest model says, with the number of the right passage."""
    found = answer(retriever, QUESTION, config=AnswersConfig())
    keys = [hit.key for hit in found.prompt.passages]
    return says(f"The ferry leaves at 9:15 [{keys.index('ferry.md') + 1}].", **how)


def test_an_awaited_answer_is_the_same(kb, retriever, chat, config):
    """Whole, and in pieces; with its citations, and without an endpoint the prompt alone."""
    chat.does(honest(retriever))
    same = answer(retriever, QUESTION, config=config())

    async def work(opened):
        whole = await opened.answer(QUESTION, config=config())
        async with opened.answer_stream(QUESTION, config=config(), allow=["open"]) as stream:
            pieces = [piece async for piece in stream]
            found = await stream.answer()
        prompt = await opened.answer(QUESTION, config=AnswersConfig())
        hidden = await opened.answer(QUESTION, config=config(), allow=[])
        return whole, pieces, found, prompt, hidden

    whole, pieces, found, prompt, hidden = on_a_loop(kb, work)
    assert whole.as_dict() == same.as_dict() and whole.grounded
    assert len(pieces) > 2 and "".join(pieces) == found.text == whole.text
    assert not prompt.asked and prompt.prompt.messages == whole.prompt.messages
    assert hidden.abstained and not hidden.asked


def test_the_loop_and_the_searches_go_on_while_a_model_thinks(kb, retriever, chat, config):
    """More slow answers than there are threads for searches keep no search waiting."""
    chat.does(honest(retriever, pause=0.1))

    async def work(opened):
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                await asyncio.sleep(0.005)
                beats += 1

        heart = asyncio.create_task(beat())
        asked = [asyncio.create_task(opened.answer(QUESTION, config=config())) for _ in range(6)]
        await asyncio.sleep(0.2)
        began = time.perf_counter()
        await opened.search(QUESTION)
        waited = time.perf_counter() - began
        early = sum(task.done() for task in asked)
        found = await asyncio.gather(*asked)
        heart.cancel()
        return beats, waited, early, found

    beats, waited, early, found = on_a_loop(kb, work, threads=1)
    assert early < 6 and waited < 0.3 and beats > 20
    assert all(one.grounded for one in found)


def test_leaving_early_waits_for_nothing(kb, chat, config):
    """A stream without an end is left after its first words, and its request ends."""
    chat.does(drips)

    async def work(opened):
        began = time.perf_counter()
        async with opened.answer_stream(QUESTION, config=config()) as stream:
            async for _ in stream:
                break
        return time.perf_counter() - began

    assert on_a_loop(kb, work) < 3
    deadline = time.monotonic() + 10
    while any("headwater-endpoint" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cancelled_answer_leaves_at_once(kb, chat, config):
    """Whoever gives up on a silent model does not wait for it; the retriever serves on."""
    chat.does(sleeps)

    async def work(opened):
        began = time.perf_counter()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async with opened.answer_stream(QUESTION, config=config()) as stream:
                    async for _ in stream:
                        pass
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(opened.answer(QUESTION, config=config()), 0.3)
        waited = time.perf_counter() - began
        return waited, await opened.search(QUESTION)

    waited, hits = on_a_loop(kb, work)
    assert waited < 2 and hits


def test_what_goes_wrong_is_raised_where_it_is_awaited(kb, chat, config):
    """A broken reply, a wrong question, a stream that was not entered, a closed retriever."""
    chat.does(breaks_off("The ferry "))

    async def work(opened):
        with pytest.raises(EndpointError):
            await opened.answer(QUESTION, config=config())
        with pytest.raises(EndpointError):
            async with opened.answer_stream(QUESTION, config=config()) as stream:
                async for _ in stream:
                    pass
        with pytest.raises(ConfigError, match="empty"):
            await opened.answer(" ", config=config())
        with pytest.raises(ConfigError, match="not begun"):
            await opened.answer_stream(QUESTION, config=config()).answer()
        await opened.close()
        with pytest.raises(ConfigError, match="closed"):
            await opened.answer(QUESTION, config=config())

    on_a_loop(kb, work)
