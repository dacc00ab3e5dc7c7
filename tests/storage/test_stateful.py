"""The store against a plain model: whatever is done in whatever order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headwater import config
from headwater.config import RetentionConfig
from headwater.flows.certificate import check_erasure
from headwater.flows.encoding import twin_encoding
from headwater.flows.erasure import ErasureRequest, erase, readmit
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval.index import index_problems
from headwater.storage import embedding_merge, merging
from headwater.storage.feed import change_feed
from headwater.storage.history import diff
from headwater.storage.lineage import document_history
from headwater.storage.pins import Lease
from headwater.storage.retired import read_retired
from headwater.storage.store import Store
from headwater.storage.tables import open_tables
from headwater.storage.tags import delete_tag, read_tags, set_tag
from headwater.storage.vacuum import vacuum
from headwater.storage.verify import verify

KEYS = st.sampled_from("abcdefgh")
TEXTS = st.sampled_from(["the pump", "the valve", "the tank", "the pipe", "the pump stands still"])
YAML = """\
name: machine
index: {graph_from: 4, max_flat_segments: 1}
sources:
  s: {kind: memory, deletion_guard: {max_count: 100}}
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
RETENTION = RetentionConfig.model_validate({"all_for": "3h", "hourly_for": "3h", "daily_for": "3h"})

State = dict[str, str]


