"""Names that people give to snapshots."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError, NotFoundError, StoreError
from headwater.storage.manifest import SourceState, child_of, format_time, parse_time
from headwater.storage.retired import write_retired
from headwater.storage.store import Store
from headwater.storage.tags import delete_tag, is_tag_name, read_tags, set_tag

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "store")
    for number in range(3):
        when = format_time(START + timedelta(hours=number))
        manifest = child_of(
            store.current(),
            observed_at=when,
            created_at=when,
            run_id=f"run{number}",
            cause="refresh",
            headwater="0",
            config_sha256="",
            chunker="none",
            sources={"docs": SourceState("memory")},
        )
        store.publish(store.write_candidate(manifest))
    return store


def test_a_tag_names_a_snapshot_until_it_is_moved_or_removed(store):
    """A tag stands wherever a snapshot is named, may be moved, and is gone once it is removed."""
    first, second = store.resolve("1"), store.resolve("2")
    assert set_tag(store, "release-1.0", "1") == first.name()
    assert (store.root / "tags" / "release-1.0").read_text() == f"{first.name()}\n"
    assert store.resolve("release-1.0") == first
    assert set_tag(store, "latest") == store.current_name()
    set_tag(store, "release-1.0", "2026-01-01T01:30:00Z")
    assert store.resolve("release-1.0") == second
    assert set_tag(store, "copy", "release-1.0") == second.name()
    assert list(read_tags(store.root)) == ["copy", "latest", "release-1.0"]
    delete_tag(store, "copy")
    with pytest.raises(NotFoundError):
        store.resolve("copy")


def test_an_unknown_tag_lists_those_that_are_there(store):
    """Whoever mistypes a tag sees the right one, and removing what is not there is an error."""
    set_tag(store, "golden", "1")
    with pytest.raises(NotFoundError, match="no tag") as caught:
        store.resolve("goldne")
    assert "golden" in caught.value.todo
    with pytest.raises(NotFoundError):
        delete_tag(store, "goldne")


@pytest.mark.parametrize(
    "name", ["", "current", "1", "20260101", "2026-w01", "Golden", "a/b", "../x", ".x", "a" * 64]
)
def test_a_name_that_means_something_else_is_no_tag(store, name):
    """What could be a number, a time, a path or CURRENT never becomes a tag."""
    with pytest.raises(ConfigError, match="cannot name a tag"):
        set_tag(store, name)
    assert not (store.root / "tags").exists()


@given(st.text(alphabet="abz0129.-_:tT ", max_size=30))
def test_no_tag_looks_like_a_snapshot_or_a_time(text):
    """A text that can be read as a time, a number or a snapshot's name is no tag's name."""
    try:
        parse_time(text)
    except ValueError:
        if not text[:1].isdigit():
            return
    assert not is_tag_name(text)


def test_an_expired_snapshot_cannot_be_tagged_or_opened(store):
    """Expiry is final: the error says so and names the nearest that are kept."""
    first, second, third = (store.resolve(str(n)).name() for n in (1, 2, 3))
    write_retired(store.root, [second], now=START)
    for refuse in (lambda: set_tag(store, "late", "2"), lambda: store.resolve(second)):
        with pytest.raises(NotFoundError, match="expired by retention") as caught:
            refuse()
        assert first in caught.value.todo and third in caught.value.todo
    with pytest.raises(NotFoundError, match="expired by retention"):
        store.resolve("2026-01-01T01:30:00Z")
    assert [m.seq for m in store.chain()] == [3, 2, 1]


def test_a_damaged_tag_is_named(store):
    """A tag that holds no snapshot's name stops who asks for it, and can be written anew."""
    set_tag(store, "golden", "1")
    (store.root / "tags" / "golden").write_text("nonsense\n")
    with pytest.raises(StoreError, match="damaged"):
        store.resolve("golden")
    set_tag(store, "golden", "2")
    assert store.resolve("golden").seq == 2


def test_the_command_line_sets_lists_and_removes_tags(store):
    """`tag`, `tags` and `tag --delete` do what the library does, with its exit codes."""

    def run(*words):
        command = [sys.executable, "-m", "headwater.cli", *words, "--kb", str(store.root.parent)]
        code = "import sys; from headwater.cli import main; sys.exit(main(sys.argv[1:]))"
        command[1:3] = ["-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("tag", "golden", "1").returncode == 0
    assert run("tag", "golden").stdout == f"golden is {store.current_name()}\n"
    assert store.current_name() in run("tags").stdout
    assert "tag golden" in run("log").stdout
    assert run("tag", "golden", "--delete").returncode == 0
    assert run("tag", "golden", "--delete").returncode == 9
    assert run("tag", "Golden").returncode == 2
    assert read_tags(store.root) == {}
