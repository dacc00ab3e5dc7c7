"""Stores of each format, written once and committed: today's code opens them, for ever."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.config import load
from headwater.errors import FormatError, NotFoundError
from headwater.flows.encoding import twin_encoding
from headwater.flows.held import refusals
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.repair import repair
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.hits import Hit
from headwater.retrieval.index import index_problems
from headwater.retrieval.lexical import KINDS
from headwater.storage.audit import AuditLog
from headwater.storage.feed import change_feed
from headwater.storage.history import diff, log
from headwater.storage.lineage import document_history
from headwater.storage.manifest import FORMAT, parse_time
from headwater.storage.pins import read_pins
from headwater.storage.sql import run_sql
from headwater.storage.store import Store
from headwater.storage.tags import read_tags
from headwater.storage.verify import verify

HERE = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """A store, and what it must say."""

    number: int
    root: Path
    said: dict[str, Any]

    @property
    def open(self) -> list[dict[str, Any]]:
        """Its snapshots that have not expired."""
        return [found for found in self.said["snapshots"] if not found["expired"]]


def committed(number: int) -> Golden:
    """The one of a format, as it lies in the repository."""
    said = json.loads((HERE / f"format-{number}.json").read_text("utf-8"))
    return Golden(number, HERE / f"format-{number}", said)


FORMATS = [committed(number) for number in range(1, FORMAT + 1)]
BIGGEST = {1: 200_000, 2: 300_000}
"""Bytes of each: they are in every clone."""


class Stored:
    """The query's vector as it was when the golden store was made, whatever the twin does today."""

    def __init__(self, vector: str) -> None:
        self._vector = np.frombuffer(bytes.fromhex(vector), "<f4")

    def encode(self, texts):
        return np.stack([self._vector for _ in texts])


def files(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Path -> mode, time of modification and bytes of everything below a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.stat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, data)
    return found


@pytest.fixture(scope="module", params=FORMATS, ids=lambda golden: f"format-{golden.number}")
def made(request):
    """The committed store of each format."""
    return request.param


@pytest.fixture(scope="module", params=["copied", "committed"])
def golden(request, made, tmp_path_factory):
    """A copy, or the committed folder itself made read-only; reading changes neither."""
    root = made.root
    if request.param == "copied":
        root = tmp_path_factory.mktemp("golden") / "kb"
        shutil.copytree(made.root, root)
    modes = {path: path.stat().st_mode for path in (root, *root.rglob("*"))}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files(root)
    try:
        yield replace(made, root=root)
        assert files(root) == before
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.fixture
def store(golden):
    """Today's view of it."""
    return Store.open(golden.root / "store")


@pytest.fixture
def copy(made, tmp_path):
    """A copy that may be changed, even while the committed folder is read-only."""
    root = Path(shutil.copytree(made.root, tmp_path / "kb"))
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return replace(made, root=root)


def live(store: Store, ref: str) -> list[list[str]]:
    """The live documents of a snapshot as format-<n>.json lists them."""
    rows = run_sql(store, "select source, key, text from documents", as_of=ref).to_pylist()
    hashed = (hashlib.sha256(row["text"].encode()).hexdigest() for row in rows)
    return sorted([r["source"], r["key"], name] for r, name in zip(rows, hashed, strict=True))


def test_it_holds_everything_the_format_names(made):
    """Whoever makes it anew cannot leave out a kind of object or a file that the twin can write."""
    left_out = {"encoder.xml", "encoder.bin", "canary.f32", *(KINDS if made.number < 2 else ())}
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = {kind.strip(" `") for line in rows for kind in line.split("|")[1].split(",")}
    objects = (made.root / "store" / "objects").glob("*/*")
    assert named - left_out == {path.name.partition(".")[2] for path in objects}
    entries = {path.name for path in (made.root / "store").iterdir()}
    assert entries >= {"FORMAT", "CURRENT", "LOCK", "audit.jsonl", "retired.json", "trash.json"}
    assert entries >= {"snapshots", "objects", "runs", "claims", "tags", "pins"}
    for seq, kinds in ((3, {"graph"}), (7, {"graph", "tombstones"})):
        (path,) = (made.root / "store" / "snapshots").glob(f"{seq:08}-*")
        segments = json.loads(path.read_bytes())["segments"]
        assert kinds <= {kind for segment in segments for kind, value in segment.items() if value}
    assert json.loads((made.root / "store" / "FORMAT").read_bytes())["format"] == made.number
    assert made.said["format"] == made.number
    found = [path for path in made.root.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in found) < BIGGEST[made.number]