class StoreMachine(RuleBasedStateMachine):
    """One knowledge base, and what a list of dictionaries says that it must hold."""

    @initialize()
    def begin(self) -> None:
        """An empty source, published."""
        self.patch = pytest.MonkeyPatch()
        # Whatever is merged once there is much of it is merged as soon as there are two.
        self.patch.setattr(merging, "FAN_IN", 2)
        self.patch.setattr(embedding_merge, "FAN_IN", 2)
        self.root = Path(tempfile.mkdtemp(prefix="headwater-machine-"))
        (self.root / "headwater.yaml").write_text(YAML)
        self.kb = config.load(self.root)
        self.now = START
        self.source: State = {}
        self.published: dict[str, State] = {}
        self.tags: dict[str, str] = {}
        self.held = False
        self.embedded: set[str] = set()
        self.ever: dict[str, set[str]] = {}
        self.kept_out: set[str] = set()
        self.readmitted: set[str] = set()
        self.erased: set[str] = set()
        self.pull()

    def teardown(self) -> None:
        """Nothing stays behind."""
        if hasattr(self, "root"):
            self.patch.undo()
            shutil.rmtree(self.root)

    @property
    def store(self) -> Store:
        """Opened anew each time: nothing may depend on what a process remembers."""
        return Store.open(self.kb.store)

    @property
    def current(self) -> State:
        """What must be served."""
        return self.published[self.store.current_name() or ""] if self.published else {}

    def pull(self, *, complete: bool = True, release: bool = False, **only: str) -> None:
        """Refresh, and move the model by the same rule."""
        self.now += timedelta(minutes=20)
        listed = self.source if complete else only
        memory = MemorySource.of([Record(k, t) for k, t in listed.items()], complete=complete)
        before = dict(self.current)
        options = RefreshOptions(observed_at=self.now, release=("s",) if release else ())
        report = refresh(self.kb, options, encoding=twin_encoding, sources={"s": memory})
        self.held = self.held and not release
        allowed = {k: before[k] if self.is_out(k, t, before) else t for k, t in listed.items()
                   if k in before or not self.is_out(k, t, before)}  # fmt: skip
        # An empty listing never wipes what is known: its deletions wait for a person.
        wiped = complete and not listed
        stays = self.held or wiped
        expected = before if stays else allowed if complete else {**before, **allowed}
        new = set(expected.values()) - self.embedded
        assert report.embedded == len(new)
        self.embedded |= new
        for key, text in expected.items():
            self.ever.setdefault(key, set()).add(text)
        if report.published:
            self.published[report.snapshot] = expected
        else:
            assert expected == before

    def is_out(self, key: str, text: str, before: State) -> bool:
        """Whether an erasure keeps out what a source lists."""
        if before.get(key) == text:
            return False
        return key in self.kept_out or (text in self.erased and key not in self.readmitted)

    # --- what may happen ----------------------------------------------------------------------

    @rule(changes=st.dictionaries(KEYS, TEXTS, max_size=5), gone=st.sets(KEYS, max_size=3))
    def the_source_changes(self, changes: State, gone: set[str]) -> None:
        """Adds, edits, reverts, duplicates and deletions, then a complete refresh."""
        self.source = {k: t for k, t in {**self.source, **changes}.items() if k not in gone}
        self.pull()

    @rule(old=KEYS, new=KEYS)
    def a_document_is_renamed(self, old: str, new: str) -> None:
        """The same text under another key."""
        if old in self.source and new not in self.source:
            self.source[new] = self.source.pop(old)
        self.pull()

    @rule(key=KEYS, text=TEXTS)
    def an_extract_is_partial(self, key: str, text: str) -> None:
        """It changes what it lists and deletes nothing."""
        self.source[key] = text
        self.pull(complete=False, **{key: text})

    @rule()
    def nothing_changes(self) -> None:
        """A refresh of the same."""
        self.pull()

    @rule(data=st.data(), hold=st.booleans())
    def someone_rolls_back(self, data: st.DataObject, hold: bool) -> None:
        """To any snapshot that is kept, with or without a hold."""
        target = data.draw(st.sampled_from(self.kept()))
        manifest = self.store.rollback(target, run_id="machine", hold=("s",) if hold else ())
        self.now = max(self.now, manifest.time)
        self.published[manifest.name()] = self.published[target]
        self.held = bool(manifest.sources["s"].hold)

    @precondition(lambda self: self.held)
    @rule()
    def the_hold_is_lifted(self) -> None:
        """And the source is believed again."""
        self.pull(release=True)

    @rule(data=st.data(), name=st.sampled_from(["one", "two"]))
    def someone_tags(self, data: st.DataObject, name: str) -> None:
        """A name for a kept snapshot."""
        target = data.draw(st.sampled_from(self.kept()))
        set_tag(self.store, name, target)
        self.tags[name] = target

    @precondition(lambda self: self.tags)
    @rule(data=st.data())
    def someone_untags(self, data: st.DataObject) -> None:
        """The snapshot stays until retention says otherwise."""
        name = data.draw(st.sampled_from(sorted(self.tags)))
        delete_tag(self.store, name)
        del self.tags[name]

    @rule(hours=st.integers(0, 6))
    def a_vacuum_runs(self, hours: int) -> None:
        """Some time later; what it may expire is neither current nor tagged."""
        now = datetime.now(UTC) + timedelta(hours=hours)
        vacuum(self.store, config=RETENTION, now=now)
        expired = set(read_retired(self.store.root))
        assert not expired & {self.store.current_name(), *self.tags.values()}

    @precondition(lambda self: self.ever)
    @rule(data=st.data())
    def someone_is_erased(self, data: st.DataObject) -> None:
        """One key, from every snapshot; its texts too, but for those that another key ever held."""
        key = data.draw(st.sampled_from(sorted(self.ever)))
        request = ErasureRequest((("s", key),), reason="asked for", follow_renames=False)
        done = erase(self.kb, request)
        texts = self.ever.pop(key) - set().union(*self.ever.values())
        assert done.removed.get("contents.parquet", 0) >= len(texts)
        self.erased |= texts
        self.embedded -= texts
        self.kept_out.add(key)
        self.readmitted.discard(key)
        self.published[done.snapshot] = dict(self.current_before(done.snapshot))
        for state in self.published.values():
            state.pop(key, None)
        assert check_erasure(self.store, done.number) == ()

    @precondition(lambda self: self.kept_out)
    @rule(data=st.data())
    def someone_is_let_in_again(self, data: st.DataObject) -> None:
        """Its key and its texts may come back with the next refresh."""
        key = data.draw(st.sampled_from(sorted(self.kept_out)))
        assert readmit(self.store, [("s", key)], reason="asked for") == 1
        self.kept_out.discard(key)
        self.readmitted.add(key)

    @rule(data=st.data())
    def a_reader_pins(self, data: st.DataObject) -> None:
        """It keeps its snapshot from every vacuum until it lets go."""
        name = data.draw(st.sampled_from(self.kept()))
        lease = Lease(self.store.root)
        lease.hold(name)
        a_moment = datetime.now(UTC) + timedelta(minutes=30)
        vacuum(self.store, config=RETENTION, now=a_moment, grace=timedelta(seconds=1))
        assert name not in read_retired(self.store.root)
        assert self.contents(name) == self.published[name]
        lease.release()

    # --- what must hold -----------------------------------------------------------------------

    def kept(self) -> list[str]:
        """Snapshots that were not expired, oldest first."""
        expired = set(read_retired(self.store.root))
        return sorted(name for name in self.published if name not in expired)

    @invariant()
    def every_kept_snapshot_is_as_it_was(self) -> None:
        """As of each snapshot, the store holds what the model says."""
        if not hasattr(self, "root"):
            return
        for name in self.kept():
            assert self.contents(name) == self.published[name]
        assert read_tags(self.store.root) == self.tags

    @invariant()
    def differences_and_feeds_agree(self) -> None:
        """Between the oldest kept snapshot and the current one, and the last two."""
        if not hasattr(self, "root"):
            return
        kept, current = self.kept(), self.store.current_name()
        for before in {kept[0], kept[-1]}:
            found = diff(self.store, before, str(current)).documents
            old, new = self.published[before], self.current
            assert applied(old, new, found) == new
            feed = change_feed(self.store, before, str(current))
            assert feed["key"].to_pylist() == [change.key for change in found]
            assert feed["op"].to_pylist() == [change.op for change in found]

    @invariant()
    def the_store_is_consistent(self) -> None:
        """Counts, one live version per key, and an index of exactly the live texts."""
        if not hasattr(self, "root"):
            return
        assert verify(self.store, index_check=index_problems).problems == ()
        manifest = self.store.resolve(None)
        assert manifest.counts["documents"] == len(self.current)
        assert manifest.counts["texts"] == len(set(self.current.values()))
        for key in self.current:
            assert not document_history(self.store, "s", key)[-1].ended

    def current_before(self, name: str) -> State:
        """What was served before a snapshot."""
        return self.published[self.store.manifest(name).parent]

    def contents(self, name: str) -> State:
        """What a snapshot holds, read from its tables."""
        store = self.store
        with open_tables(store.objects, store.resolve(name)) as connection:
            rows = connection.execute(
                "select key, text from live join contents using (content_hash)"
            ).fetchall()
        return dict(rows)


def applied(old: State, new: State, changes: object) -> State:
    """The first state with the changes made to it, their texts taken from the second."""
    state = dict(old)
    for change in changes:  # type: ignore[attr-defined]
        state.pop(change.renamed_from or change.key, None)
    for change in changes:  # type: ignore[attr-defined]
        if change.op != "removed":
            state[change.key] = new[change.key]
    return state


TestStore = StoreMachine.TestCase
TestStore.pytestmark = [pytest.mark.slow]
TestStore.settings = settings(
    max_examples=12,
    stateful_step_count=10,
    deadline=None,
    # A failing run is replayed and shrunk, but not explained: that takes longer than all the rest.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
