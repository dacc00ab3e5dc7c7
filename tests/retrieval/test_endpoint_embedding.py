"""Embedding by an endpoint, which is a real HTTP server that behaves well or badly."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from chat_server import babbles, refuses, sleeps
from embedding_behaviours import embeds, embeds_wrongly

from headwater.config import EmbeddingEndpoint
from headwater.errors import ConfigError, EndpointError, ModelError
from headwater.retrieval.embedding import CANARY_TEXTS, HashEmbedder, canary_vectors
from headwater.retrieval.embedding.endpoint import EndpointEmbedder, Pace
from headwater.retrieval.space import Space
from headwater.retrieval.tokens import ESTIMATING, Tokenizer

SPACE = Space("f" * 64, "m", 32, 64, "endpoint", True)


@pytest.fixture
def embedder(chat):
    """Asks the server, impatiently."""

    def make(space=SPACE, **options):
        settings = {"timeout": "1s", "retries": 0, "batch": 4, "parallel": 3, **options}
        endpoint = EmbeddingEndpoint(url=chat.url, model="m", **settings)
        return EndpointEmbedder(endpoint, space, ESTIMATING)

    return make


def test_every_text_gets_its_own_vector_however_the_reply_is_ordered(chat, embedder):
    """Requests of a few texts, several at once, items in any order, vectors of any length."""
    texts = [f"text number {n} of many" for n in range(23)]
    expected = HashEmbedder().encode(texts)
    chat.does(embeds(shuffled=True, scale=7.0))
    np.testing.assert_allclose(embedder().encode(texts), expected, atol=1e-5)
    assert max(len(asked["input"]) for asked in chat.requests) == 4
    assert sum(len(asked["input"]) for asked in chat.requests) == 23
    seen: list[int] = []
    for places, vectors in embedder().embed(texts):
        np.testing.assert_allclose(vectors, expected[places], atol=1e-5)
        seen += places
    assert sorted(seen) == list(range(23))
    assert embedder().encode([]).shape == (0, 32)


def test_prompts_dimensions_and_the_key_are_sent(chat, embedder, monkeypatch):
    """As the configuration says; a query's prompt is another one."""
    monkeypatch.setenv("EMBED_KEY", "sk-something")
    chat.does(embeds())
    space = Space("f" * 64, "m", 32, 64, "endpoint", True, "query: ", "passage: ")
    made = embedder(space, api_key="${EMBED_KEY}", dimensions=32)
    made.encode(["water"])
    made.with_prompt("query: ").encode(["water"])
    assert [asked["input"] for asked in chat.requests] == [["passage: water"], ["query: water"]]
    assert chat.requests[0]["dimensions"] == 32 and chat.keys[0] == "Bearer sk-something"


def test_a_long_text_is_cut_where_the_model_stops_reading(chat, embedder):
    """A person's query may be any length; the endpoint would refuse it."""
    chat.does(embeds())
    embedder().encode(["word " * 4000])
    (shown,) = chat.requests[0]["input"]
    assert len(Tokenizer(ESTIMATING).offsets(shown)) == 64


@pytest.mark.parametrize("what", ["nan", "infinite", "zero", "short", "ragged", "longer", "words"])
def test_what_is_no_vector_for_every_text_is_refused(chat, embedder, what):
    """Nothing of such a reply is used."""
    chat.does(embeds_wrongly(what))
    with pytest.raises(EndpointError) as caught:
        embedder().encode(["one", "two"])
    assert "cannot be used" in caught.value.what and "embedding.endpoint" in caught.value.todo


@pytest.mark.parametrize(
    ("behave", "told"),
    [
        (refuses(401), "api_key"),
        (refuses(404), "url and model"),
        (refuses(429), "wait"),
        (refuses(500), ""),
        (babbles("text/html", "<h1>Welcome</h1>"), ""),
        (babbles("application/json", '{"data": [{"index": 0, "emb'), ""),
        (babbles("application/json", "[]"), ""),
        (babbles("application/json", "null"), ""),
        (sleeps, "timeout"),
    ],
)
def test_an_endpoint_that_refuses_lies_or_sleeps_is_a_clear_error(chat, embedder, behave, told):
    """What failed, where, and what to do."""
    chat.does(behave)
    with pytest.raises(EndpointError) as caught:
        embedder().encode(["one"])
    assert told in caught.value.todo and chat.url in caught.value.obj


def test_an_endpoint_that_asks_to_wait_is_waited_for(chat, embedder):
    """429 with Retry-After, and a 503, are asked again; nothing is lost."""
    wait = refuses(429, headers={"Retry-After": "0.05"})
    chat.does(wait, refuses(503), embeds())
    assert embedder(retries=3).encode(["one", "two"]).shape == (2, 32)
    assert len(chat.requests) == 3


def test_requests_are_held_back_to_the_allowed_rate():
    """Each takes its turn, however many threads ask; an idle minute saves up nothing."""
    now, slept = [0.0], []
    pace = Pace(120, clock=lambda: now[0], sleep=slept.append)
    for _ in range(4):
        pace.wait()
    assert slept == [0.5, 1.0, 1.5]
    now[0] = 60.0
    pace.wait()
    pace.wait()
    assert slept[3:] == [0.5]
    free = Pace(None, sleep=slept.append)
    threads = [threading.Thread(target=free.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slept) == 4


def test_a_model_exchanged_between_two_requests_is_noticed_at_the_next(chat, embedder):
    """Every request carries a text whose vector is known, so that no space is ever mixed."""
    chat.does(embeds())
    made = embedder(parallel=1)
    expecting = made.expecting(canary_vectors(made))
    assert expecting.encode(["one", "two"]).shape == (2, 32)
    assert chat.requests[-1]["input"][2:] == [CANARY_TEXTS[1]]
    chat.does(embeds(), embeds(turned=3))
    with pytest.raises(ModelError, match="another model"):
        list(expecting.embed([f"text {n}" for n in range(9)]))


def test_a_key_that_is_not_set_is_named_and_never_told(chat, embedder, monkeypatch):
    """The variable's name is told; a refusal that repeats the key is not."""
    monkeypatch.delenv("EMBED_KEY", raising=False)
    with pytest.raises(ConfigError, match="not set"):
        embedder(api_key="${EMBED_KEY}")
    monkeypatch.setenv("EMBED_KEY", "sk-secret")
    body = '{"error": {"message": "bad key sk-secret"}}'
    chat.does(refuses(400, body=body))
    with pytest.raises(EndpointError) as caught:
        embedder(api_key="${EMBED_KEY}").encode(["one"])
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("water", 2), ("a b", 2), ("温度が上", 4), ("x" * 40, 10), ("3.14", 3), ("", 0), ("🙂🙂", 2)],
)
def test_tokens_are_estimated_from_above(text, tokens):
    """Four letters of an alphabet, or any other character."""
    assert Tokenizer(ESTIMATING).count([text]) == [tokens]