def test_the_log_says_what_was_published(golden, store):
    """Every snapshot, rollback and expiry is told as on the day it was written."""
    found = [
        [e.seq, e.name, e.cause, e.restores, e.observed_at, e.expired, list(e.tags)]
        for e in reversed(log(store))
    ]
    tags = {name: tag for tag, name in golden.said["tags"].items()}
    assert found == [
        [
            *(s[name] for name in ("seq", "name", "cause", "restores")),
            parse_time(s["observed_at"]),
            s["expired"],
            [tags[s["name"]]] if s["name"] in tags else [],
        ]
        for s in golden.said["snapshots"]
    ]
    assert store.current_name() == golden.said["current"]
    assert read_tags(store.root) == golden.said["tags"]
    assert store.candidates() == golden.said["candidates"]
    sources = store.resolve(None).sources
    assert {name: state.hold for name, state in sources.items()} == golden.said["holds"]
    assert {name: state.watermark for name, state in sources.items()} == golden.said["watermarks"]
    assert [pin is not None for _, pin in read_pins(store.root)] == [True]


def test_each_past_is_what_it_was(golden, store):
    """By number, by name and by time, a snapshot has the documents it had, and their counts."""
    for snapshot in golden.open:
        for ref in (str(snapshot["seq"]), snapshot["name"]):
            assert store.resolve(ref).name() == snapshot["name"]
        # An erasure has the knowledge time of the snapshot before it.
        last = [s["name"] for s in golden.open if s["observed_at"] == snapshot["observed_at"]][-1]
        assert store.resolve(snapshot["observed_at"]).name() == last
        assert live(store, snapshot["name"]) == snapshot["live"]
        assert store.resolve(snapshot["name"]).counts == snapshot["counts"]


def test_a_tag_and_a_candidate_open(golden, store):
    """What is no number and no time opens too."""
    (reviewed,) = (s for s in golden.open if s["name"] == golden.said["tags"]["reviewed"])
    assert live(store, "reviewed") == reviewed["live"]
    (candidate,) = golden.said["candidates"]
    assert len(live(store, candidate)) == len(golden.open[-1]["live"]) + 3
    assert [gate.severity for gate in store.manifest(candidate).failed_gates()] == ["critical"]


def test_what_expired_says_so(golden, store):
    """A snapshot whose objects went is refused with the names of those that can be opened."""
    gone = [s for s in golden.said["snapshots"] if s["expired"]]
    assert gone
    for snapshot in gone:
        with pytest.raises(NotFoundError, match="expired") as caught:
            store.resolve(str(snapshot["seq"]))
        assert any(other["name"] in caught.value.todo for other in golden.open)


def test_the_change_feed_and_the_diff_tell_the_same_story(golden, store):
    """From each snapshot to the next one that opens: what was written down, and what the texts say."""
    texts = {s["seq"]: {(source, key): h for source, key, h in s["live"]} for s in golden.open}
    assert [(f["before"], f["after"]) for f in golden.said["feeds"]] == list(pairwise(texts))
    for feed in golden.said["feeds"]:
        before, after = str(feed["before"]), str(feed["after"])
        rows = change_feed(store, before, after).to_pylist()
        found = [[row["op"], row["source"], row["key"], row["renamed_from"]] for row in rows]
        assert found == feed["changes"]
        told = diff(store, before, after).documents
        assert [[d.op, d.source, d.key, d.renamed_from] for d in told] == found
        old, new = texts[feed["before"]], texts[feed["after"]]
        fresh = {(s, key) for op, s, key, _ in found if op in ("added", "renamed")}
        changed = {(s, key) for op, s, key, _ in found if op == "changed"}
        assert fresh == set(new) - set(old)
        assert changed == {name for name in set(old) & set(new) if old[name] != new[name]}


def test_the_history_of_a_document_is_what_it_was(golden, store):
    """A renamed document keeps its life under both names."""
    wanted = golden.said["history"]
    found = document_history(store, wanted["source"], wanted["key"])
    spans = [[s.began, s.ended, s.key, s.from_seq, s.until_seq] for s in found]
    assert spans == wanted["spans"]
    assert document_history(store, wanted["source"], wanted["spans"][0][2]) == found


