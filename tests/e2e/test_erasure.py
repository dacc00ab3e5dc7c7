"""Erasure: out of every snapshot, every object and every trace, for ever, with a proof."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.config import RetentionConfig
from headwater.errors import (
    BusyError,
    ConfigError,
    CorruptObjectError,
    NotFoundError,
    StoreError,
)
from headwater.flows.certificate import certificate_path, check_erasure, read_certificate
from headwater.flows.emit import emit_datasets, release_statuses
from headwater.flows.erasure import Erasure, ErasureRequest, erase, readmit
from headwater.flows.repair import repair
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.index import index_problems
from headwater.storage.audit import AuditLog
from headwater.storage.backup import backup, restore
from headwater.storage.claims import claimed
from headwater.storage.history import live_texts
from headwater.storage.retired import read_retired
from headwater.storage.store import Store
from headwater.storage.vacuum import vacuum
from headwater.storage.verify import verify

START = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "Ada Quillfeather of 7 Brindle Lane owes 431 crowns."
EDITED = "Ada Quillfeather of 7 Brindle Lane owes nothing any more."
SHARED = "The office is open from nine to five."
INDEX = {"graph_from": 4, "max_flat_segments": 1}
SOURCES = {"people": {"kind": "memory", "deletion_guard": {"max_count": 100}}}
WHY = "article 17 request of 2026-11-22"

Files = dict[Path, bytes]


def records(**texts: str) -> list[Record]:
    """Documents under keys that say what they are."""
    return [Record(key=f"{key}.md", text=text, title=key) for key, text in texts.items()]


@pytest.fixture
def base(make_base: Callable[..., Any]) -> Any:
    """Five snapshots: the subject comes, changes, is renamed, goes, and comes back."""
    base = make_base(SOURCES, index=INDEX)
    others = {f"other{n}": f"Person {n} keeps {n * 3} ducks by the canal." for n in range(8)}
    base.hour = 0
    base.states = [
        {**others, "quillfeather": SECRET, "office": SHARED},
        {**others, "quillfeather": EDITED, "office": SHARED},
        {**others, "ada": EDITED, "office": SHARED},
        {**others, "office": SHARED},
        {**others, "ada": SECRET, "reception": SHARED, "office": SHARED},
    ]
    for state in base.states:
        pull(base, **state)
    return base


def pull(base: Any, **texts: str) -> Any:
    """One refresh, an hour later."""
    base.hour += 1
    source = MemorySource.of(records(**texts))
    when = START + timedelta(hours=base.hour)
    return base.refresh(sources_open={"people": source}, observed_at=when)


def gone(base: Any, *keys: str, reason: str = WHY, **options: Any) -> Erasure:
    """Erase documents of the one source."""
    names = tuple(("people", f"{key}.md") for key in keys)
    return erase(base.kb, ErasureRequest(names, reason=reason, **options))


def residue(root: Path, *words: str) -> list[str]:
    """Files below `root` that hold a word: in their bytes, or in any column of a table."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        found += [f"{path.relative_to(root)}: {w}" for w in words if w.encode() in data]
    return found


def vectors_of(root: Path) -> Iterator[tuple[Path, list[Any]]]:
    """Every vector that lies anywhere in a store, by file."""
    for path in sorted((root / "objects").rglob("*")):
        if path.name.endswith("vectors.arrow"):
            with pa.ipc.open_file(str(path)) as reader:
                yield path, reader.read_all()["vector"].to_pylist()
        elif path.name.endswith("embeddings.parquet"):
            yield path, pq.read_table(path, partitioning=None)["vector"].to_pylist()


def whole(base: Any) -> None:
    """Nothing is wrong with the store, and every snapshot that opens has a whole index."""
    store = base.store
    found = verify(store, deep=True, index_check=index_problems)
    assert found.problems == ()
    retired = read_retired(store.root)
    for manifest in (m for m in store.chain() if m.name() not in retired):
        assert index_problems(store.objects, manifest, live_texts(store.objects, manifest)) == []


def test_nothing_of_the_subject_is_left_in_any_file(base: Any) -> None:
    """Not its key, not its text, not its vector: in no object, manifest, log or page."""
    words = ("Quillfeather", "quillfeather.md", "ada.md", "Brindle")
    assert residue(base.root, *words)
    done = gone(base, "quillfeather")
    assert residue(base.root, *words) == []
    (erased, edited) = HashEmbedder().encode([SECRET, EDITED]).tolist()
    for path, vectors in vectors_of(base.root / "store"):
        assert erased not in vectors, path
        assert edited not in vectors, path
    assert done.removed["versions.parquet"] == 4
    whole(base)


