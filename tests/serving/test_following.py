"""The service follows what is published, and no request notices."""

from __future__ import annotations

import threading

import pytest

from headwater.flows.erasure import ErasureRequest, erase

THREADS, REFRESHES = 8, 20


@pytest.mark.slow
def test_searches_during_publications_never_fail_and_see_one_snapshot_each(base, serving):
    """8 callers through 20 refreshes: no error, no mixture, and never an older snapshot again."""

    def texts(number):
        return {f"{name}.md": f"State {number} of {name} by the river.\n" for name in "abcdef"}

    names = [base.publish(texts(0))]
    stop, failures, seen = threading.Event(), [], [set() for _ in range(THREADS)]

    def ask(client, thread):
        last = ""
        while not stop.is_set():
            reply = client.search("the river", k=10)
            if reply.status != 200:
                failures.append((reply.status, reply.body))
                continue
            told = reply.json
            snapshots = {hit["snapshot"] for hit in told["hits"]}
            states = {hit["text"].split()[1] for hit in told["hits"]}
            if snapshots != {told["snapshot"]} or len(states) != 1 or len(told["hits"]) != 6:
                failures.append(told)
            if told["snapshot"] < last:
                failures.append((last, told["snapshot"]))
            last = told["snapshot"]
            seen[thread].add(last)

    with serving(base.kb) as client:
        asking = [threading.Thread(target=ask, args=(client, n)) for n in range(THREADS)]
        for thread in asking:
            thread.start()
        try:
            names += [base.publish(texts(n)) for n in range(1, REFRESHES + 1)]
        finally:
            stop.set()
            for thread in asking:
                thread.join(timeout=60)
        final = client.search("the river", k=10)
        metrics = client.get("/metrics").body.decode()
    assert failures == []
    assert final.json["snapshot"] == names[-1]
    every = set().union(*seen)
    assert every <= set(names) and len(every) > 2
    assert f"headwater_snapshot_seq {REFRESHES + 1}.0" in metrics
    assert "headwater_errors_total{" not in metrics


def test_documents_and_changes_follow_too(base, serving):
    """What was published after the start is read without another start."""
    base.publish(base.first)
    with serving(base.kb) as client:
        assert client.get("/documents/docs/new.md").status == 404
        name = base.publish({"new.md": "Something new.\n"})
        assert client.get("/documents/docs/new.md").json["snapshot"] == name
        changes = client.get("/snapshots/current/changes", since="1").json
        assert [row["key"] for row in changes["changes"]] == ["new.md"]
        assert client.get("/status").json["snapshot"] == name


def test_an_erased_document_is_gone_from_the_running_service(base, serving):
    """By search and by name, now and in the past, without another start."""
    base.publish(base.first)
    with serving(base.kb) as client:
        assert client.get("/documents/docs/river.md").status == 200
        assert len(client.search("river", k=9).json["hits"]) == 3
        (base.root / "docs" / "river.md").unlink()
        erase(base.kb, ErasureRequest((("docs", "river.md"),), reason="a test"))
        for ref in ("1", "current"):
            assert client.get("/documents/docs/river.md", as_of=ref).status == 404
            hits = client.search("river", k=9, as_of=ref).json["hits"]
            assert {hit["key"] for hit in hits} == {"rain.md", "notes/tea time.md"}
