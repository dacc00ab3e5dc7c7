from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from headwater.config import IndexConfig
from headwater.errors import (
    ConfigError,
    CorruptObjectError,
    ModelError,
    NotFoundError,
)
from headwater.retrieval import Retriever
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.index import update_index
from headwater.retrieval.lexical import analyzer_name
from headwater.retrieval.lexical_writing import words_of
from headwater.retrieval.snapshot_view import SnapshotView
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import Encoder, SourceState, child_of, format_time, parse_time
from headwater.storage.runlog import RunLog, SourceRun
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, VERSIONS, version_id

START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = IndexConfig(graph_from=400, recall=0.95)


def sha(text: str) -> bytes:
    """The hash of a text."""
    return hashlib.sha256(text.encode()).digest()


def day(number: int) -> datetime:
    """Knowledge time of the snapshot with this number."""
    return START + timedelta(days=number - 1)


class Base:
    """A knowledge base written by hand: a chunk is a paragraph, a snapshot a day."""

    def __init__(self, root: Path, *, dim: int = 32) -> None:
        self.root = root
        self.store = Store.create(root / "store")
        self.twin = HashEmbedder(dim)
        self.live: dict[tuple[str, str], str] = {}
        self.ids: dict[tuple[str, str], str] = {}
        self.seen: set[bytes] = set()

    def commit(self, changes: dict[str, str | None], *, held=None, publish: bool = True) -> str:
        """Publish a snapshot: `source/key` to its new text, or None where it was removed."""
        parent = self.store.current()
        seq = parent.seq + 1 if parent else 1
        versions, closures, contents, chunks = [], [], [], []
        for name, text in changes.items():
            pair = tuple(name.split("/"))
            if pair in self.ids:
                closures.append([self.ids.pop(pair), *pair, "changed", day(seq), seq])
                del self.live[pair]
            if text is not None:
                self.live[pair] = text
                versions.append(self._version(pair, text, seq))
                if sha(text) not in self.seen:
                    self.seen.add(sha(text))
                    contents.append([sha(text), len(text), text])
                    chunks += self._chunks(text)
        encoder = self.encoder()
        same = parent and parent.encoder == encoder
        cache = self._embedded(encoder)
        manifest = child_of(
            parent,
            observed_at=format_time(day(seq)),
            created_at=format_time(day(seq)),
            run_id=f"run-{seq:04d}",
            cause="refresh",
            headwater="0",
            config_sha256="",
            chunker="paragraphs",
            encoder=encoder,
            sources={s: SourceState("memory") for s in ("docs", "wiki")},
            versions=self._put(parent, "versions", versions, VERSIONS),
            closures=self._put(parent, "closures", closures, CLOSURES),
            contents=self._put(parent, "contents", contents, CONTENTS),
            chunks=self._put(parent, "chunks", chunks, CHUNKS),
            quarantine=self._held(held or {}),
            lexical=analyzer_name("english"),
        )
        segments = update_index(
            self.store.objects,
            parent=parent.segments if same else (),
            live=[sha(p) for p in self.paragraphs()],
            cache=cache,
            config=CONFIG,
            words=words_of(self.store.objects, manifest),
        )
        manifest = replace(manifest, segments=segments)
        name = self.store.write_candidate(manifest)
        if publish:
            self.store.publish(name)
        return name

    def encoder(self) -> Encoder:
        """The twin as a snapshot names it."""
        space = self.twin.space
        return Encoder(space.fingerprint, space.model, space.dim, space.max_tokens, "hash")

    def paragraphs(self) -> list[str]:
        """Every live paragraph."""
        return [p for text in self.live.values() for p in text.split("\n")]

    def verified(self, source: str, when: datetime) -> None:
        """Write in the run log that a source was confirmed."""
        run = f"run-{when:%Y%m%d%H%M}-{source}"
        entry = SourceRun(run, source, "verified", format_time(when))
        RunLog(self.store.root).append(entry)

    def open(self, **options) -> Retriever:
        """A retriever over this base."""
        return Retriever.open(self.root, **options)

    def _version(self, pair, text, seq):
        self.ids[pair] = version_id(*pair, sha(text), b"", seq)
        return [
            self.ids[pair], *pair, f"Title of {pair[1]}", f"https://example.org/{pair[1]}",
            json.dumps({"n": seq}), ["public"], sha(text), sha(""), "", None, day(seq), day(seq),
            seq, None,
        ]  # fmt: skip

    def _chunks(self, text):
        at, rows = 0, []
        for number, part in enumerate(text.split("\n")):
            row = [sha(text), number, sha(part), ["Top"], at, at + len(part), 1, part]
            rows.append(row)
            at += len(part) + 1
        return rows

    def _put(self, parent, field, rows, schema):
        before = getattr(parent, field) if parent else ()
        if not rows:
            return before
        table = pa.Table.from_pylist(
            [dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema
        )
        return (*before, self.store.objects.put_table(table, f"{field}.parquet", row_group_size=64))

    def _held(self, held):
        if not held:
            return None
        rows = [(*name.split("/"), since) for name, since in held.items()]
        source, key, since = zip(*rows, strict=True)
        times = pa.array(since, pa.timestamp("us", tz="UTC"))
        table = pa.table({"source": source, "key": key, "since": times})
        return self.store.objects.put_table(table, "quarantine.parquet")

    def _embedded(self, encoder) -> EmbeddingCache:
        cache = EmbeddingCache(self.store.objects, space=encoder.fingerprint, dim=encoder.dim)
        texts = {sha(p): p for p in self.paragraphs()}
        missing = cache.missing(sorted(texts))
        if missing:
            cache.add(missing, self.twin.encode([texts[h] for h in missing]))
        return cache


@pytest.fixture
def base(tmp_path):
    """An empty knowledge base."""
    return Base(tmp_path)


WATER = {
    "docs/river.md": "rivers carry water to the sea\na spring is where a river begins",
    "docs/rain.md": "rain falls from clouds",
    "wiki/tea": "tea is made with hot water",
}


def test_a_hit_carries_everything_needed_to_judge_it(base):
    """Text, span, document, snapshot and the two times come with every hit, ready for JSON."""
    name = base.commit(WATER)
    with base.open() as retriever:
        assert retriever.snapshot == name
        hit, *rest = retriever.search("where a river begins", k=3)
    assert len(rest) == 2 and hit.score >= rest[0].score >= rest[1].score
    assert (hit.source, hit.key) == ("docs", "river.md")
    assert hit.text == "a spring is where a river begins"
    assert WATER["docs/river.md"][hit.start : hit.end] == hit.text
    assert hit.title == "Title of river.md" and hit.url == "https://example.org/river.md"
    assert hit.heading_path == ("Top",) and hit.labels == ("public",) and hit.metadata == {"n": 1}
    assert hit.changed_at == hit.verified_at == day(1) and hit.source_ts is None
    assert hit.version_id == base.ids["docs", "river.md"] and hit.snapshot == name
    assert not hit.held_back and hit.others == ()
    plain = json.loads(json.dumps(hit.as_dict()))
    assert parse_time(plain["verified_at"]) == day(1)
    assert hit.cite() == (
        f"[docs/river.md @ {name}, changed 2026-01-01 00:00Z, verified 2026-01-01 00:00Z]"
    )


def test_the_folder_of_the_base_and_its_store_are_the_same_place(base):
    """Either path opens the knowledge base."""
    base.commit(WATER)
    with Retriever.open(base.root) as one, Retriever.open(str(base.store.root)) as two:
        assert one.snapshot == two.snapshot


@pytest.mark.parametrize("query, k", [("", 1), (" \n\t", 1), ("water", 0), ("water", -3)])
def test_an_empty_query_or_no_passages_is_a_usage_error(base, query, k):
    """Nothing can be found for nothing."""
    base.commit(WATER)
    with base.open() as retriever, pytest.raises(ConfigError):
        retriever.search(query, k)


def test_nothing_published_is_said_and_no_texts_give_no_hits(base, tmp_path):
    """An empty store cannot be opened; an empty snapshot answers nothing."""
    with pytest.raises(NotFoundError, match="Nothing is published"):
        base.open()
    with pytest.raises(NotFoundError, match="no store"):
        Retriever.open(tmp_path / "elsewhere")
    base.commit({})
    with base.open() as retriever:
        assert retriever.search("water") == []


def test_as_many_hits_as_there_are_live_texts(base):
    """A search never returns fewer than it was asked for while more are live."""
    base.commit({f"docs/{n}": f"text number {n}" for n in range(900)})
    base.commit({f"docs/{n}": None for n in range(150)})
    with base.open() as retriever:
        assert retriever.manifest.segments[0].graph and retriever.manifest.segments[0].dead
        for k in (1, 10, 180, 749, 750, 2000):
            hits = retriever.search("text number 700", k)
            assert len({h.text for h in hits}) == len(hits) == min(k, 750)


def test_a_deleted_document_is_never_returned(base):
    """What was removed is gone from every answer, by scan and by graph, whatever is asked."""
    base.commit({f"docs/{n}": f"text number {n}" for n in range(450)})
    base.commit({"docs/7": None, "docs/8": "something else entirely"})
    with base.open() as retriever:
        for query in ("text number 7", "text number 8"):
            hits = retriever.search(query, k=1000)
            assert len(hits) == 449
            assert {"text number 7", "text number 8"}.isdisjoint(h.text for h in hits)
            assert "7" not in {h.key for h in hits}


def test_behind_a_graph_the_hits_are_those_of_the_exact_scan(base):
    """Unseen questions find nearly all of the true ten nearest, with true scores, none removed."""
    rng = np.random.default_rng(5)
    words = [f"w{n}" for n in range(60)]
    base.commit({f"docs/{n}": " ".join(rng.choice(words, 12)) for n in range(6000)})
    gone = set(base.paragraphs()[:600])
    base.commit({f"docs/{n}": None for n in range(600)})
    vectors = base.twin.encode(texts := base.paragraphs())
    found = []
    with base.open() as retriever:
        (segment,) = retriever.manifest.segments
        assert segment.graph and segment.dead == 600
        for number in range(40):
            query = " ".join(rng.choice(words, 12)) if number % 2 else sorted(gone)[number]
            exact = vectors @ base.twin.encode([query])[0]
            bar = np.sort(exact)[-10]
            hits = retriever.search(query, 10, mode="dense")
            assert len(hits) == 10 and gone.isdisjoint(h.text for h in hits)
            found += [h.score >= bar - 1e-5 for h in hits]
            for hit in hits[:3]:
                assert hit.score == pytest.approx(exact[texts.index(hit.text)], abs=1e-5)
    assert np.mean(found) >= 0.95


def test_equal_scores_come_in_the_order_of_their_hashes(base):
    """Ties are broken the same way on every machine."""
    tied = ["red blue", "blue red", "red  blue", "Blue Red"]
    base.commit({f"docs/{n}": t for n, t in enumerate(tied)})
    with base.open() as retriever:
        hits = retriever.search("blue red", 4)
    assert [h.text for h in hits] == sorted(tied, key=sha)


def test_a_rename_changes_the_key_and_no_segment(base):
    """The same text under another key is served under that key from the same index objects."""
    base.commit(WATER)
    before = base.store.current()
    base.commit({"docs/rain.md": None, "docs/weather.md": WATER["docs/rain.md"]})
    after = base.store.current()
    assert after.segments == before.segments and after.chunks == before.chunks
    with base.open() as retriever:
        (hit,) = retriever.search("rain falls", 1)
    assert hit.key == "weather.md" and hit.others == ()


def test_one_text_in_several_documents_is_one_hit_that_names_them_all(base):
    """A duplicate is not a second hit; a filter on sources also narrows the others."""
    twice = "rain falls from clouds\nrain falls from clouds"
    base.commit({**WATER, "wiki/rain": WATER["docs/rain.md"], "docs/zz": twice})
    with base.open() as retriever:
        hits = retriever.search("rain falls from clouds", 4)
        assert [h.text for h in hits].count("rain falls from clouds") == 1
        assert (hits[0].source, hits[0].key) == ("docs", "rain.md")
        assert hits[0].others == (("docs", "zz"), ("wiki", "rain"))
        (hit, *_) = retriever.search("rain falls from clouds", 1, sources=["wiki"])
        assert (hit.source, hit.key, hit.others) == ("wiki", "rain", ())


def test_sources_narrow_a_search(base):
    """Only documents of the named sources are returned; an unknown name is an error."""
    base.commit(WATER)
    with base.open() as retriever:
        assert {h.source for h in retriever.search("water", 9, sources=["wiki"])} == {"wiki"}
        assert len(retriever.search("water", 9, sources=["wiki", "docs"])) == 4
        assert retriever.search("water", 9, sources=[]) == []
        with pytest.raises(NotFoundError, match="wikki"):
            retriever.search("water", sources=["wikki"])


def test_the_past_is_searched_as_it_was(base):
    """By number, name, time or date, a search sees that snapshot and no other."""
    first = base.commit({"docs/a": "the price is ten"})
    base.commit({"docs/a": "the price is twelve"})
    base.commit({"docs/a": None, "docs/b": "the price is secret"})

    def seen(retriever, as_of):
        return [h.text for h in retriever.search("the price is", as_of=as_of)]

    with base.open() as retriever:
        assert seen(retriever, None) == ["the price is secret"]
        for ref in ("1", first, first[:12], "2026-01-01", day(1), day(2) - timedelta(seconds=1)):
            assert seen(retriever, ref) == ["the price is ten"]
        assert seen(retriever, day(2).replace(tzinfo=None)) == ["the price is twelve"]
        assert seen(retriever, "2030-01-01") == ["the price is secret"]
        for ref in ("9", "2020-01-01", "nonsense"):
            with pytest.raises(NotFoundError):
                retriever.search("the price is", as_of=ref)
    with base.open(as_of="2") as old:
        assert seen(old, None) == ["the price is twelve"]
        base.commit({"docs/c": "the price is"})
        assert old.search("the price is")[0].snapshot.startswith("00000002-")


def test_a_candidate_can_be_searched_before_it_is_published(base):
    """By its name, a candidate answers; what is current does not change."""
    base.commit({"docs/a": "the price is ten"})
    candidate = base.commit({"docs/a": "the price is wrong"}, publish=False)
    with base.open() as retriever:
        assert retriever.search("price", as_of=candidate)[0].text == "the price is wrong"
        assert retriever.search("price")[0].text == "the price is ten"


def test_verified_at_follows_the_run_log_without_a_new_snapshot(base):
    """A refresh that changed nothing still moves `verified_at`; the past keeps what it knew."""
    base.commit(WATER)
    base.verified("docs", day(1))
    with base.open() as retriever:
        assert retriever.search("rain falls", 1)[0].verified_at == day(1)
        base.verified("docs", day(5))
        assert retriever.search("rain falls", 1)[0].verified_at == day(5)
        assert retriever.search("rain falls", 1)[0].changed_at == day(1)
        assert retriever.search("rain falls", 1, as_of="1")[0].verified_at == day(1)
        assert retriever.search("hot tea", 1)[0].verified_at == day(1)


def test_a_document_held_back_stops_being_verified(base):
    """Its last good version stays served, marked, confirmed no later than the refusal."""
    base.commit(WATER)
    base.commit({}, held={"docs/rain.md": day(3), "docs/never-live.md": day(1)})
    base.verified("docs", day(6))
    with base.open() as retriever:
        rain, river = retriever.search("rain falls", 1) + retriever.search("river begins", 1)
    assert rain.held_back and rain.verified_at == day(3)
    assert not river.held_back and river.verified_at == day(6)


def test_max_staleness_leaves_out_what_was_not_confirmed_lately(base):
    """Stale documents are left out, and fresher ones fill their place."""
    base.commit(WATER)
    base.verified("wiki", datetime.now(UTC) - timedelta(hours=1))
    base.verified("docs", datetime.now(UTC) - timedelta(hours=9))
    with base.open() as retriever:

        def keys(hours, **options):
            limit = timedelta(hours=hours)
            hits = retriever.search("rain water", 9, max_staleness=limit, **options)
            return {h.key for h in hits}

        assert keys(2) == {"tea"}
        assert keys(10) == {"tea", "rain.md", "river.md"}
        assert keys(10, sources=["docs"]) == {"rain.md", "river.md"}
        assert keys(0.5) == set()
        assert keys(1, as_of="1") == {"tea", "rain.md", "river.md"}


def test_readers_follow_what_is_published_while_they_search(base):
    """Under four threads, each search is answered by one whole snapshot, and none goes back."""
    base.commit({"docs/n": "the number is 1", "wiki/n": "the other number is 1"})
    wrong, last, done = [], [], threading.Event()
    with base.open() as retriever:

        def ask():
            newest = 0
            while not done.is_set() or newest < 8:
                hits = retriever.search("number is", 5)
                values = {int(h.text.split()[-1]) for h in hits}
                seqs = {int(h.snapshot[:8]) for h in hits}
                if len(hits) != 2 or values != seqs or min(seqs) < newest:
                    wrong.append(hits)
                    return
                newest = min(seqs)
            last.append(newest)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n in range(2, 9):
            base.commit({"docs/n": f"the number is {n}", "wiki/n": f"the other number is {n}"})
        done.set()
        for thread in threads:
            thread.join(60)
    assert not wrong and last == [8] * 4


def test_a_swap_loads_only_what_changed(base):
    """The new view shares the loaded segments that both snapshots name."""
    base.commit({f"docs/{n}": f"text number {n}" for n in range(450)})
    with base.open() as retriever:
        retriever.search("text")
        graph = retriever._current._parts[0].index.graph
        base.commit({"docs/new": "a new text"})
        assert retriever.search("a new text", 1)[0].key == "new"
        assert len(retriever._current._parts) == 2
        assert retriever._current._parts[0].index.graph is graph


def test_a_snapshot_that_cannot_be_opened_leaves_the_old_one_served(base, caplog):
    """A damaged object in the new snapshot is warned about by name, and readers stay whole."""
    first = base.commit(WATER)
    with base.open() as retriever:
        base.commit({"docs/new": "entirely new words"})
        entry = base.store.current().segments[-1].vectors
        path = base.store.objects.path(entry)
        path.write_bytes(path.read_bytes()[:-8])
        with caplog.at_level(logging.WARNING):
            assert retriever.search("rain")[0].snapshot == first
        assert entry.sha256 in caplog.text
        assert retriever.search("rain")[0].snapshot == first
    with pytest.raises(CorruptObjectError, match=entry.sha256):
        base.open()


def test_a_damaged_pointer_leaves_the_old_snapshot_served(base, caplog):
    """A reader that is open survives a CURRENT that makes no sense."""
    first = base.commit(WATER)
    with base.open() as retriever, base.open(as_of="1") as pinned:
        (base.store.root / "CURRENT").write_text("nonsense\n")
        with caplog.at_level(logging.WARNING):
            assert retriever.search("rain")[0].snapshot == first
        assert "CURRENT" in caplog.text
        assert pinned.search("rain")[0].snapshot == first


def test_a_store_that_may_only_be_read_is_enough(base):
    """Opening and searching write, create and touch nothing."""
    base.commit(WATER)
    base.verified("docs", day(2))
    paths = [base.root, *base.root.rglob("*")]

    def state():
        return {p: p.stat().st_mtime_ns for p in [base.root, *base.root.rglob("*")]}

    before = state()
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with base.open() as retriever:
            assert retriever.search("rain", as_of="1")
            assert retriever.search("rain", max_staleness=timedelta(days=36500))
        assert state() == before
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_child_process_may_search_what_its_parent_opened(base):
    """After a fork, even one at a moment when locks were held, the child answers by itself."""
    base.commit(WATER)
    with base.open() as retriever:
        retriever.search("rain")
        with retriever._lock, retriever._opening, retriever._loaded._lock:
            pid = os.fork()
            if pid == 0:
                ok = retriever.search("rain falls", 1)[0].key == "rain.md"
                ok = ok and retriever.search("rain falls", 1, as_of="1")[0].key == "rain.md"
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert retriever.search("rain falls", 1)[0].key == "rain.md"


def test_each_snapshot_is_searched_in_its_own_embedding_space(base):
    """After a change of model the past still answers, and an open reader changes over by itself."""
    base.commit({"docs/a": "rain falls from clouds", "docs/b": "tea"})
    with base.open(encoder=base.twin) as given, base.open() as own:
        base.twin = HashEmbedder(48)
        base.commit({"docs/c": "coffee"})
        for retriever in (given, own):
            assert retriever.search("coffee", 1)[0].key == "c"
            hit = retriever.search("rain falls", 1, as_of="1")[0]
            assert hit.key == "a" and hit.snapshot.startswith("00000001")


def test_a_wrong_encoder_is_refused(base):
    """Vectors of another size are no answer, and an unknown backend names those that are known."""
    base.commit(WATER)
    with base.open(encoder=HashEmbedder(16)) as retriever, pytest.raises(ModelError, match="32"):
        retriever.search("rain")
    manifest = base.store.current()
    odd = child_of(manifest, encoder=replace(manifest.encoder, backend="abacus"))
    base.store.publish(base.store.write_candidate(odd))
    with base.open() as retriever, pytest.raises(ModelError, match="abacus"):
        retriever.search("rain")


def test_a_closed_retriever_says_so(base):
    """Searching after close is a usage error."""
    base.commit(WATER)
    retriever = base.open()
    retriever.close()
    with pytest.raises(ConfigError, match="closed"):
        retriever.search("rain")


def test_searching_imports_nothing_heavy(base):
    """A process that only searches never loads what only a refresh needs."""
    base.commit({f"docs/{n}": f"text number {n}" for n in range(450)})
    code = (
        "import sys; from headwater.retrieval import Retriever\n"
        f"hits = Retriever.open({str(base.root)!r}).search('text number 5', sources=['docs'])\n"
        "heavy = {'duckdb', 'pydantic', 'yaml', 'pandas', 'torch', 'prefect', 'pyarrow.compute',\n"
        "         'pyarrow.dataset', 'great_expectations', 'sentence_transformers'}\n"
        "print(len(hits), sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["5", "[]\n"]


# --- two hundred publications -----------------------------------------------------------------


class Asking:
    """A thread that asks, and writes down every reply that is not of exactly one snapshot."""

    def __init__(self, retriever: Retriever) -> None:
        self.failures: list[object] = []
        self.seen = 0
        self._retriever = retriever
        self._last = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(timeout=60)

    def _ask_on(self) -> None:
        while not self._stop.wait(0.005):
            mode = ("hybrid", "dense", "lexical")[self.seen % 3]
            try:
                self._look(
                    self._retriever.search("marker of generation", 5, mode=mode, sources=["docs"])
                )
            except Exception as error:  # noqa: BLE001
                self.failures.append(error)
            self.seen += 1

    def _look(self, hits) -> None:
        snapshots = {hit.snapshot for hit in hits}
        told = {int(hit.text.split()[-1]) for hit in hits}
        if len(hits) != 5 or len(snapshots) != 1 or told != {int(hits[0].snapshot[:8])}:
            self.failures.append((snapshots, told))
        elif hits[0].snapshot < self._last:
            self.failures.append((self._last, hits[0].snapshot))
        self._last = hits[0].snapshot


def _publish_on(base, last: int) -> int:
    """Publish up to a number from a process of its own, whose memory is not the reader's."""
    child = os.fork()
    if child:
        return child
    done = 1
    try:
        for number in range(2, last + 1):
            changed = {f"docs/{n}": f"marker {n} of generation {number}" for n in range(5)}
            base.commit({**changed, f"wiki/{number}": f"still water, but {number} again"})
        done = 0
    finally:
        os._exit(done)


@pytest.mark.slow
def test_eight_threads_search_through_two_hundred_publications(base):
    """No search fails, each is answered from one snapshot, and memory stays what it was."""
    still = {f"wiki/{n}": f"still water number {n}" for n in range(600)}
    base.commit({**still, **{f"docs/{n}": f"marker {n} of generation 1" for n in range(5)}})
    publisher = _publish_on(base, 201)
    early = 0
    with base.open() as retriever:
        asking = [Asking(retriever) for _ in range(8)]
        while (number := base.store.current().seq) < 201:
            if number >= 60 and not early:
                early = _settled_size()
            time.sleep(0.02)
        assert os.waitpid(publisher, 0)[1] == 0
        while retriever.snapshot != base.store.current_name():
            time.sleep(0.01)
        late = _settled_size()
        for one in asking:
            one.end()
        assert retriever.search("marker of generation", 5)[0].text.endswith("generation 201")
        gc.collect()
        views = [found for found in gc.get_objects() if isinstance(found, SnapshotView)]
        assert len(views) == 1 and len(retriever._views) == 0
    assert [failure for one in asking for failure in one.failures] == []
    assert min(one.seen for one in asking) > 20
    assert late <= 1.1 * early


def _settled_size() -> int:
    """Bytes that this process holds, once what is garbage is gone."""
    gc.collect()
    return psutil.Process().memory_info().rss


@pytest.mark.slow
def test_twenty_rounds_of_churn_cost_no_recall_and_no_segments(tmp_path):
    """A twentieth of the texts replaced in each of twenty rounds: what an exact scan finds is found."""
    base = Base(tmp_path, dim=64)
    rng = np.random.default_rng(11)
    words = [f"w{n}" for n in range(400)]

    def text() -> str:
        return " ".join(rng.choice(words, 14))

    count = 2000
    base.commit({f"docs/{n}": text() for n in range(count)})
    found, most = [], 0
    with base.open() as retriever:
        for turn in range(20):
            start = turn * count // 20
            base.commit({f"docs/{n}": text() for n in range(start, start + count // 20)})
            segments = retriever.manifest.segments
            most = max(most, len(segments))
            assert sum(s.dead for s in segments) <= 0.25 * sum(s.rows for s in segments)
        assert any(segment.graph for segment in retriever.manifest.segments)
        texts = base.paragraphs()
        vectors = base.twin.encode(texts)
        for _ in range(100):
            query = text()
            exact = vectors @ base.twin.encode([query])[0]
            bar = np.sort(exact)[-10]
            hits = retriever.search(query, 10, mode="dense")
            found += [hit.cosine >= bar - 1e-5 for hit in hits]
    assert len(found) == 1000 and np.mean(found) >= 0.98
    assert most <= 8
