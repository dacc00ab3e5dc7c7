"""What each endpoint answers, on a real socket."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headwater.retrieval import Retriever
from headwater.serving.models import (
    ChangesReply,
    DocumentReply,
    ProblemReply,
    SearchReply,
    SnapshotsReply,
    StatusReply,
)
from headwater.storage.lineage import document_history


def figures(client) -> dict[tuple[str, ...], float]:
    """Every sample of /metrics: name and sorted label values -> value."""
    reply = client.get("/metrics")
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def test_a_search_over_http_finds_what_the_retriever_finds(client, published):
    """The hits, their order, scores and every field are those of `Retriever.search`."""
    reply = client.search("where does a river end", k=2)
    assert reply.status == 200
    with Retriever.open(published.root) as retriever:
        expected = [hit.as_dict() for hit in retriever.search("where does a river end", k=2)]
    found = reply.json
    assert found["snapshot"] == published.store.current_name()
    for hit, wanted in zip(found["hits"], expected, strict=True):
        assert hit.pop("score") == pytest.approx(wanted.pop("score"), abs=1e-6)
        assert {**hit, "heading_path": tuple(hit["heading_path"])} == {
            **wanted,
            "labels": list(wanted["labels"]),
            "others": list(wanted["others"]),
        }
    SearchReply.model_validate(reply.json, strict=False)


def test_get_and_post_search_are_the_same(client):
    """A browser's address bar can ask all that a program can."""
    more = {"k": 3, "as_of": "1", "max_staleness": "1d"}
    by_post = client.search("tea", sources=["docs"], **more)
    by_get = client.get("/search", q="tea", source=["docs"], **more)
    assert by_get.status == 200 and len(by_get.json["hits"]) == 3
    assert by_get.json == by_post.json


def test_a_search_as_of_a_snapshot_finds_what_was_known_then(client, published):
    """By number, by name, by time: the old text, and the old snapshot's name."""
    first = client.get("/snapshots").json["snapshots"][-1]
    for ref in ("1", first["name"], first["name"][:12], first["observed_at"]):
        (hit,) = client.search("where a river begins", k=1, as_of=ref).json["hits"]
        assert (
            hit["text"] == published.first["river.md"].strip() and hit["snapshot"] == first["name"]
        )


def test_sources_and_staleness_narrow_a_search(client):
    """What was not confirmed lately enough is left out; the snapshot is named all the same."""
    reply = client.search("tea", max_staleness="0.000001s")
    assert reply.status == 200 and reply.json["hits"] == []
    assert reply.json["snapshot"]
    refused = client.search("tea", sources=["wiki"])
    assert refused.status == 404
    assert refused.json["object"] == "wiki" and "docs" in refused.json["todo"]


def test_a_search_takes_filters_and_says_where_hits_came_from(client, published):
    """The filter, the time of change and the explanation are those of `Retriever.search`."""
    ask = {"where": "key like 'r%.md'", "k": 10, "explain": True}
    hits = client.search("river", **ask).json["hits"]
    assert {hit["key"] for hit in hits} == {"river.md", "rain.md"}
    assert all(hit["explain"]["snapshot"] == hit["snapshot"] for hit in hits)
    assert client.get("/search", q="river", **ask).json["hits"] == hits
    assert client.search("river").json["hits"][0]["explain"] is None
    first = published.store.resolve("1").time.isoformat()
    (changed,) = client.search("river", k=10, changed_since=first).json["hits"]
    assert changed["key"] == "river.md"


def test_a_document_is_read_as_a_snapshot_held_it(client, published):
    """Text, labels and metadata now and as of the first snapshot; all its versions when asked."""
    now, then = (client.get("/documents/docs/river.md", **a) for a in ({}, {"as_of": "1"}))
    assert now.json["text"] == "A river ends in the sea." and now.json["versions"] is None
    assert then.json["text"] == "A spring is where a river begins."
    assert then.json["version_id"] != now.json["version_id"]
    assert now.json["labels"] == ["public"] and now.json["metadata"]["path"] == "river.md"
    assert not now.json["held_back"]
    (hit,) = client.search("where a river ends in the sea", k=1).json["hits"]
    for shared in ("source", "key", "version_id", "title", "changed_at", "verified_at", "metadata"):
        assert hit[shared] == now.json[shared]
    versions = client.get("/documents/docs/river.md", versions="true").json["versions"]
    spans = document_history(published.store, "docs", "river.md")
    assert versions == [span.as_dict() for span in spans] and len(versions) == 2
    DocumentReply.model_validate(client.get("/documents/docs/river.md", versions="1").json)