def test_every_past_snapshot_opens_without_the_subject(base: Any) -> None:
    """What was known of others on every date is still known."""
    gone(base, "quillfeather")
    for seq, state in enumerate(base.states, 1):
        rest = {f"{k}.md": t for k, t in state.items() if k not in ("quillfeather", "ada")}
        assert base.live(str(seq)) == {"people": rest}
        with Retriever.open(base.root, as_of=str(seq), encoder=HashEmbedder()) as retriever:
            hits = retriever.search("Ada Quillfeather Brindle Lane crowns", k=20)
            assert {hit.key for hit in hits} | {o[1] for h in hits for o in h.others} == set(rest)
    assert base.store.current().cause == "erasure"


def test_a_text_that_another_document_holds_stays_for_that_one(base: Any) -> None:
    """The certificate says so."""
    done = gone(base, "reception")
    assert done.subjects.holders == (("people", "office.md"),)
    assert base.live()["people"]["office.md"] == SHARED
    assert "reception.md" not in base.live()["people"]
    kept = read_certificate(base.store, 1)["kept_for_other_documents"]
    assert kept == {"contents": 1, "texts": 1}
    whole(base)


def test_no_refresh_brings_it_back(base: Any) -> None:
    """Neither under its key with another text, nor its text under another key."""
    gone(base, "quillfeather")
    state = {**base.states[-1], "quillfeather": "Something else about her.", "renamed": EDITED}
    report = pull(base, **state, extra="An honest new page.")
    (source,) = report.sources
    assert "3 records kept out" in source.note
    assert "extra.md" in base.live()["people"]
    assert not {"quillfeather.md", "ada.md", "renamed.md"} & set(base.live()["people"])
    assert residue(base.root, "Quillfeather", "Something else about her") == []


def test_what_was_erased_comes_back_only_when_a_person_lets_it(base: Any) -> None:
    """`readmit` lifts it, and later snapshots hold it again; earlier ones do not."""
    gone(base, "quillfeather")
    assert readmit(base.store, [("people", "ada.md")], reason="consent given anew") == 1
    pull(base, **base.states[-1])
    assert base.live()["people"]["ada.md"] == SECRET
    assert "ada.md" not in base.live("5")["people"]
    whole(base)
    assert check_erasure(base.store, 1) == ()
    with pytest.raises(NotFoundError, match="None of these"):
        readmit(base.store, [("people", "ada.md")], reason="again")


def test_a_condition_finds_its_documents_in_all_of_history(base: Any) -> None:
    """A text that was replaced long ago still counts."""
    done = erase(base.kb, ErasureRequest(where="text like '%ducks%' and seq < 3", reason=WHY))
    assert [key for _, key in done.subjects.names] == [f"other{n}.md" for n in range(8)]
    assert set(base.live()["people"]) == {"ada.md", "office.md", "reception.md"}
    whole(base)


@pytest.mark.parametrize(
    "where",
    [
        "nonsense = 1",
        "1=1); select * from read_text('/etc/passwd'",
        "text in (select content from read_text('/etc/passwd'))",
        "1=1; drop table names",
    ],
)
def test_a_condition_cannot_leave_the_sandbox(base: Any, where: str) -> None:
    """It is refused with DuckDB's own words, and nothing is erased."""
    with pytest.raises(ConfigError):
        erase(base.kb, ErasureRequest(where=where, reason=WHY))
    assert base.store.current().seq == 5


def test_a_dry_run_changes_nothing_and_says_what_would_go(base: Any) -> None:
    """Every name, and how many rows of which kind."""
    before = {p: p.read_bytes() for p in base.root.rglob("*") if p.is_file()}
    request = ErasureRequest((("people", "quillfeather.md"),))
    plan = erase(base.kb, request, dry_run=True)
    after = {p: p.read_bytes() for p in base.root.rglob("*") if p.is_file()}
    assert after == before
    assert plan.subjects.names == (("people", "ada.md"), ("people", "quillfeather.md"))
    done = gone(base, "quillfeather")
    for kind in ("versions.parquet", "closures.parquet", "contents.parquet", "chunks.parquet"):
        assert plan.removed[kind] == done.removed[kind], kind


