"""Search by words beside search by meaning: what it finds, what it never does, what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.config import load
from headwater.errors import ConfigError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.flows.repair import repair
from headwater.retrieval import Retriever
from headwater.retrieval.fusion import K, fused
from headwater.retrieval.index import index_problems
from headwater.retrieval.lexical import FILES, KINDS, lexical_problem
from headwater.retrieval.normalisation import text_hash
from headwater.retrieval.ranking import ranked
from headwater.retrieval.vector_search import Found
from headwater.storage.store import Store
from headwater.storage.verify import verify

TEXTS = {
    "ferry": "The ferry to the island leaves at nine from the northern pier.",
    "lamp": "Error code XK-4471 means that the lamp on the pier needs a new bulb.",
    "dyke": "The dykes were running over; inspectors were running along the dyke.",
    "code": "Set max_retry_count to three, and restart the gauge.",
    "twin": "The island ferry from the northern pier to nine leaves at the.",
}


class Base:
    """A folder of notes, refreshed with the model-free twin."""

    def __init__(self, root, **options):
        self.root = root
        (root / "notes").mkdir()
        self.configure(**options)

    def configure(self, language="english"):
        (self.root / "headwater.yaml").write_text(
            "name: words\nsources:\n  notes: {kind: documents, root: notes}\n"
            f"index: {{language: {language}, graph_from: 20}}\n"
        )

    def write(self, **notes):
        for name, text in notes.items():
            path = self.root / "notes" / f"{name}.md"
            path.unlink(missing_ok=True) if text is None else path.write_text(text)

    def refresh(self):
        report = refresh(load(self.root), encoding=twin_encoding)
        assert report.exit_code == 0, report
        return report

    @property
    def store(self):
        return Store.open(self.root / "store")

    def keys(self, query, k=5, **how):
        with Retriever.open(self.root) as retriever:
            return [hit.key.removesuffix(".md") for hit in retriever.search(query, k, **how)]


@pytest.fixture
def base(tmp_path):
    """The five notes, published."""
    made = Base(tmp_path)
    made.write(**TEXTS)
    made.refresh()
    return made


# --- what it finds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("XK-4471", ["lamp"]),
        ("xk 4471 bulbs", ["lamp"]),
        ("max_retry_count", ["code"]),
        ("run dyke", ["dyke"]),
        ("DYKES", ["dyke"]),
    ],
)
def test_words_find_what_holds_them(base, query, expected):
    """Codes, identifiers, other endings and other cases; nothing that shares no word."""
    assert base.keys(query, mode="lexical") == expected


def test_common_words_count_only_where_there_are_no_others(base):
    """They say nothing beside others, and are all there is in some questions."""
    assert base.keys("where is the lamp", mode="lexical") == ["lamp"]
    assert set(base.keys("to the", mode="lexical")) == set(TEXTS)


def test_a_quoted_phrase_counts_more_than_its_words(base):
    """Two texts of the same words: the one with the phrase comes first."""
    assert base.keys('"leaves at nine"', mode="lexical") == ["ferry", "twin"]
    assert base.keys('"island ferry"', mode="lexical") == ["twin", "ferry"]


def test_without_a_language_words_are_taken_as_they_are(tmp_path):
    """No endings are cut; case still does not matter."""
    base = Base(tmp_path, language="none")
    base.write(**TEXTS)
    base.refresh()
    assert base.keys("dykes", mode="lexical") == base.keys("DYKES", mode="lexical") == ["dyke"]
    assert base.keys("lamps", mode="lexical") == []


def test_a_hybrid_score_is_the_sum_of_reciprocal_ranks(base):
    """Every hit has its cosine, those that share a word their BM25; the ranks are explained."""
    with Retriever.open(base.root) as retriever:
        hits = retriever.search("ferry to the island", 5, explain=True)
        dense = retriever.search("ferry to the island", 5, mode="dense")
        words = retriever.search("ferry to the island", 5, mode="lexical")
    assert [h.score for h in dense] == [h.cosine for h in dense]
    assert [h.score for h in words] == [h.bm25 for h in words]
    assert all(h.bm25 is None for h in dense) and all(h.cosine is None for h in words)
    by_key = {h.key: h for h in (*dense, *words)}
    for hit in hits:
        told = hit.explain
        ranks = (told.dense_rank, told.lexical_rank)
        assert hit.score == pytest.approx(sum(1 / (K + rank) for rank in ranks if rank))
        assert ranks[0] == [h.key for h in dense].index(hit.key) + 1
        found = [h.key for h in words]
        assert ranks[1] == (found.index(hit.key) + 1 if hit.key in found else None)
        assert hit.cosine is not None and (hit.bm25 is not None) == (ranks[1] is not None)
        assert by_key[hit.key].text == hit.text
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=4))
def test_fusion_is_its_formula(orders):
    """Reciprocal ranks, summed over the orders that name an item."""
    for item, score in fused(orders).items():
        expected = sum(1 / (K + order.index(item) + 1) for order in orders if item in order)
        assert score == pytest.approx(expected)
    assert fused(orders).keys() == {item for order in orders for item in order}


@given(
    st.lists(st.integers(0, 20), unique=True, max_size=10),
    st.lists(st.integers(0, 20), unique=True, max_size=10),
    st.integers(1, 30),
)
def test_a_row_that_both_searches_put_first_is_first(dense, lexical, k):
    """No row twice, at most k, and agreement beats either alone."""
    near = [Found(row, 0.9 - 0.01 * i, "exact") for i, row in enumerate(dense)]
    worded = [(row, 9.0 - 0.1 * i) for i, row in enumerate(lexical)]
    rest = {row: 0.1 for row in lexical if row not in dense}
    rows = [r.row for r in ranked(k, dense=near, lexical=worded, cosines=rest)]
    assert len(rows) == len(set(rows)) == min(k, len({*dense, *lexical}))
    if dense and lexical and dense[0] == lexical[0]:
        assert rows[0] == dense[0]


# --- hostile questions ------------------------------------------------------------------------

HOSTILE = [
    "AND", "OR NOT", "text:", "text:ferry^9", "[a TO b]", "IN [", '"', '""', '"ferry', "a\x00b",
    "(((((", "*", "?", "fer*", "/x/", "\\", "+-!{}~^", "ferry~2", "\ud800 ferry", "é" * 5000,
    "the " * 20_000, "🚢", "ferry\r\n\tpier", "' or 1=1 --", "x" * 1_000_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A retriever that stays open while it is asked nonsense."""
    base = Base(tmp_path_factory.mktemp("hostile"))
    base.write(**TEXTS)
    base.refresh()
    with Retriever.open(base.root) as retriever:
        yield retriever