def test_a_key_may_hold_slashes_and_spaces(client):
    """What a source calls a document is enough to read it."""
    reply = client.get("/documents/docs/notes/tea%20time.md")
    assert reply.status == 200 and reply.json["key"] == "notes/tea time.md"


def test_a_document_held_back_says_so(base, serving):
    """The last good version is served, and stops being verified, as a search says."""
    base.publish(base.first)
    (base.root / "docs" / "river.md").write_bytes(b"\xff\xfe\x00broken\x00\xd8")
    base.publish({"rain.md": "Rain falls.\n"})
    with serving(base.kb) as client:
        document = client.get("/documents/docs/river.md").json
        (hit,) = client.search("where a river begins", k=1).json["hits"]
        other = client.get("/documents/docs/rain.md").json
    assert document["held_back"] and document["text"] == base.first["river.md"].strip()
    assert hit["held_back"] and hit["verified_at"] == document["verified_at"]
    assert document["verified_at"] <= other["verified_at"] and not other["held_back"]


def test_the_snapshots_are_listed_newest_first(client):
    """As `headwater log` has them, and no more than were asked for."""
    found = SnapshotsReply.model_validate(client.get("/snapshots").json).snapshots
    assert [entry.seq for entry in found] == [2, 1] and found[0].documents == 3
    assert len(client.get("/snapshots", limit=1).json["snapshots"]) == 1


def test_the_change_feed_comes_in_parts(base, serving):
    """Each change once, sorted, whatever the size of the parts; names stay while others publish."""
    base.publish(base.first)
    base.publish({f"new-{n}.md": f"Number {n} is new here.\n" for n in range(5)})
    with serving(base.kb) as client:
        whole = ChangesReply.model_validate(
            client.get("/snapshots/current/changes", since="1").json
        )
        assert whole.total == 5 and whole.next_offset is None
        assert {change.op for change in whole.changes} == {"added"}
        base.publish({"new-9.md": "Published meanwhile.\n"})
        path, offset, keys = f"/snapshots/{whole.after}/changes", 0, []
        while offset is not None:
            part = client.get(path, since=whole.before, limit=2, offset=offset).json
            keys += [change["key"] for change in part["changes"]]
            offset = part["next_offset"]
        assert keys == [f"new-{n}.md" for n in range(5)]
        assert client.get("/snapshots/2/changes", since="2").json["changes"] == []


def test_status_is_200_while_every_objective_is_met_and_503_after(base, serving):
    """A load balancer understands the status, a person the sources below it."""
    base.publish(base.first)
    with serving(base.kb) as client:
        reply = client.get("/status")
        told = StatusReply.model_validate(reply.json)
    assert reply.status == 200 and told.fresh
    assert told.sources[0].objective_s == 3600 and 0 <= (told.sources[0].age_s or -1) < 3600
    base.configure(
        sources={"docs": {"kind": "documents", "root": "docs", "freshness": "0.000001s"}}
    )
    with serving(base.kb) as client:
        reply = client.get("/status")
    assert reply.status == 503 and not StatusReply.model_validate(reply.json).fresh


def test_metrics_count_what_was_asked_and_say_how_fresh_the_sources_are(base, serving):
    """Prometheus' own parser reads them, and the numbers are those of the requests made."""
    name = base.publish(base.first)
    with serving(base.kb) as client:
        for _ in range(3):
            assert client.search("tea").status == 200
        assert client.search("tea", max_staleness="0.000001s").json["hits"] == []
        assert client.search("tea", k=0).status == 422
        assert client.search("tea", as_of="77").status == 404
        assert client.get("/nowhere/at/all").status == 404
        found = figures(client)
    assert found["headwater_requests_total", "/search", "200"] == 4
    assert found["headwater_requests_total", "/search", "422"] == 1
    assert found["headwater_requests_total", "unmatched", "404"] == 1
    assert found["headwater_request_seconds_count", "/search"] == 6
    assert found["headwater_request_seconds_bucket", "/search", "+Inf"] == 6
    assert found["headwater_queries_total",] == 4 and found["headwater_queries_empty_total",] == 1
    assert found["headwater_errors_total", "not-found"] == 2
    assert found["headwater_errors_total", "invalid-request"] == 1
    assert found["headwater_up",] == 1 and found["headwater_snapshot_seq",] == int(name[:8]) == 1
    assert found["headwater_documents",] == 3 and found["headwater_texts",] == 3
    assert 0 < found["headwater_source_verified_age_seconds", "docs"] < 3600
    assert found["headwater_source_fresh", "docs"] == 1