def test_sql_answers_as_it_did(golden, store):
    """A question in SQL has the answer it had."""
    wanted = golden.said["sql"]
    assert run_sql(store, wanted["statement"]).to_pylist() == wanted["rows"]


def test_what_is_held_back_is_still_held_back(golden, store):
    """The quarantine names its records."""
    rows = refusals(store.objects, store.resolve(None))
    assert sorted([row["source"], row["key"]] for row in rows) == golden.said["held_back"]


def test_searches_find_what_they_found(golden):
    """Now, by number and by tag, with the vector the query had then."""
    for wanted in golden.said["searches"]:
        with Retriever.open(golden.root, encoder=Stored(wanted["vector"])) as retriever:
            hits = retriever.search(wanted["query"], as_of=wanted["as_of"], mode="dense")
        same(hits, wanted)


def test_words_find_what_they_found(golden):
    """The same, by the index of words; in a store that has none, by one in memory."""
    # Rows that are dead count in how rare a word is, and an index in memory has none.
    find_words(golden, scores=golden.number > 1)


def find_words(golden: Golden, *, scores: bool) -> None:
    """Search for words, and hold what is found against what was."""
    for wanted in FORMATS[-1].said["worded"]:
        with Retriever.open(golden.root) as retriever:
            hits = retriever.search(wanted["query"], 50, as_of=wanted["as_of"], mode="lexical")
            both = retriever.search(wanted["query"], 50, as_of=wanted["as_of"])
        same(hits, wanted, scores=scores)
        assert {hit.text for hit in hits} <= {hit.text for hit in both}


def same(hits: list[Hit], wanted: dict[str, Any], *, scores: bool = True) -> None:
    """The same texts in the same order, and the same scores."""
    found = [hashlib.sha256(hit.text.encode()).hexdigest() for hit in hits]
    assert found == [name for name, _ in wanted["hits"]]
    if scores:
        assert [h.score for h in hits] == pytest.approx([s for _, s in wanted["hits"]], abs=1e-4)


def test_it_verifies(golden, store):
    """Every byte, the index and the audit log are as they were, and the outcomes are readable."""
    assert verify(store, deep=True, index_check=index_problems).problems == ()
    audit = AuditLog(store.root)
    assert audit.verify(list(store.chain())[::-1]).problems == ()
    assert [entry.action for entry in audit.entries()] == golden.said["actions"]
    runs = [path.read_text("utf-8") for path in (store.root / "runs").glob("*")]
    lines = [line for run in runs for line in run.splitlines()]
    assert sorted(json.loads(line)["outcome"] for line in lines) == golden.said["outcomes"]


def test_the_command_line_reads_it(golden):
    """Every command that only looks does its work on it."""
    seq = str(golden.open[-2]["seq"])
    for words in (
        ["log"],
        ["diff", seq, "--text"],
        ["changes", seq],
        ["history", "handbook", "dyke"],
        ["sql", "from sources"],
        ["search", "boats", "--as-of", "reviewed"],
        ["search", "boats", "--mode", "lexical"],
        ["quarantine", "list"],
        ["tags"],
        ["audit", "--verify"],
        ["verify", "--deep"],
    ):
        code = "import sys; from headwater.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, *words, "--kb", str(golden.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout


@pytest.mark.parametrize(
    ("kind", "renewed"),
    [("vectors.arrow", True), ("tombstones.u32", False), *((kind, False) for kind in KINDS)],
)
def test_repair_heals_a_flipped_byte(copy, kind, renewed):
    """A derived object that went bad gets the very bytes it had, or is done without."""
    if copy.number < 2 and kind in KINDS:
        pytest.skip("it has no words")
    store = Store.open(copy.root / "store")
    needed = {entry.name for s in copy.open for entry in store.resolve(s["name"]).objects()}
    name = min(name for name in needed if name.endswith(kind))
    path = store.objects.root / name
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert not verify(Store.open(store.root), deep=True, index_check=index_problems).ok
    found = repair(load(copy.root), Store.open(store.root))
    assert dict(found.lost) == {}
    assert (found.healed, bool(found.renewed)) == (((), True) if renewed else ((name,), False))
    assert renewed or path.read_bytes() == good
    assert verify(Store.open(store.root), deep=True, index_check=index_problems).ok
    test_searches_find_what_they_found(copy)
    find_words(copy, scores=copy.number > 1 and not renewed)