@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_in_a_query_is_syntax(served, query, mode):
    """Operators, brackets, control characters and a megabyte are words or nothing."""
    hits = served.search(query, 3, mode=mode)
    assert len(hits) <= 3
    if "ferry" in query and query not in ("fer*",):
        assert "ferry.md" in {hit.key for hit in served.search(query, 5, mode=mode)}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1).filter(str.strip))
def test_any_text_may_be_asked(served, query):
    """A search for words returns; what it returns is live and has a score above zero."""
    hits = served.search(query, 5, mode="lexical")
    assert all(hit.score > 0 for hit in hits)


def test_an_unknown_mode_and_an_empty_query_are_refused(served):
    """And the reader serves on."""
    with pytest.raises(ConfigError, match="no such way"):
        served.search("ferry", mode="fuzzy")
    with pytest.raises(ConfigError, match="empty"):
        served.search("  ", mode="lexical")
    assert served.search("ferry", mode="lexical")


# --- time, change, restriction ----------------------------------------------------------------


def test_what_is_gone_is_found_by_no_word_and_what_changed_only_by_its_new_ones(base):
    """In the next snapshot; the one before answers as it did."""
    first = base.store.current_name()
    base.write(lamp=None, ferry="The ferry leaves at ten now.")
    base.refresh()
    assert base.keys("XK-4471 bulb", mode="lexical") == []
    assert base.keys("ten", mode="lexical") == ["ferry"]
    assert base.keys("XK-4471 bulb", mode="lexical", as_of=first) == ["lamp"]
    assert base.keys("ten", mode="lexical", as_of=first) == []


