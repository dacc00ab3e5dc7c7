"""Every step that changes the store, one by one: killed before it, or refused by the disk."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import HeadwaterError, StorageUnavailableError
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.storage import files, merging
from headwater.storage.audit import AuditLog, AuditVerification

SOURCES = {"a": {"kind": "memory"}, "b": {"kind": "memory"}}
INDEX = {"graph_from": 6, "max_flat_segments": 2}
REFUSALS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
KILLED, REFUSED, WRONG, UNREACHED = 77, 78, 79, 80


def note(number: int, edition: int = 0) -> str:
    """A document of one chunk that no other number or edition has."""
    return f"Note {number}, edition {edition}. The pump of hall {number} feeds line {number * 7}."


BEFORE = {f"n{number}": note(number) for number in range(9)}
AFTER = {
    **{key: text for key, text in BEFORE.items() if key not in ("n0", "n1", "n2")},
    "n2": note(2, 1),
    "renamed": note(1),
    **{f"n{number}": note(number) for number in range(20, 27)},
}
EARLIER = {"first": (), "second": ("first",), "rollback": ("first", "second")}
SEQ = {"first": 1, "second": 2, "rollback": 3}
OPERATIONS = {"first": 80, "second": 80, "rollback": 10}
START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = {"first": BEFORE, "second": AFTER, "rollback": BEFORE}
MERGED = ("versions.parquet", "contents.parquet", "chunks.parquet")
"""Of what a refresh merges here, if two files are enough."""


def opened(texts: dict[str, str]) -> dict[str, Any]:
    """The two sources: what changes, and one that stays."""
    steady = [Record(key="s", text="The steady source says the same at every pull.")]
    moving = [Record(key=key, text=text) for key, text in texts.items()]
    return {"a": MemorySource.of(moving), "b": MemorySource.of(steady)}


def act(base: Any, what: str) -> int:
    """Do it; returns how many texts were embedded."""
    if what == "rollback":
        base.store.rollback("1", run_id="someone")
        return 0
    # A fixed knowledge time: equal states then consist of equal objects, to the byte.
    when = START + timedelta(days=SEQ[what])
    report = base.refresh(sources_open=opened(TEXTS[what]), observed_at=when)
    assert report.exit_code == 0
    return int(report.embedded)


class Fault:
    """Strikes before the operation with that number, once or from then on; counts them all."""

    def __init__(self, number: int, log: Path, strike: Callable[[], None], lasting: bool) -> None:
        self.number = number
        self.log = log
        self.strike = strike
        self.lasting = lasting
        self.seen = -1

    def __call__(self, operation: str, path: Path) -> None:
        self.seen += 1
        if self.seen == self.number:
            self.log.write_text(f"{operation} {path}")
            if operation == "library" and path.is_file():
                # What a library wrote and nobody synced may be half there.
                os.truncate(path, path.stat().st_size // 2)
            self.strike()
        if self.lasting and self.seen > self.number and operation != "lock":
            self.strike()


def refuse(number: int) -> Callable[[], None]:
    """The disk's refusal; another reason for each operation."""

    def strike() -> None:
        code = REFUSALS[number % len(REFUSALS)]
        raise OSError(code, os.strerror(code))

    return strike


def attempt(
    base: Any, what: str, number: int, *, kill: bool, log: Path, lasting: bool = False
) -> int:
    """Do it in a forked child with a fault; returns how that ended."""
    child = os.fork()
    if child == 0:
        end = WRONG
        try:
            strike = (lambda: os._exit(KILLED)) if kill else refuse(number)
            files.before = fault = Fault(number, log, strike, lasting)
            try:
                act(base, what)
                end = 0 if fault.seen >= number else UNREACHED
            except StorageUnavailableError:
                end = REFUSED
            finally:
                files.before = None
            drafts = base.root / "store" / "tmp"
            removing = log.read_text().startswith(("unlink", "rmdir"))
            if drafts.is_dir() and any(drafts.iterdir()) and not (removing or lasting):
                log.write_text(f"{log.read_text()}: drafts were left: {list(drafts.iterdir())}")
                end = WRONG
        except BaseException:  # noqa: BLE001
            log.write_text(f"{log.read_text()}\n{traceback.format_exc()}")
        finally:
            os._exit(end)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass(frozen=True)
class Walk:
    """A knowledge base just before `what`, and the objects of its snapshot before and after.

    `written`: all objects there are when it was done without a fault, but for embeddings.
    """

    base: Any
    what: str
    name: str | None
    before: set[str]
    after: set[str]
    written: set[str]


