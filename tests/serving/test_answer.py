"""POST /answer: with and without a model, at once and in pieces, and when the model fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_server import drips, refuses, says

QUESTION = "Where does a river begin?"
ANSWER = "A river begins where a spring is [{n}]."


@pytest.fixture
def asking(base, serving, chat):
    """A client of a service that has a model."""

    def configured(**answers: Any) -> Any:
        endpoint = {"url": chat.url, "model": "tiny", "retries": 0, "timeout": "5s"}
        base.configure(answers={"endpoint": endpoint, "deadline": "5s", **answers})
        base.publish(
            {"river.md": "A spring is where a river begins.\n", "rain.md": "Rain falls.\n"}
        )
        return serving(base.kb)

    return configured


def events(body: bytes) -> list[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    found = []
    for block in body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def number(reply: Any, key: str) -> int:
    """The number under which a document was shown."""
    return next(p["number"] for p in reply.json["passages"] if p["key"] == key)


def test_without_a_model_the_reply_is_the_prompt(client):
    """Nothing is made up, and whoever asks can go on with a model of their own."""
    reply = client.post("/answer", {"question": QUESTION})
    assert reply.status == 200
    assert (reply.json["answer"], reply.json["asked"], reply.json["model"]) == (None, False, None)
    assert QUESTION in reply.json["prompt"][1]["content"] and reply.json["passages"]
    assert reply.json["snapshot"] == reply.json["passages"][0]["snapshot"]


def test_an_answer_comes_with_its_passages_and_checks(asking, chat):
    """Whole, or in pieces that end with the very same."""
    with asking() as client:
        chat.does(says("x"))
        n = number(client.post("/answer", {"question": QUESTION}), "river.md")
        chat.does(says(ANSWER.format(n=n)))
        whole = client.post("/answer", {"question": QUESTION})
        assert whole.json["grounded"] and whole.json["citations"] == [n]
        assert whole.json["answer"] == ANSWER.format(n=n)
        streamed = client.post("/answer", {"question": QUESTION, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *pieces, (last, told) = events(streamed.body)
    assert last == "answer" and told == whole.json
    assert len(pieces) > 1 and {name for name, _ in pieces} == {"text"}
    assert "".join(data["text"] for _, data in pieces) == ANSWER.format(n=n)


def test_a_model_that_fails_is_a_bad_gateway_and_the_service_goes_on(asking, chat):
    """In a stream, the problem is the last event."""
    with asking() as client:
        chat.does(refuses(500))
        reply = client.post("/answer", {"question": QUESTION})
        assert (reply.status, reply.json["error"]) == (502, "endpoint") and reply.json["todo"]
        streamed = client.post("/answer", {"question": QUESTION, "stream": True})
        assert streamed.status == 200 and events(streamed.body)[-1][0] == "problem"
        assert client.search("river").status == 200


def test_a_model_that_never_ends_is_ended(asking, chat):
    """The deadline is the configuration's, not the model's."""
    with asking(deadline="1s") as client:
        chat.does(drips)
        reply = client.post("/answer", {"question": QUESTION})
        assert reply.status == 502 and "in time" in reply.json["what"]


def test_what_is_wrong_with_the_question_is_said(client):
    """As for a search."""
    assert client.post("/answer", {"question": " "}).status == 400
    assert client.post("/answer", {"question": "x" * 20_000}).status == 422
    assert client.post("/answer", {"question": "x", "where": "nonsense ="}).status == 400
    assert client.post("/answer", {"question": "x", "as_of": "99"}).status == 404
    assert client.post("/answer", {"question": "x", "mode": "fuzzy"}).status == 422
    assert client.post("/answer", {}).status == 422


def test_a_key_with_labels_is_answered_from_what_it_may_see(base, serving, chat):
    """Nothing else is sent to the model."""
    from headwater.serving.keys import new_key

    key, lines = new_key("agent")
    sha256 = next(line.split()[1].strip('"') for line in lines.splitlines() if "sha256" in line)
    endpoint = {"url": chat.url, "model": "tiny", "retries": 0}
    base.configure(
        answers={"endpoint": endpoint},
        serving={"api_keys": [{"name": "agent", "sha256": sha256, "labels": ["other"]}]},
    )
    base.publish({"river.md": "A spring is where a river begins.\n"})
    with serving(base.kb) as client:
        chat.does(says("x"))
        assert client.post("/answer", {"question": QUESTION}).status == 401
        client.headers["X-API-Key"] = key
        reply = client.post("/answer", {"question": QUESTION})
    assert reply.json["abstained"] and reply.json["passages"] == [] and chat.requests == []


def test_search_takes_a_mode(client):
    """Words alone, meaning alone, or both; each hit says what speaks for it."""
    words = client.search("clouds", mode="lexical").json["hits"]
    assert [hit["key"] for hit in words] == ["rain.md"]
    assert words[0]["cosine"] is None and words[0]["bm25"] == words[0]["score"] > 0
    both = client.get("/search", q="clouds", explain="true").json["hits"]
    assert both[0]["key"] == "rain.md" and both[0]["explain"]["lexical_rank"] == 1
    assert client.search("clouds", mode="fuzzy").status == 422