def test_a_narrow_filter_loses_nothing(tmp_path):
    """However many better matches are not allowed, the best allowed ones come, in their order."""
    base = Base(tmp_path)
    many = {
        f"n{i:03d}": f"gauge reading {'level ' * (1 + i % 7)}of station {i}" for i in range(300)
    }
    base.write(**many)
    base.refresh()
    with Retriever.open(base.root) as retriever:
        every = retriever.search("level station", 300, mode="lexical")
        assert len(every) == 300
        for wanted in ("key like 'n00%'", "key = 'n123.md'", "key like 'n%5.md'"):
            allowed = retriever.search("level", 300, mode="dense", where=wanted)
            keys = {hit.key for hit in allowed}
            found = retriever.search("level station", 4, mode="lexical", where=wanted)
            assert [h.key for h in found] == [h.key for h in every if h.key in keys][:4]
            both = retriever.search("level station", 4, where=wanted)
            assert {h.key for h in both} <= keys and len(both) == min(4, len(keys))


def test_segments_share_one_statistic(tmp_path):
    """Texts spread over several segments score as in one; a word's rarity is that of the whole."""
    spread, whole = Base(tmp_path / "a"), Base(tmp_path / "b")
    notes = {f"n{i}": f"number {i} says {'pier ' * (i % 3)} and word{i}" for i in range(12)}
    for name, text in notes.items():
        spread.write(**{name: text})
        spread.refresh()
    whole.write(**notes)
    whole.refresh()
    assert len(spread.store.current().segments) > len(whole.store.current().segments) == 1

    def scores(base):
        with Retriever.open(base.root) as retriever:
            hits = retriever.search("pier word7", 12, mode="lexical")
        return {hit.key: hit.bm25 for hit in hits}

    assert scores(spread) == pytest.approx(scores(whole), rel=1e-5)