def needed(base: Any) -> set[str]:
    """The objects of the current snapshot."""
    manifest = base.store.current()
    return {entry.name for entry in manifest.objects()} if manifest else set()


def on_disk(base: Any) -> set[str]:
    """All objects but the embeddings."""
    kept = (e for e, _ in base.store.objects.listing() if e.kind != "embeddings.parquet")
    return {entry.name for entry in kept}


@pytest.fixture
def walk_of(make_base: Callable[..., Any]) -> Callable[[str], Walk]:
    """Prepares a walk, and does once without a fault what is then done with one."""

    def prepare(what: str) -> Walk:
        base = make_base(SOURCES, name="before", index=INDEX)
        for earlier in EARLIER[what]:
            act(base, earlier)
        name, before = None, set[str]()
        if what != "first":
            name, before = base.store.current_name(), needed(base)
        done = next(copies(make_base, base))
        act(done, what)
        assert done.live()["a"] == TEXTS[what] and done.verify().ok
        return Walk(base, what, name, before, needed(done), on_disk(done))

    return prepare


def copies(make_base: Callable[..., Any], template: Any) -> Iterator[Any]:
    """Fresh copies of a knowledge base, one after the other in the same place."""
    root = template.root.with_name("walked")
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template.root, root)
        yield make_base(SOURCES, name="walked", index=INDEX)


def total(what: str) -> int:
    """Distinct texts that have a vector once `what` is done; every document is one chunk."""
    later = set() if what == "first" else set(AFTER.values())
    return len(set(BEFORE.values()) | later) + 1


def check(base: Any, walk: Walk, where: str) -> None:
    """The store is on N or N+1 and whole, and what is done next completes it and no more."""
    moved, kept = False, 0
    if (base.root / "store" / "FORMAT").is_file():
        name, kept = base.store.current_name(), base.cached()
        moved = name != walk.name
        assert needed(base) == (walk.after if moved else walk.before), where
        found = base.verify()
        assert found.ok, (where, found.problems)
        problems = audited(base).problems
        assert all(p == f"{name} has no line" or "torn" in p for p in problems), where
    if walk.what == "rollback" and moved:
        # Another refresh would take the source's own state again; there is nothing left to do.
        embedded = 0
        base.store.recover()
    else:
        embedded = act(base, walk.what)
    if walk.what != "rollback":
        assert not list((base.root / "store" / "tmp").iterdir()), where
    assert embedded == total(walk.what) - kept, where
    assert base.cached() == total(walk.what), where
    assert needed(base) == walk.after, where
    # What the fault left unnamed, the rerun found again.
    assert on_disk(base) == walk.written, where
    assert base.store.current().seq == SEQ[walk.what], where
    log = audited(base)
    assert log.ok and log.entries == SEQ[walk.what], (where, log.problems)


def audited(base: Any) -> AuditVerification:
    """The audit log checked against the chain."""
    return AuditLog(base.store.root).verify(list(base.store.chain())[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "refused"])
@pytest.mark.parametrize("what", ["first", "second", "rollback"])
def test_no_step_can_harm_the_store(
    make_base: Callable[..., Any],
    walk_of: Callable[[str], Walk],
    tmp_path: Path,
    what: str,
    kill: bool,
) -> None:
    """Killed before any operation, or refused by the disk at it, nothing is lost or done twice."""
    assert taken(walk_of(what), make_base, tmp_path / "log", kill=kill) >= OPERATIONS[what]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "refused"])
def test_no_step_of_a_refresh_that_merges_can_harm_the_store(
    make_base: Callable[..., Any],
    walk_of: Callable[[str], Walk],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill: bool,
) -> None:
    """The files of history that were merged, or not yet: readers see one snapshot or the other."""
    monkeypatch.setattr(merging, "FAN_IN", 2)
    walk = walk_of("second")
    merged = [name for name in walk.after if name.endswith(MERGED)]
    assert len(merged) == len(MERGED) and walk.before.isdisjoint(merged)
    assert taken(walk, make_base, tmp_path / "log", kill=kill) >= OPERATIONS["second"] + 12


def taken(walk: Walk, make_base: Callable[..., Any], log: Path, *, kill: bool) -> int:
    """Strike before one operation after the other; returns how many there are."""
    what = walk.what
    for number, base in enumerate(copies(make_base, walk.base)):
        log.write_text("")
        end = attempt(base, what, number, kill=kill, log=log)
        where = f"{what}, operation {number}: {log.read_text()}"
        if end == UNREACHED:
            break
        # A page that cannot be written, or a draft that cannot be removed, spoils no publication.
        spoils_nothing = "/reports" in where or where.split()[3] in ("unlink", "rmdir")
        assert end == (KILLED if kill else REFUSED) or (not kill and spoils_nothing), (where, end)
        check(base, walk, where)
    return number


