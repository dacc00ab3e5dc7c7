"""A backup is a store: incremental, checked, and restored to the very same snapshot."""

import pytest

from headwater import config
from headwater.errors import ConfigError, CorruptObjectError, NotFoundError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.index import index_problems
from headwater.storage.backup import backup, restore
from headwater.storage.store import Store
from headwater.storage.verify import verify


@pytest.fixture
def kb(tmp_path):
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "headwater.yaml").write_text("name: b\nsources:\n  s: {kind: memory}\n")
    return config.load(tmp_path / "kb")


def publish(kb, *texts: str) -> int:
    source = MemorySource.of([Record(text.split()[0], text) for text in texts])
    return refresh(kb, RefreshOptions(), encoding=twin_encoding, sources={"s": source}).embedded


def whole(root) -> bool:
    return verify(Store.open(root), deep=True, index_check=index_problems).ok


def test_a_backup_is_a_store_and_the_next_one_copies_only_what_is_new(kb, tmp_path):
    """It can be searched where it lies, and costs what changed."""
    publish(kb, "alpha rises", "beta falls")
    first = backup(Store.open(kb.store), tmp_path / "copy")
    assert first.copied > 0 and first.kept == 0 and whole(tmp_path / "copy")
    again = backup(Store.open(kb.store), tmp_path / "copy")
    assert again.copied == 0 and again.kept == first.copied
    publish(kb, "alpha rises", "beta falls", "gamma stays")
    later = backup(Store.open(kb.store), tmp_path / "copy")
    assert 0 < later.copied < first.copied + later.copied and whole(tmp_path / "copy")
    with Retriever.open(tmp_path / "copy") as retriever:
        assert retriever.search("gamma", k=1)[0].text == "gamma stays"
        assert len(retriever.search("gamma", k=9, as_of="1")) == 2


def test_a_restored_store_goes_on_and_embeds_nothing_again(kb, tmp_path):
    """After a loss, the next refresh finds the cache, the history and the watermarks."""
    publish(kb, "alpha rises", "beta falls")
    name = Store.open(kb.store).current_name()
    backup(Store.open(kb.store), tmp_path / "copy")
    kb.store.rename(tmp_path / "lost")
    assert restore(tmp_path / "copy", kb.store).snapshot == name
    assert Store.open(kb.store).current_name() == name and whole(kb.store)
    assert publish(kb, "alpha rises", "beta falls", "delta new") == 1
    assert [m.seq for m in Store.open(kb.store).chain()] == [2, 1]


def test_a_restore_never_overwrites(kb, tmp_path):
    """A living store is not replaced by its past."""
    publish(kb, "alpha rises")
    backup(Store.open(kb.store), tmp_path / "copy")
    with pytest.raises(ConfigError, match="already"):
        restore(tmp_path / "copy", kb.store)


def test_another_store_is_not_mixed_in(kb, tmp_path):
    """Two knowledge bases in one backup folder would be neither."""
    publish(kb, "alpha rises")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "headwater.yaml").write_text("name: o\nsources:\n  s: {kind: memory}\n")
    other = config.load(tmp_path / "other")
    publish(other, "omega ends")
    backup(Store.open(kb.store), tmp_path / "copy")
    with pytest.raises(ConfigError, match="another store"):
        backup(Store.open(other.store), tmp_path / "copy")
    with pytest.raises(ConfigError, match="itself"):
        backup(Store.open(kb.store), kb.store)


def test_damage_is_not_copied(kb, tmp_path):
    """A backup of a damaged object would be trusted later; it is refused now."""
    publish(kb, "alpha rises")
    store = Store.open(kb.store)
    path = store.objects.root / store.current().contents[0].name
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptObjectError, match="damaged"):
        backup(Store.open(kb.store), tmp_path / "copy")
    assert Store.open(tmp_path / "copy").current_name() is None


def test_nothing_published_is_nothing_to_back_up(tmp_path):
    """An empty store and an empty folder are told apart from a backup."""
    with pytest.raises(NotFoundError):
        backup(Store.create(tmp_path / "store"), tmp_path / "copy")
    with pytest.raises(NotFoundError):
        restore(tmp_path / "nowhere", tmp_path / "store")