def test_a_refresh_goes_on_from_it_and_embeds_only_what_is_new(copy):
    """Old texts, one that was live long ago and one that is new: one is embedded."""
    store = Store.open(copy.root / "store")
    current = run_sql(store, "select source, key, title, text from documents").to_pylist()
    long_ago = run_sql(store, "select text from documents where key = 'ferry'", as_of="1")
    records: dict[str, list[Record]] = {"handbook": [], "notices": []}
    for row in current:
        records[row["source"]].append(Record(row["key"], row["text"], title=row["title"]))
    (old,) = long_ago["text"].to_pylist()
    more = [Record("old", old), Record("new", "Nobody said this before.")]
    sources = {
        "handbook": MemorySource.of([*records["handbook"], *more], name="handbook"),
        "notices": MemorySource.of([], name="notices"),
    }
    report = refresh(load(copy.root), encoding=twin_encoding, sources=sources)
    assert (report.published, report.exit_code, report.embedded) == (True, 0, 1)
    store = Store.open(copy.root / "store")
    assert [m.seq for m in store.chain()][:2] == [copy.open[-1]["seq"] + 1, copy.open[-1]["seq"]]
    assert len(live(store, "current")) == len(copy.open[-1]["live"]) + 2
    assert verify(store, deep=True, index_check=index_problems).problems == ()
    assert AuditLog(store.root).verify(list(store.chain())[::-1]).ok
    for snapshot in copy.open:
        assert live(store, snapshot["name"]) == snapshot["live"]
    options = RefreshOptions(sources=("notices",), release=("notices",))
    sources = {"notices": MemorySource.of(records["notices"], name="notices")}
    assert refresh(load(copy.root), options, encoding=twin_encoding, sources=sources).published
    assert Store.open(copy.root / "store").resolve(None).sources["notices"].hold == ""


@pytest.mark.skipif(os.name != "posix", reason="the store is made for POSIX")
def test_git_keeps_its_bytes(made):
    """No attribute converts line ends, and no ignore rule leaves a file out."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("this is no checkout")
    paths = [str(path.relative_to(root)) for path in made.root.rglob("*") if path.is_file()]
    given = "\n".join(paths)

    def git(*words: str) -> list[str]:
        done = subprocess.run(
            ["git", *words, "--stdin"],
            cwd=root,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()

    assert git("check-ignore") == []
    assert [line for line in git("check-attr", "text") if not line.endswith(": text: unset")] == []


# --- the format after this one --------------------------------------------------------------------


def test_a_store_of_the_next_format_is_refused(copy):
    """The next FORMAT stops readers and refreshes, which touch nothing and say what to do."""
    (copy.root / "store" / "FORMAT").write_text(f'{{"format": {FORMAT + 1}, "hash": "sha256"}}\n')
    before = files(copy.root)
    for refused in (
        lambda: Store.open(copy.root / "store"),
        lambda: Retriever.open(copy.root),
        lambda: refresh(load(copy.root), encoding=twin_encoding),
    ):
        with pytest.raises(FormatError, match=f"has format {FORMAT + 1}") as caught:
            refused()
        assert caught.value.obj and "upgrade headwater" in caught.value.todo
    assert files(copy.root) == before


def test_a_manifest_of_the_next_format_is_refused(copy):
    """A snapshot that a newer headwater wrote into an old store is not guessed at."""
    store = copy.root / "store"
    raw = json.loads((store / "snapshots" / f"{copy.said['current']}.json").read_bytes())
    raw |= {
        "format": FORMAT + 1,
        "seq": raw["seq"] + 1,
        "parent": copy.said["current"],
        "from_the_future": 1,
    }
    data = (json.dumps(raw, sort_keys=True, indent=1) + "\n").encode()
    name = f"{raw['seq']:08d}-{hashlib.sha256(data).hexdigest()[:16]}"
    (store / "snapshots" / f"{name}.json").write_bytes(data)
    (store / "CURRENT").write_text(f"{name}\n")
    for refused in (
        lambda: Store.open(store).current(),
        lambda: Retriever.open(copy.root),
        lambda: refresh(load(copy.root), encoding=twin_encoding),
    ):
        with pytest.raises(FormatError, match=f"has format {FORMAT + 1}") as caught:
            refused()
        assert caught.value.obj == name and "upgrade headwater" in caught.value.todo
    assert live(Store.open(store), copy.said["current"]) == copy.open[-1]["live"]
