"""Time, labels and explanations hold in every mode of search alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from headwater.config import load
from headwater.errors import NotFoundError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.hits import MODES
from headwater.storage.store import Store
from headwater.storage.tags import set_tag

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUERY = "water pump"


def when(day):
    """Knowledge time of the refresh on this day."""
    return START + timedelta(days=day)


def record(key, text, *labels, url=None):
    """A record with labels of its own."""
    return Record(key, text, title=key.title(), url=url, labels=labels)


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """Three days: a pump that is changed on the second, and shut on the third to all but the staff."""
    root = tmp_path_factory.mktemp("modes")
    (root / "headwater.yaml").write_text(
        "name: m\nsources:\n  a: {kind: memory}\n  b: {kind: memory}\n"
    )
    valve = record("valve", "The water pump has a valve.", "open")
    days = [
        [record("pump", "The first water pump.", "open", url="https://x.example/pump"), valve],
        [record("pump", "The second water pump.", "open", url="https://x.example/pump"), valve],
        [record("pump", "The second water pump.", "staff", url="https://x.example/pump"), valve],
    ]
    for day, records in enumerate(days):
        sources = {"a": MemorySource.of(records, name="a")}
        if day == 0:
            other = record("other", "Another water pump stands here.", "open")
            sources["b"] = MemorySource.of([other], name="b")
        options = RefreshOptions(observed_at=when(day), sources=tuple(sources))
        assert refresh(load(root), options, encoding=twin_encoding, sources=sources).published
    set_tag(Store.open(root / "store"), "reviewed", "2")
    return root


@pytest.fixture(scope="module")
def retriever(kb):
    """One for all."""
    with Retriever.open(kb) as opened:
        yield opened


def found(retriever, mode, **how):
    """Key -> text of the hits."""
    return {hit.key: hit.text for hit in retriever.search(QUERY, 9, mode=mode, **how)}


@pytest.mark.parametrize("mode", MODES)
def test_the_past_by_every_name_it_has(retriever, kb, mode):
    """A number, a name, the start of one, a tag, a time, a date; what was not yet is not found."""
    names = {link.seq: link.name for link in Store.open(kb / "store").links()}
    for ref in ("1", names[1], names[1][:12], when(0), "2026-03-01", "2026-03-01T13:00:00+00:00"):
        assert found(retriever, mode, as_of=ref)["pump"] == "The first water pump."
    for ref in ("2", "reviewed", when(1), "2026-03-02", None):
        assert found(retriever, mode, as_of=ref)["pump"] == "The second water pump."
    for ref in ("9", "nothing", "2026-02-28"):
        with pytest.raises(NotFoundError):
            retriever.search(QUERY, mode=mode, as_of=ref)


@pytest.mark.parametrize("mode", MODES)
def test_every_hit_says_where_and_when_it_was_true(retriever, kb, mode):
    """Snapshot, version, span, address and both times; where it came from, only when asked."""
    name = Store.open(kb / "store").current_name()
    hits = retriever.search(QUERY, 9, mode=mode)
    assert len(hits) == 3
    for hit in hits:
        assert hit.snapshot == name and len(hit.version_id) == 32 and hit.explain is None
        assert hit.text and hit.end - hit.start == len(hit.text)
        assert hit.url == ("https://x.example/pump" if hit.key == "pump" else None)
        assert (hit.cosine is not None) == (mode != "lexical")
        assert (hit.bm25 is not None) == (mode != "dense")
    by_key = {hit.key: hit for hit in hits}
    assert [by_key[k].changed_at for k in ("pump", "valve")] == [when(1), when(0)]
    assert [by_key[k].verified_at for k in ("pump", "other")] == [when(2), when(0)]
    for hit in retriever.search(QUERY, 9, mode=mode, explain=True, as_of="2"):
        told = hit.explain
        assert told.snapshot == hit.snapshot and told.segment and told.selectivity == 1
        assert told.score == hit.score and told.cosine == hit.cosine and told.bm25 == hit.bm25
        ranks = (told.dense_rank is not None, told.lexical_rank is not None)
        assert ranks == (mode != "lexical", mode != "dense")


@pytest.mark.parametrize("mode", MODES)
def test_staleness_and_change_restrict_every_mode(retriever, mode):
    """By the snapshot's own time in the past, by the clock now."""
    day = timedelta(days=1)
    assert set(found(retriever, mode, as_of="3", max_staleness=day)) == {"pump", "valve"}
    assert set(found(retriever, mode, as_of="3", max_staleness=3 * day)) == {
        "pump",
        "valve",
        "other",
    }
    assert found(retriever, mode, max_staleness=timedelta(seconds=1)) == {}
    assert set(found(retriever, mode, changed_since=when(0))) == {"pump"}
    assert found(retriever, mode, changed_since=when(1)) == {}
    assert set(found(retriever, mode, as_of="1", changed_since=START - day)) == {
        "pump",
        "valve",
        "other",
    }


@pytest.mark.parametrize("mode", MODES)
def test_labels_of_then_and_now_hold_in_every_mode(retriever, mode):
    """What was open then and is shut now is shut in the past too, and no phrase or filter opens it."""
    staff = set(found(retriever, mode, allow=["open", "staff"], as_of="1"))
    assert staff == {"pump", "valve", "other"}
    for how in (
        {},
        {"as_of": "1"},
        {"as_of": "reviewed"},
        {"where": "key = 'pump' or key = 'valve' or not key = 'x'"},
        {"changed_since": START - timedelta(days=9)},
        {"sources": ["a", "b"], "explain": True},
    ):
        assert "pump" not in found(retriever, mode, allow=["open"], **how)
        assert found(retriever, mode, allow=[], **how) == {}
    hits = retriever.search('"the second water pump"', 9, mode=mode, allow=["open"])
    assert {hit.key for hit in hits} == {"valve", "other"}
    # How rare a word is among texts that the caller may not see is nobody's business.
    assert all(hit.bm25 is None for hit in hits)


@pytest.mark.parametrize("mode", MODES)
def test_one_more_is_asked_for_than_there_are(retriever, mode):
    """Beyond all texts, and beyond all reason."""
    for k in (3, 4, 10**6, 10**12):
        assert len(retriever.search(QUERY, k, mode=mode)) == 3
