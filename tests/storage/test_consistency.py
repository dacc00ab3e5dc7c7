"""What `verify` finds in a snapshot whose files are whole and do not fit each other."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from headwater.storage.consistency import snapshot_problems
from headwater.storage.history import live_texts
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, VERSIONS

SCHEMAS = {"versions": VERSIONS, "closures": CLOSURES, "contents": CONTENTS, "chunks": CHUNKS}


@pytest.fixture
def grown(chain):
    """A snapshot with an edit, a removal, two documents of one text, and two sources."""
    chain.publish({"docs": {"a": "1", "b": "2", "c": "same"}, "wiki": {"a": "same", "z": "26"}})
    chain.publish({"docs": {"a": "1, edited", "c": "same"}})
    manifest = chain.store.resolve(None)
    return replace(manifest, counts={"documents": 4})


def problems(chain, manifest, *, counted=True, index_check=lambda *_: []):
    found = snapshot_problems(chain.store.objects, manifest, index_check, counted=counted)
    assert all(problem.startswith(f"{manifest.name()}: ") for problem in found)
    return [problem.partition(": ")[2] for problem in found]


def put(chain, manifest, kind, table):
    entry = chain.store.objects.put_table(table, f"{kind}.parquet")
    return replace(manifest, **{kind: (*getattr(manifest, kind), entry)})


def read(chain, manifest, kind):
    tables = [chain.store.objects.read_table(entry) for entry in getattr(manifest, kind)]
    return pa.concat_tables(tables).cast(SCHEMAS[kind])


def test_a_consistent_snapshot_has_no_problems(chain, grown):
    """One key in two sources, and one text in two documents, are as it should be."""
    assert problems(chain, grown) == []


def test_an_empty_snapshot_has_no_problems(chain, grown):
    """No files at all, and no documents."""
    empty = replace(
        grown, versions=(), closures=(), contents=(), chunks=(), counts={"documents": 0}
    )
    assert problems(chain, empty) == []


def test_two_live_versions_of_a_document_are_counted_once(chain, grown):
    """In whichever file the second one stands."""
    live = read(chain, grown, "versions").filter(pc.field("key") == "z")
    names = pa.array([f"{n:032x}" for n in range(live.num_rows)])
    again = live.set_column(0, "version_id", names)
    doubled = put(chain, grown, "versions", again)
    assert problems(chain, doubled) == [
        "1 documents with more than one live version",
        "5 live documents, the manifest says 4",
    ]


def test_a_closure_of_nothing_is_counted(chain, grown):
    """Every version that ended must have begun."""
    closure = read(chain, grown, "closures").slice(0, 1)
    stray = closure.set_column(0, "version_id", pa.array(["f" * 32]))
    assert problems(chain, put(chain, grown, "closures", stray)) == [
        "1 closures of versions that do not exist"
    ]


def test_live_documents_without_their_text_are_counted(chain, grown):
    """Each document, though they share the text; the text of a removed document is not missed."""
    contents = read(chain, grown, "contents")
    for text, expected in (("same", ["2 live documents without their text"]), ("2", [])):
        left = contents.filter(pc.field("text") != text)
        assert left.num_rows == contents.num_rows - 1
        without = put(chain, replace(grown, contents=()), "contents", left)
        assert problems(chain, without) == expected


def test_the_number_of_documents_is_compared_where_it_counts(chain, grown):
    """Between the record of an erasure and CURRENT, a manifest counts what is erased already."""
    wrong = replace(grown, counts={"documents": 9})
    assert problems(chain, wrong) == ["4 live documents, the manifest says 9"]
    assert problems(chain, wrong, counted=False) == []


def test_the_index_is_compared_with_the_texts_of_live_chunks(chain, grown):
    """All of them and no other ones; what is wrong with it is a problem of the snapshot."""
    seen = []

    def check(objects, manifest, texts):
        seen.append((objects, manifest, sorted({row.tobytes() for row in texts})))
        return ["it is upside down"]

    assert problems(chain, grown, index_check=check) == ["it is upside down"]
    assert seen == [(chain.store.objects, grown, live_texts(chain.store.objects, grown))]
    assert len(seen[0][2]) == 3