@pytest.fixture
def tmp_path(tmp_path):
    """With two folders, for tests that compare knowledge bases."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    return tmp_path


# --- what is stored ---------------------------------------------------------------------------


def test_equal_texts_give_equal_bytes_and_no_text_is_stored(tmp_path):
    """Two knowledge bases with the same texts name the same objects."""
    names = []
    for folder in ("a", "b"):
        base = Base(tmp_path / folder)
        base.write(**TEXTS)
        base.refresh()
        (segment,) = base.store.current().segments
        names.append([entry.name for entry in segment.lexical])
        assert [entry.kind for entry in segment.lexical] == list(KINDS)
        assert {entry.rows for entry in segment.lexical} == {segment.rows} == {len(TEXTS)}
        for entry in segment.lexical:
            data = base.store.objects.path(entry).read_bytes()
            assert not any(text.encode() in data for text in TEXTS.values())
    assert names[0] == names[1] and len(FILES) == 6


def test_words_of_another_length_than_the_rows_are_a_problem(base):
    """An index of words that is silently incomplete is never published, and verify names it."""
    manifest = base.store.current()
    (segment,) = manifest.segments
    live = [text_hash(text) for text in TEXTS.values()]
    assert (
        lexical_problem(segment) == "" and index_problems(base.store.objects, manifest, live) == []
    )
    short = tuple(replace(entry, rows=entry.rows - 1) for entry in segment.lexical)
    for lexical in ((), segment.lexical[:-1], short, segment.lexical[::-1]):
        broken = replace(segment, lexical=lexical)
        assert lexical_problem(broken)
        problems = index_problems(base.store.objects, replace(manifest, segments=(broken,)), live)
        assert len(problems) == 1 and broken.vectors.name in problems[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_never_parsed_and_healed_to_the_byte(base, kind):
    """Also from a process that never saw it whole."""
    (segment,) = base.store.current().segments
    (entry,) = (e for e in segment.lexical if e.kind == kind)
    path = base.store.objects.root / entry.name
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    code = (
        "import sys; from headwater.cli import main; "
        f"sys.exit(main(['search', 'ferry', '--mode', 'lexical', '--kb', {str(base.root)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and entry.name in done.stderr and "Traceback" not in done.stderr
    assert repair(load(base.root), base.store).healed == (entry.name,)
    assert path.read_bytes() == whole
    assert base.keys("lamps", mode="lexical") == ["lamp"]


def test_another_language_writes_the_words_anew_and_embeds_nothing(base):
    """At the next refresh, although no document changed; the snapshot before keeps its own."""
    first = base.store.current_name()
    base.configure(language="none")
    report = base.refresh()
    assert report.published and report.embedded == 0
    assert base.store.current().lexical == "none/1"
    assert base.keys("lamps", mode="lexical") == []
    assert base.keys("lamps", mode="lexical", as_of=first) == ["lamp"]
    assert not base.refresh().published
    assert verify(base.store, deep=True, index_check=index_problems).problems == ()


def test_a_snapshot_without_words_is_searched_for_words_all_the_same(base):
    """One of format 1, or that let go of its index: they are indexed in memory, with equal scores."""
    with Retriever.open(base.root) as retriever:
        before = retriever.search("ferry pier", 5, mode="lexical")
        view = retriever._latest()
        view.manifest = replace(view.manifest, lexical="")
        view._word_index = None
        after = retriever.search("ferry pier", 5, mode="lexical")
    assert [(h.key, h.bm25) for h in after] == [(h.key, pytest.approx(h.bm25)) for h in before]


def test_opening_leaves_no_file_and_no_thread_behind(base, tmp_path, monkeypatch):
    """The folder that joins the files of the segments is gone before the first hit."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a"))
    monkeypatch.setattr("tempfile.tempdir", None)
    with Retriever.open(base.root) as retriever:
        assert retriever.search("ferry", mode="lexical")
        assert list((tmp_path / "a").iterdir()) == []
        pid = os.fork()
        if not pid:
            os._exit(0 if retriever.search("ferry", mode="lexical") else 1)
        assert os.waitpid(pid, 0)[1] == 0


def test_erased_words_are_in_no_index(base):
    """The dictionary of every part of every snapshot is without them; others stay."""
    from headwater.flows.erasure import ErasureRequest, erase
    from headwater.retrieval.lexical import FIELD, open_lexical, parts_of

    first = base.store.current_name()
    base.write(code=None)
    base.refresh()
    names = {entry.name for s in base.store.current().segments for entry in s.lexical}
    erase(load(base.root), ErasureRequest(names=(("notes", "lamp.md"),), reason="asked to"))
    for manifest in base.store.chain():
        for segment in manifest.segments:
            index = open_lexical(base.store.objects, parts_of(segment), name=manifest.lexical)
            words = {word for word, _ in index.searcher().terms_with_prefix(FIELD, "")}
            assert words and not words & {"bulb", "4471", "xk"}
            assert "ferri" in words
    left = {entry.name for entry, _ in base.store.objects.listing()}
    assert not {n for n in names & left if n.endswith((".term", ".idx", ".pos"))}
    assert base.keys("bulb", mode="lexical", as_of=first) == []
    assert set(base.keys("ferry", mode="lexical", as_of=first)) == {"ferry", "twin"}
    assert verify(base.store, deep=True, index_check=index_problems).problems == ()


def test_row_n_of_the_words_is_row_n_of_the_vectors(base):
    """The document that holds a word is the row whose hash is that of its text."""
    with Retriever.open(base.root) as retriever:
        view = retriever._latest()
        for word, name in (("bulb", "lamp"), ("gauge", "code"), ("inspectors", "dyke")):
            ((row, _),) = view._words().search(word, 5, view._live)
            assert view._hash(row) == text_hash(TEXTS[name])
