"""The links of the chain: what a manifest says about its place, read without its objects."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import FormatError, NotFoundError, StoreError
from headwater.storage import store as module
from headwater.storage.links import link_of, read_link
from headwater.storage.manifest import (
    Gate,
    Manifest,
    Segment,
    SourceState,
    child_of,
    format_time,
    from_json,
)
from headwater.storage.objects import ObjectEntry
from headwater.storage.redactions import Blanked, Redaction, write_redaction
from headwater.storage.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)
NASTY = '\n "seq": 7,\n "observed_at": "2020",\n "parent": "x",\n "parent_sha256": "y",\n'
TEXTS = st.text(max_size=20) | st.sampled_from([NASTY, "seq", '{\n "cause": "no",\n', '"\\'])


@st.composite
def manifests(draw):
    entry = ObjectEntry("ab" * 32, draw(TEXTS), 1, 2)
    return Manifest(
        seq=draw(st.integers(1, 10**9)),
        parent=draw(TEXTS),
        parent_sha256=draw(TEXTS),
        observed_at=draw(TEXTS),
        created_at=draw(TEXTS),
        run_id=draw(TEXTS),
        cause=draw(TEXTS),
        headwater="0",
        config_sha256=draw(TEXTS),
        chunker=draw(TEXTS),
        sources={draw(TEXTS): SourceState(draw(TEXTS))},
        versions=(entry,) * draw(st.integers(0, 2)),
        segments=(Segment(entry),) * draw(st.integers(0, 2)),
        gates=(Gate(draw(TEXTS), True, detail=draw(TEXTS)),),
        counts={draw(TEXTS): 1, "seq": 2, "format": 3},
    )


@given(manifests())
def test_a_link_is_read_as_the_whole_manifest_says_or_not_at_all(manifest):
    """Whatever its texts hold, nothing but the manifest's own keys is taken for them."""
    data, name = manifest.to_json(), manifest.name()
    plain = all(
        '"' not in v and "\\" not in v and v.isascii() and v.isprintable()
        for v in (manifest.cause, manifest.observed_at, manifest.parent, manifest.parent_sha256)
    )
    found = read_link(data, name)
    assert found == (link_of(from_json(data, name=name)) if plain else None)


def published(store: Store, count: int) -> list[Manifest]:
    made: list[Manifest] = []
    for number in range(count):
        when = format_time(START + timedelta(hours=number))
        manifest = child_of(
            made[-1] if made else None,
            observed_at=when,
            created_at=when,
            run_id="r",
            cause="refresh",
            **({"headwater": "0", "config_sha256": "", "chunker": "none"} if not made else {}),
        )
        store.publish(store.write_candidate(manifest))
        made.append(manifest)
    return made


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store")


def path_of(store, manifest):
    return store.root / "snapshots" / f"{manifest.name()}.json"


def test_the_links_are_those_of_the_chain(store):
    """Newest first, from the current snapshot or from any other one."""
    made = published(store, 4)
    assert list(store.links()) == [link_of(m) for m in store.chain()]
    assert [link.seq for link in store.links(made[2].name())] == [3, 2, 1]
    assert [link.time for link in store.links()] == [m.time for m in made[::-1]]


def test_an_empty_store_has_no_links(store):
    """Nothing is published: nothing is told."""
    assert list(store.links()) == []


def test_finding_a_time_parses_one_manifest(store, monkeypatch):
    """The snapshots that were passed on the way are read and checked, not parsed."""
    made = published(store, 9)
    parsed = []

    def spy(data, **about):
        parsed.append(about["name"])
        return from_json(data, **about)

    monkeypatch.setattr(module, "from_json", spy)
    for ref in (made[3].observed_at, "4", made[3].name()[:12]):
        assert store.resolve(ref).name() == made[3].name()
    assert store.candidates() == []
    assert parsed == [made[3].name()] * 3


def test_a_damaged_manifest_on_the_way_is_named(store):
    """A time beyond a file whose bytes are not what they were is not answered."""
    made = published(store, 4)
    path = path_of(store, made[2])
    path.write_bytes(path.read_bytes().replace(b'"refresh"', b'"Refresh"'))
    with pytest.raises(StoreError, match="damaged") as caught:
        store.resolve(made[0].observed_at)
    assert made[2].name() in caught.value.obj
    assert store.resolve(made[3].observed_at) == made[3]


def test_a_missing_manifest_on_the_way_is_named(store):
    """The chain does not go on behind a hole."""
    made = published(store, 3)
    path_of(store, made[1]).unlink()
    with pytest.raises(NotFoundError) as caught:
        store.candidates()
    assert caught.value.obj == made[1].name()


def test_a_manifest_that_is_not_the_one_its_child_names_breaks_the_chain(store):
    """The name holds half of a hash; the child holds all of it."""
    made = published(store, 2)
    forged = replace(made[1], parent_sha256=made[0].sha256()[:16] + "0" * 48)
    (store.root / "CURRENT").write_text(store.write_candidate(forged) + "\n")
    for walk in (store.links, store.chain):
        with pytest.raises(StoreError, match="chain") as caught:
            list(walk())
        assert caught.value.obj == made[0].name()


def test_a_manifest_of_the_future_is_refused(store):
    """A newer format may mean something else by the same keys."""
    made = published(store, 1)
    future = replace(made[0], format=99)
    (store.root / "CURRENT").write_text(store.write_candidate(future) + "\n")
    with pytest.raises(FormatError, match="format 99"):
        list(store.links())


def test_a_manifest_that_an_erasure_blanked_keeps_its_place(store):
    """Its bytes are not those its name promises; the record of the erasure vouches for them."""
    made = published(store, 3)
    raw = json.loads(made[1].to_json())
    blank = (json.dumps(raw | {"chunker": "(erased)"}, sort_keys=True, indent=1) + "\n").encode()
    now = module.files.sha256(blank)
    write_redaction(
        store.root,
        Redaction(
            1, "2026-01-02T00:00:00Z", "me", "r", "asked",
            manifests={made[1].name(): Blanked(made[1].sha256(), now, ())},
        ),
    )  # fmt: skip
    (store.root / "redactions" / "key").write_text("00" * 32)
    path_of(store, made[1]).write_bytes(blank)
    assert list(store.links()) == [link_of(m) for m in made[::-1]]
    assert store.resolve("1").name() == made[0].name()