def test_other_names_of_the_document_may_be_left_alone(base: Any) -> None:
    """With `follow_renames` off, only the name that was asked for goes."""
    done = gone(base, "quillfeather", follow_renames=False)
    assert done.subjects.names == (("people", "quillfeather.md"),)
    assert base.live()["people"]["ada.md"] == SECRET
    assert residue(base.root, "quillfeather.md") == []
    whole(base)


def test_a_record_in_quarantine_is_erased_too(make_base: Callable[..., Any]) -> None:
    """Also if it was never published."""
    base = make_base(SOURCES)
    base.hour = 0
    long = [Record(key="bad.md", text="   ", title="Ada Quillfeather"), *records(good="Fine.")]
    base.refresh(sources_open={"people": MemorySource.of(long)})
    assert base.store.current().counts["quarantined"] == 1
    assert residue(base.root, "Quillfeather")
    gone(base, "bad")
    assert base.store.current().counts["quarantined"] == 0
    assert residue(base.root, "Quillfeather", "bad.md") == []
    base.refresh(sources_open={"people": MemorySource.of(long)})
    assert residue(base.root, "Quillfeather", "bad.md") == []
    whole(base)


def test_a_released_dataset_is_revoked_and_can_be_emitted_again(make_base: Any) -> None:
    """Its rows are gone; what trained on it can still be named by its version."""
    base = make_base(SOURCES, datasets={"tune": {"recipes": ["text"], "min_tokens": 1}})
    base.hour = 0
    texts = {f"other{n}": f"Person {n} keeps {n * 3} ducks by the canal." for n in range(20)}
    pull(base, **texts, quillfeather=SECRET)
    (emission,) = emit_datasets(base.kb, unproven=True)
    assert residue(base.root / "datasets", "Quillfeather")
    gone(base, "quillfeather")
    assert residue(base.root, "Quillfeather", "quillfeather.md") == []
    (status,) = release_statuses(base.kb)
    assert (status.state, status.version) == ("revoked", emission.version)
    assert read_certificate(base.store, 1)["datasets_revoked"] == [f"tune/{emission.version}"]
    (again,) = emit_datasets(base.kb, unproven=True)
    assert again.version != emission.version
    assert {s.state for s in release_statuses(base.kb)} == {"fresh"}


def test_run_logs_reports_and_gates_that_mention_it_are_cleaned(make_base: Any) -> None:
    """A failing gate may name a value; the manifest that says so stays part of the chain."""
    base = make_base(SOURCES)
    base.hour = 0
    pull(base, quillfeather=SECRET, office=SHARED)
    (page,) = (base.root / "reports").glob("*.html")
    page.write_text(page.read_text().replace("</body>", "<td>quillfeather.md</td></body>"))
    (log,) = (base.root / "store" / "runs").glob("*.jsonl")
    line = json.loads(log.read_text())
    log.write_text(json.dumps({**line, "note": "quillfeather.md was odd"}) + "\n")
    pull(base, quillfeather=EDITED, office=SHARED)
    gone(base, "quillfeather")
    assert not page.exists()
    assert "(erased)" in log.read_text()
    assert residue(base.root, "quillfeather.md", "Quillfeather") == []


def test_gates_that_name_the_key_are_blanked_and_the_chain_still_holds(base: Any) -> None:
    """The manifest's file changes; its name, its place in the chain and its hash there do not."""
    store = base.store
    current = store.current()
    from dataclasses import replace

    from headwater.storage.manifest import Gate, child_of

    told = replace(
        child_of(current, run_id="told"),
        gates=(Gate("critical-tables", True, detail="found: ada.md twice"),),
    )
    store.publish(store.write_candidate(told))
    name = store.current_name()
    gone(base, "ada")
    assert residue(base.root, "ada.md") == []
    assert base.store.manifest(name).gates[0].detail == "(erased)"
    assert base.store.manifest(name).name() == name
    assert len(list(base.store.chain())) == 7
    whole(base)


def test_the_certificate_is_signed_and_can_be_checked_by_anybody(base: Any) -> None:
    """A changed certificate does not pass; the openssl tool makes the key."""
    made = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(base.root / "key.pem")],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is not installed, or knows no Ed25519")
    base.configure(SOURCES, index=INDEX, erasure={"signing_key": "key.pem"})
    done = gone(base, "quillfeather")
    body = read_certificate(base.store, 1)
    assert body["signature"]["algorithm"] == "Ed25519"
    assert body["proof"]["found"] == 0
    assert body["proof"]["objects"] == sum(1 for _ in base.store.objects.listing())
    assert body["reason"] == WHY
    assert check_erasure(base.store, 1) == ()
    path = Path(done.certificate)
    path.write_text(path.read_text().replace("article 17", "article 71"))
    assert "signature" in check_erasure(base.store, 1)[0]