def test_a_disk_that_refuses_from_some_moment_on(
    make_base: Callable[..., Any], walk_of: Callable[[str], Walk], tmp_path: Path
) -> None:
    """Full or read-only to the end: the last snapshot is served, and the next run tidies up."""
    walk, log = walk_of("second"), tmp_path / "log"
    # Full, full, I/O error, read-only.
    for number, base in zip((0, 12, 41, 71), copies(make_base, walk.base), strict=False):
        log.write_text("")
        end = attempt(base, "second", number, kill=False, log=log, lasting=True)
        assert end == REFUSED, (number, log.read_text())
        assert base.store.current_name() == walk.name
        check(base, walk, f"from operation {number}: {log.read_text()}")


def test_a_graph_that_was_cut_off_in_silence_is_noticed(
    make_base: Callable[..., Any], walk_of: Callable[[str], Walk]
) -> None:
    """The library hnswlib does not report a full disk; the run does, and publishes nothing."""
    walk = walk_of("first")
    base = make_base(SOURCES, name="before", index=INDEX)

    def torn(operation: str, path: Path) -> None:
        if operation == "library" and path.name.endswith(".graph.hnsw"):
            os.truncate(path, path.stat().st_size // 2)

    files.before = torn
    try:
        with pytest.raises(StorageUnavailableError, match="graph"):
            act(base, "first")
    finally:
        files.before = None
    check(base, walk, "a torn graph")


def test_a_clock_that_was_moved_back(make_base: Callable[..., Any]) -> None:
    """Knowledge time still rises, and what was known when stays in order."""
    base = make_base(SOURCES)
    ahead = datetime.now(UTC) + timedelta(days=3)
    assert base.refresh(sources_open=opened(BEFORE), observed_at=ahead).published
    assert base.refresh(sources_open=opened(AFTER)).published
    base.store.rollback("1", run_id="someone")
    times = [manifest.time for manifest in base.store.chain()][::-1]
    assert times[0] == ahead and times == sorted(times) and times[0] < times[1]
    assert base.live("1")["a"] == BEFORE and base.live("2")["a"] == AFTER
    assert base.verify().ok


def racer(base: Any, source: str, text: str, out: Path) -> int:
    """Begin a refresh of one source in a forked child; it writes how that ended to `out`."""
    child = os.fork()
    if child == 0:
        try:
            known = base.live()[source] if base.store.current_name() else {}
            records = [Record(key=key, text=old) for key, old in {**known, text: text}.items()]
            end: dict[str, Any]
            try:
                report = base.refresh(
                    sources_open={source: MemorySource.of(records)}, sources=(source,)
                )
                end = {"published": report.published, "kind": report.sources[0].kind}
            except HeadwaterError as error:
                end = {"published": False, "kind": error.kind}
            out.write_text(json.dumps(end))
        except BaseException:  # noqa: BLE001
            out.write_text(traceback.format_exc())
        finally:
            os._exit(0)
    return child


@pytest.mark.slow
@pytest.mark.parametrize("same", [False, True], ids=["two-sources", "one-source"])
def test_writers_that_race(make_base: Callable[..., Any], tmp_path: Path, same: bool) -> None:
    """Fifty times in all, two processes at once: a change is published, or its run says why not."""
    base = make_base(SOURCES)
    act(base, "first")
    names = ("a", "a") if same else ("a", "b")
    for turn in range(25):
        seq = base.store.current().seq
        outs = [tmp_path / f"{turn}-{number}" for number in range(2)]
        texts = [f"Writer {number} speaks in turn {turn}." for number in range(2)]
        for child in [
            racer(base, *arguments) for arguments in zip(names, texts, outs, strict=True)
        ]:
            os.waitpid(child, 0)
        ends = [json.loads(out.read_text()) for out in outs]
        live = base.live()
        assert any(end["published"] for end in ends), (turn, ends)
        assert base.store.current().seq == seq + sum(end["published"] for end in ends)
        newest = range(seq + 1, base.store.current().seq + 1)
        history = {text for s in newest for found in base.live(str(s)).values() for text in found}
        for name, text, end in zip(names, texts, ends, strict=True):
            assert end["published"] or (same and end["kind"] in ("busy", "parent-moved")), ends
            # On one source, the later complete extract may rightly end what it did not list.
            assert (text in history) == end["published"], (turn, ends)
            assert same or text in live[name].values(), (turn, ends)
    found = base.verify()
    assert found.ok, found.problems
    assert audited(base).ok


CALLS = "openat,fsync,fdatasync,rename,renameat,renameat2"
_CALL = re.compile(r"\b(openat|fsync|fdatasync|rename(?:at2?)?)\((.*)")


def traced(base: Any, out: Path) -> list[tuple[str, str, str]]:
    """(call, path, second path) of a refresh as the kernel saw it; calls that failed are left out."""
    script = Path(__file__).with_name("killed_refresh.py")
    strace = ["strace", "-f", "-y", "-s", "500", "-e", f"trace={CALLS}", "-o", str(out)]
    command = [*strace, sys.executable, str(script), str(base.root), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("this machine does not let strace look at a process")
    assert done.returncode == 0, done.stderr
    calls = []
    for line in out.read_text("utf-8", "replace").splitlines():
        found = _CALL.search(line)
        if not found or " = -1 " in line:
            continue
        name, rest = found.groups()
        paths = re.findall(r'"([^"]*)"', rest)
        if name.endswith("sync"):
            handle = re.match(r"\d+<(.*?)>[ )]", rest)
            calls.append(("sync", handle[1] if handle else "", ""))
        elif name == "openat" and "O_CREAT" in rest and paths:
            calls.append(("create", paths[0], ""))
        elif name.startswith("rename") and len(paths) == 2:
            calls.append(("rename", paths[0], paths[1]))
    return calls


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_sees_each_name_only_after_its_bytes(base: Any, tmp_path: Path) -> None:
    """Every file is synced before its rename, its folder after, and all of that before CURRENT."""
    base.write("a.md", "# A\n\nThe pump feeds the hall.")
    root = base.root / "store"
    calls = traced(base, tmp_path / "calls")
    renames = [
        (at, Path(source), Path(target))
        for at, (name, source, target) in enumerate(calls)
        # What a library renames among its own drafts is no name yet.
        if name == "rename" and Path(target).is_relative_to(root)
        if not Path(target).is_relative_to(root / "tmp")
    ]
    targets = [target for _, _, target in renames]
    (current,) = [at for at, _, target in renames if target == root / "CURRENT"]
    for at, source, target in renames:
        synced = [i for i, call in enumerate(calls[:at]) if call == ("sync", str(source), "")]
        made = [i for i, call in enumerate(calls[:at]) if call == ("create", str(source), "")]
        assert made and synced and max(synced) > max(made), target
        folders = (
            {target.parent, root / "objects"} if "objects" in target.parts else {target.parent}
        )
        end = current if at < current else len(calls)
        for folder in folders:
            assert ("sync", str(folder), "") in calls[at:end], (target, folder)
    manifest = base.store.current()
    needed = [root / "objects" / entry.name for entry in manifest.objects()]
    needed += [root / "snapshots" / f"{manifest.name()}.json", root / "FORMAT"]
    assert {str(path) for path in needed} <= {str(target) for target in targets}
    lines = [path for name, path, _ in calls[current:] if name == "sync"]
    assert str(root / "audit.jsonl") in lines


def test_the_command_line_shows_and_checks_the_audit_log(base: Any) -> None:
    """`headwater audit` says who did what; --verify exits with 6 once a line was touched."""
    base.write("a.md", "# A\n\nThe pump feeds the hall.")
    assert base.refresh().published
    assert not base.refresh().published
    base.run("rollback", "1", "--hold", "docs", check=0)
    assert base.refresh(release=("docs",)).published
    newest, *rest = json.loads(base.run("audit", "--json", check=0).stdout)
    assert [entry["action"] for entry in (newest, *rest)] == ["refresh", "rollback", "refresh"]
    assert newest["detail"]["release"] == ["docs"] and rest[0]["detail"]["hold"] == ["docs"]
    assert len(json.loads(base.run("audit", "--json", "-n", "2", check=0).stdout)) == 2
    assert "hold docs" in base.run("audit", check=0).stdout
    assert json.loads(base.run("audit", "--verify", "--json", check=0).stdout)["entries"] == 3
    path = base.root / "store" / "audit.jsonl"
    path.write_text(path.read_text().replace('"rollback"', '"refresh"'))
    assert "line 2 was changed" in base.run("audit", "--verify", check=6).stdout
