"""Objects are immutable, named by their content, and never trusted without a look."""

import os

import pyarrow as pa
import pytest

from headwater.errors import CorruptObjectError, StorageUnavailableError
from headwater.storage import files
from headwater.storage.objects import ObjectStore

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})


@pytest.fixture
def objects(tmp_path):
    return ObjectStore(tmp_path)


def test_the_same_bytes_have_the_same_name_and_are_written_once(objects):
    """Putting an object twice gives one file and one name."""
    first = objects.put_table(TABLE, "versions.parquet")
    second = objects.put_table(TABLE, "versions.parquet")
    assert first == second
    assert [e for e, _ in objects.listing()] == [
        type(first)(first.sha256, first.kind, first.bytes, 0)
    ]
    assert objects.bytes_written == first.bytes


def test_a_table_comes_back_as_it_was(objects):
    """A stored table reads back equal, whole or by column."""
    entry = objects.put_table(TABLE, "versions.parquet")
    assert objects.read_table(entry).equals(TABLE)
    assert objects.read_table(entry, ["b"]).column_names == ["b"]


@pytest.mark.parametrize("position", [0, 4, 50, -1])
def test_one_flipped_byte_is_refused_with_the_objects_name(objects, tmp_path, position):
    """A fresh process that meets a damaged object names it and never parses it."""
    entry = objects.put_table(TABLE, "versions.parquet")
    path = tmp_path / "objects" / entry.name
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptObjectError, match="damaged") as caught:
        ObjectStore(tmp_path).read_table(entry)
    assert entry.sha256 in caught.value.obj


def test_a_missing_object_is_named(objects, tmp_path):
    """An object that is gone is an error with its name, not an empty table."""
    entry = objects.put_bytes(b"graph", "graph.hnsw")
    (tmp_path / "objects" / entry.name).unlink()
    with pytest.raises(CorruptObjectError, match="missing"):
        ObjectStore(tmp_path).path(entry)


def test_no_text_is_copied_into_a_footer(objects, tmp_path):
    """Parquet statistics would keep minima and maxima of texts where erasure does not look."""
    import pyarrow.parquet as pq

    entry = objects.put_table(TABLE, "contents.parquet")
    column = pq.read_metadata(tmp_path / "objects" / entry.name).row_group(0).column(1)
    assert column.statistics is None or not column.statistics.has_min_max


def test_drafts_of_this_process_are_discarded(objects, tmp_path):
    """What a run left in tmp/ goes with it."""
    objects.draft("graph.hnsw").write_bytes(b"half")
    objects.discard_drafts()
    assert not (tmp_path / "tmp" / f"run-{os.getpid()}").exists()


def test_a_refused_write_says_which_path_and_what_to_do(tmp_path):
    """Writing below a file instead of a folder is a clear error."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailableError) as caught:
        files.write_new(tmp_path / "file" / "x", b"data")
    assert "x" in caught.value.obj and "published snapshot is untouched" in caught.value.todo


def test_replace_leaves_the_old_file_or_the_new_one(tmp_path):
    """An atomic replacement never shows a mixture and leaves no draft."""
    target = tmp_path / "CURRENT"
    files.replace(target, b"one", tmp=tmp_path / "tmp")
    files.replace(target, b"two", tmp=tmp_path / "tmp")
    assert target.read_bytes() == b"two"
    assert list((tmp_path / "tmp").iterdir()) == []