def test_a_signing_key_that_cannot_be_used_stops_the_erasure_first(base: Any) -> None:
    """Nothing is erased that could not be certified."""
    base.configure(SOURCES, index=INDEX, erasure={"signing_key": "nowhere.pem"})
    with pytest.raises(ConfigError, match="signed"):
        gone(base, "quillfeather")
    (base.root / "nowhere.pem").write_text("no key")
    with pytest.raises(ConfigError, match="signed"):
        gone(base, "quillfeather")
    assert base.store.current().seq == 5


def test_what_comes_back_by_another_way_is_found(base: Any, tmp_path: Path) -> None:
    """Objects of an old copy put back by hand: `erasures --verify` names them."""
    old: Files = {p: p.read_bytes() for p in (base.root / "store" / "objects").rglob("*.parquet")}
    gone(base, "quillfeather")
    assert check_erasure(base.store, 1) == ()
    for path, data in old.items():
        path.write_bytes(data)
    assert any("objects/" in problem for problem in check_erasure(base.store, 1))


def test_an_open_retriever_forgets_at_its_next_search(base: Any) -> None:
    """One that follows CURRENT, one on a past snapshot, one asked for the past."""
    question = "Ada Quillfeather of Brindle Lane"
    with (
        Retriever.open(base.root, encoder=HashEmbedder()) as following,
        Retriever.open(base.root, as_of="1", encoder=HashEmbedder()) as pinned,
    ):
        assert following.search(question)[0].key == "ada.md"
        assert following.search(question, as_of="2")[0].key == "quillfeather.md"
        assert pinned.search(question)[0].key == "quillfeather.md"
        gone(base, "quillfeather")
        for hits in (
            following.search(question, k=50),
            following.search(question, k=50, as_of="2"),
            pinned.search(question, k=50),
        ):
            assert hits
            assert not {"ada.md", "quillfeather.md"} & {hit.key for hit in hits}


def test_an_object_that_was_erased_is_explained_to_who_asks_for_it(base: Any) -> None:
    """Somebody who read a manifest before does not get a file-not-found."""
    manifest = base.store.current()
    store = base.store
    gone(base, "quillfeather")
    with pytest.raises(NotFoundError, match="Erasure 1 took this object away"):
        store.objects.path(manifest.versions[0])


def test_rollback_and_override_after_an_erasure_bring_nothing_back(base: Any) -> None:
    """Whatever an old manifest names, what is published names what stands in its place."""
    gone(base, "quillfeather")
    base.store.rollback("1", run_id="someone")
    assert not {"ada.md", "quillfeather.md"} & set(base.live()["people"])
    assert residue(base.root, "Quillfeather") == []
    whole(base)
    gone(base, "office")
    base.store.rollback("2", run_id="someone")
    assert set(base.live()["people"]) == {f"other{n}.md" for n in range(8)}
    whole(base)


def test_erasures_follow_each_other(base: Any) -> None:
    """What the first wrote anew, the second writes anew again; all certificates hold."""
    gone(base, "quillfeather")
    gone(base, "other3")
    gone(base, "office", "reception")
    assert residue(base.root, "Quillfeather", "Person 3", "other3.md", "office is open") == []
    for seq in range(1, 9):
        assert "other3.md" not in base.live(str(seq))["people"]
    assert [check_erasure(base.store, n) for n in (1, 2, 3)] == [(), (), ()]
    whole(base)
    log = AuditLog(base.root / "store")
    assert [e.action for e in log.entries()[-3:]] == ["erasure"] * 3
    assert log.verify(list(base.store.chain())[::-1]).ok


def test_everything_may_be_erased(base: Any) -> None:
    """An empty store is a whole store."""
    erase(base.kb, ErasureRequest(where="true", reason=WHY))
    assert base.live() == {"people": {}}
    assert base.store.current().segments == ()
    whole(base)
    pull(base, fresh="A page that is nobody's.")
    assert base.live() == {"people": {"fresh.md": "A page that is nobody's."}}


