"""An erasure and the index of words: no file on the disk finds a word that only the erased had."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.erasure import ErasureRequest, erase
from headwater.flows.refresh import refresh
from headwater.retrieval import Retriever
from headwater.retrieval.hits import MODES
from headwater.retrieval.index import index_problems
from headwater.retrieval.lexical import KINDS, open_lexical, parts_of
from headwater.retrieval.word_search import WordIndex
from headwater.storage.store import Store
from headwater.storage.verify import verify

ONLY_HERS = ("zanzibarium", "quimbleton", "xk4471", "gertrude")


class Base:
    """A folder of notes."""

    def __init__(self, root):
        self.root = root
        (root / "notes").mkdir()
        (root / "headwater.yaml").write_text(
            "name: e\nsources:\n  notes: {kind: documents, root: notes}\n"
            "index: {graph_from: 8, max_flat_segments: 2}\n"
        )

    def publish(self, **texts):
        for name, text in texts.items():
            path = self.root / "notes" / f"{name}.md"
            path.unlink() if text is None else path.write_text(text)
        assert refresh(load(self.root), encoding=twin_encoding).published

    @property
    def store(self):
        return Store.open(self.root / "store")


@pytest.fixture
def base(tmp_path):
    """Her note in two editions, then gone; in segments that were merged and in one that was not."""
    made = Base(tmp_path)
    made.publish(**{f"n{n}": f"The pump of hall {n} feeds line {n * 7}." for n in range(9)})
    made.publish(her="Gertrude Quimbleton keeps the zanzibarium. The pump of hall 3 feeds line 21.")
    made.publish(her="Gertrude Quimbleton left. Code XK4471 opens the zanzibarium.", other="Rain.")
    made.publish(her=None)
    made.publish(n1="The pump of hall 1 feeds nothing.")
    return made


def lexical_files(store):
    """Every file of words on the disk."""
    return {entry.name for entry, _ in store.objects.listing() if entry.kind in KINDS}


def finds(store, words):
    """Which of some words the index of some segment has in any row, dead or alive."""
    found, named = set(), set()
    for manifest in store.chain():
        for segment in manifest.segments:
            named |= {entry.name for entry in segment.lexical}
            index = open_lexical(store.objects, parts_of(segment), name=manifest.lexical)
            rows = WordIndex(index, manifest.lexical, [0] * len(parts_of(segment)))
            everything = np.ones(segment.rows, dtype=bool)
            found |= {word for word in words if rows.search(word, 1, everything)}
    return found, named


def test_no_row_of_any_segment_has_her_words(base):
    """Of no snapshot, dead rows included; what others say of pumps stays, and old files are gone."""
    before = lexical_files(base.store)
    assert finds(base.store, ONLY_HERS)[0] == set(ONLY_HERS)
    with Retriever.open(base.root) as retriever:
        assert retriever.search("zanzibarium", mode="lexical", as_of="3")
        erase(load(base.root), ErasureRequest(names=(("notes", "her.md"),), reason="asked to"))
        for ref in (None, "2", "3", "4"):
            assert retriever.search("zanzibarium quimbleton", mode="lexical", as_of=ref) == []
            for mode in MODES:
                hits = retriever.search('"gertrude quimbleton" pump', 20, mode=mode, as_of=ref)
                assert hits and all(hit.key != "her.md" for hit in hits)
    found, named = finds(base.store, (*ONLY_HERS, "pump"))
    assert found == {"pump"}
    # No file of words lies there that no snapshot names: nobody could tell whose words it holds.
    assert lexical_files(base.store) == named != before
    for path in (base.root / "store" / "objects").glob("*/*.lexical.*"):
        data = path.read_bytes().lower()
        assert not any(word[:6].encode() in data for word in ONLY_HERS)
    assert verify(base.store, deep=True, index_check=index_problems).problems == ()


def test_what_she_wrote_does_not_come_back_by_its_words(base):
    """Neither by a refresh that finds it again, nor by a rollback to what once held it."""
    erase(load(base.root), ErasureRequest(names=(("notes", "her.md"),), reason="asked to"))
    (base.root / "notes" / "her.md").write_text("Gertrude Quimbleton keeps the zanzibarium.")
    refresh(load(base.root), encoding=twin_encoding)
    base.store.rollback("3", run_id="someone")
    assert finds(base.store, ONLY_HERS)[0] == set()
    with Retriever.open(base.root) as retriever:
        assert retriever.search("quimbleton", mode="lexical") == []