def test_nothing_published_is_a_503_that_says_what_to_do_and_heals(base, serving):
    """The service starts on an empty folder, and answers once something is published."""
    with serving(base.kb) as client:
        assert client.get("/healthz").json == {"alive": True}
        for path in ("/search?q=tea", "/documents/docs/river.md", "/snapshots", "/status"):
            reply = client.get(path)
            problem = ProblemReply.model_validate(reply.json)
            assert reply.status == 503 and reply.headers["retry-after"]
            assert problem.what == "Nothing is published yet"
            assert "headwater refresh" in problem.todo
        assert figures(client)["headwater_up",] == 0
        name = base.publish(base.first)
        assert client.search("tea").json["snapshot"] == name
        assert client.get("/status").status == 200
        assert figures(client)["headwater_up",] == 1


def test_openapi_types_every_endpoint(client):
    """Programs that write clients find a description, a type and the problems of each endpoint."""
    document = client.get("/openapi.json").json
    asked = {(path, verb) for path, item in document["paths"].items() for verb in item}
    assert asked == {
        ("/search", "post"), ("/search", "get"), ("/answer", "post"), ("/documents/{source}/{key}", "get"),
        ("/snapshots", "get"), ("/snapshots/{ref}/changes", "get"), ("/status", "get"),
        ("/healthz", "get"), ("/metrics", "get"),
    }  # fmt: skip
    for path, verb in asked:
        operation = document["paths"][path][verb]
        assert operation["description"] and operation["operationId"]
        if path != "/metrics":
            content = operation["responses"]["200"]["content"]["application/json"]
            assert content["schema"]["$ref"].endswith("Reply")
        wrong = operation["responses"]["422"]["content"]["application/json"]
        assert wrong["schema"]["$ref"].endswith("/ProblemReply")
    assert document["components"]["schemas"]["SearchAsk"]["required"] == ["query"]


def test_times_in_replies_are_rfc_3339_in_utc(client):
    """No reply has a time that another language must guess the zone of."""
    snapshot = client.get("/snapshots").json["snapshots"][0]
    document = client.get("/documents/docs/river.md").json
    status = client.get("/status").json
    for text in (
        snapshot["observed_at"], document["known_at"], document["changed_at"],
        document["verified_at"], status["observed_at"], status["sources"][0]["last_verified"],
    ):  # fmt: skip
        offset = datetime.fromisoformat(text).utcoffset()
        assert offset is not None and not offset


def test_the_page_names_every_endpoint_metric_and_status(client):
    """docs/serving.md is what the service does: neither knows anything that the other does not."""
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    document = client.get("/openapi.json").json
    asked = {(verb.upper(), path) for path, item in document["paths"].items() for verb in item}
    asked.add(("GET", "/openapi.json"))
    rows = re.findall(r"^\| `(GET|POST) (/[^`?]*)", page, flags=re.MULTILINE)
    assert set(rows) == asked and len(rows) == len(asked)
    statuses = {
        status
        for item in document["paths"].values()
        for operation in item.values()
        for status in operation["responses"]
    } - {"200"}
    table = page.partition("| status | when |")[2].partition("\n\n")[0]
    # A body that does not arrive is refused before any endpoint is known.
    assert set(re.findall(r"\b[45]\d\d\b", table)) == statuses | {"408"}
    assert client.search("tea").status == 200
    exported = {name for name, *_ in figures(client) if name.startswith("headwater_")}
    told = set(re.findall(r"headwater_[a-z_]+[a-z]", page.partition("## Metrics")[2]))
    bare = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exported}
    assert told >= {name for name in bare if f"{name}_total" not in told}
    assert told <= bare | {"headwater_errors_total"}