def test_repair_heals_derived_objects_after_an_erasure(base: Any) -> None:
    """What was written anew is as reproducible as what it replaced."""
    gone(base, "quillfeather")
    manifest = base.store.current()
    derived = [*manifest.chunks, *(s.vectors for s in manifest.segments if not s.tombstones)]
    derived += [s.graph for s in manifest.segments if s.graph]
    assert derived
    for entry in derived:
        path = base.root / "store" / "objects" / entry.name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    found = repair(base.kb, base.store)
    assert found.lost == {}
    assert len(found.healed) == len({entry.name for entry in derived})
    whole(base)


def test_a_backup_forgets_too(base: Any, tmp_path: Path) -> None:
    """An earlier backup into the same folder loses the subject; what is restored has none of it."""
    backup(base.store, tmp_path / "copy")
    assert residue(tmp_path / "copy", "Quillfeather")
    gone(base, "quillfeather")
    backup(base.store, tmp_path / "copy")
    assert residue(tmp_path / "copy", "Quillfeather", "ada.md") == []
    restore(tmp_path / "copy", tmp_path / "again")
    store = Store.open(tmp_path / "again")
    assert verify(store, deep=True, index_check=index_problems).ok
    assert check_erasure(store, 1) == ()
    assert "other1.md" in base.live_in(store, store.resolve("1"))["people"]
    assert store.redactions().keeps_out("people", "ada.md")


def test_a_vacuum_after_an_erasure_leaves_every_kept_snapshot_whole(base: Any) -> None:
    """What the erasure wrote for expired snapshots goes with them."""
    config = RetentionConfig.model_validate(
        {"all_for": "2h", "hourly_for": "2h", "daily_for": "2h"}
    )
    now = START + timedelta(hours=6)
    vacuum(base.store, config=config, now=now)
    gone(base, "quillfeather")
    for hours in (2, 4):
        vacuum(base.store, config=config, now=datetime.now(UTC) + timedelta(hours=hours))
    whole(base)
    assert residue(base.root, "Quillfeather") == []


def test_an_erasure_waits_for_no_refresh_and_refuses_beside_one(base: Any) -> None:
    """A run at work may hold what is to be erased."""
    with (
        claimed(base.root / "store", "people", run_id="busy"),
        pytest.raises(BusyError, match="Another run"),
    ):
        gone(base, "quillfeather")


@pytest.mark.parametrize("key", ["nobody", "quillfeather.md"])
def test_an_unknown_document_is_not_found(base: Any, key: str) -> None:
    """With the key that was asked for."""
    with pytest.raises(NotFoundError, match="ever known"):
        gone(base, key)


def test_an_erasure_needs_a_reason_and_a_subject(base: Any) -> None:
    """Both are a usage error."""
    with pytest.raises(ConfigError, match="reason"):
        gone(base, "quillfeather", reason=" ")
    with pytest.raises(ConfigError, match="No document"):
        erase(base.kb, ErasureRequest(reason=WHY))


def test_a_damaged_object_stops_the_erasure(base: Any) -> None:
    """What it holds cannot be known, so nothing can be certified."""
    entry = base.store.current().contents[0]
    path = base.root / "store" / "objects" / entry.name
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptObjectError):
        gone(base, "quillfeather")
    assert base.store.current().seq == 5


def test_a_lost_record_of_an_erasure_is_named(base: Any) -> None:
    """Without it nobody knows what old manifests stand for: nothing is opened, verify says why."""
    gone(base, "quillfeather")
    (record,) = (base.root / "store" / "redactions").glob("00000001-*.json")
    data = record.read_bytes()
    record.write_bytes(data[:-5] + b"\n")
    with pytest.raises(StoreError, match="record of an erasure is damaged"):
        base.store.current()
    record.unlink()
    problems = verify(base.store, index_check=index_problems).problems
    assert any("record of its erasure is missing" in problem for problem in problems)


def test_a_certificate_holds_no_key_and_no_text(base: Any) -> None:
    """It can be shown to anybody; and so can the record."""
    gone(base, "quillfeather")
    folder = base.root / "store" / "redactions"
    assert sorted(p.name[:8] for p in folder.iterdir()) == ["00000001", "00000001", "key"]
    assert residue(folder, "quillfeather", "Quillfeather", "ada.md") == []
    (record,) = base.store.redactions().records
    assert certificate_path(base.root / "store", record).is_file()
