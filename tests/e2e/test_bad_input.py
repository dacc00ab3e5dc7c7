"""Bad input, a bad machine, a bad configuration: a clear message, nothing lost, no traceback."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headwater.cli import main
from headwater.config import load
from headwater.errors import (
    BusyError,
    ConfigError,
    FormatError,
    HeadwaterError,
    ModelError,
    StorageUnavailableError,
    StoreError,
)
from headwater.flows.encoding import open_encoding
from headwater.flows.held import refusals
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.storage.claims import claimed
from headwater.storage.manifest import FORMAT
from headwater.storage.retired import write_retired
from headwater.storage.runlog import RunLog
from headwater.storage.store import Store
from headwater.storage.tags import set_tag


def two_notes(base: Any) -> None:
    """Publish two documents."""
    base.write("pumps.md", "# Pumps\n\nThe pump is in hall three.")
    base.write("valves.md", "# Valves\n\nThe valve is in hall four.")
    assert base.refresh().exit_code == 0


def quarantined(base: Any) -> dict[str, str]:
    """Key -> reason of what is held back."""
    rows = refusals(base.store.objects, base.store.resolve(None))
    return {row["key"]: row["reason"] for row in rows}


def three_parts(error: HeadwaterError) -> tuple[str, str, str]:
    """What failed, which, and what to do: none of them empty."""
    assert error.what and error.obj and error.todo, repr(str(error))
    return error.what, error.obj, error.todo


# --- documents -------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_forbidden_file_is_named_and_its_last_version_served(base: Any) -> None:
    """A file that may not be read goes to quarantine; what it held stays served."""
    two_notes(base)
    path = base.write("pumps.md", "# Pumps\n\nSomething new.")
    path.chmod(0)
    assert base.refresh().exit_code == 0
    assert "cannot be read" in quarantined(base)["pumps.md"]
    assert "hall three" in base.live()["docs"]["pumps.md"]


@pytest.mark.parametrize("data", [b"# Pumps\n\nk\xfchl \xff\xfe\x00", b"\x00" * 400, b"  \n"])
def test_bytes_that_are_no_text_are_named_and_the_last_version_served(
    base: Any, data: bytes
) -> None:
    """A file of invalid bytes goes to quarantine with its key; its last version stays served."""
    two_notes(base)
    (base.root / "docs" / "pumps.md").write_bytes(data)
    base.write("valves.md", "# Valves\n\nThe valve has moved.")
    shell = base.run("refresh", "--json", check=0)
    (source,) = json.loads(shell.stdout)["sources"]
    assert (source["source"], source["refused"], source["changed"]) == ("docs", 1, 1)
    assert list(quarantined(base)) == ["pumps.md"]
    assert quarantined(base)["pumps.md"]
    assert base.live()["docs"] == {
        "pumps.md": "# Pumps\n\nThe pump is in hall three.",
        "valves.md": "# Valves\n\nThe valve has moved.",
    }
    before = base.published()
    assert not base.refresh().published
    assert base.published() == before


def test_the_wrong_encoding_is_told_and_the_right_one_heals(base: Any) -> None:
    """A cp1252 file read as UTF-8 is refused; naming the encoding in headwater.yaml lets it in."""
    two_notes(base)
    base.configure({"docs": {"kind": "documents", "root": "docs", "encoding": "utf-8"}})
    (base.root / "docs" / "german.md").write_bytes(
        "# Kühlung\n\nDie Kühlung läuft.".encode("cp1252")
    )
    assert base.refresh().exit_code == 0
    assert "german.md" in quarantined(base)
    assert "german.md" not in base.live()["docs"]
    base.configure({"docs": {"kind": "documents", "root": "docs", "encoding": "cp1252"}})
    assert base.refresh().exit_code == 0
    assert quarantined(base) == {}
    assert base.live()["docs"]["german.md"] == "# Kühlung\n\nDie Kühlung läuft."


def test_a_missing_folder_fails_its_source_and_keeps_its_state(base: Any) -> None:
    """A folder that is gone is an unreachable source and no deletion."""
    two_notes(base)
    (base.root / "docs").rename(base.root / "elsewhere")
    before = base.published()
    shell = base.run("refresh", "--json", check=8)
    (source,) = json.loads(shell.stdout)["sources"]
    assert (source["outcome"], source["kind"]) == ("failed", "source-unreachable")
    assert "docs" in source["note"] and "->" in source["note"]
    assert base.published() == before
    assert len(base.found("pump")) == 2


def test_an_emptied_folder_is_not_believed_until_a_person_says_so(base: Any) -> None:
    """An empty listing withholds every deletion; approve-deletes lets them go, up to its ceiling."""
    two_notes(base)
    for path in (base.root / "docs").iterdir():
        path.unlink()
    shell = base.run("refresh", check=4)
    assert "2 deletions wait" in shell.stdout
    assert "headwater approve-deletes docs" in shell.stdout
    assert len(base.live()["docs"]) == 2
    base.run("approve-deletes", "docs", "--at-most", "1", check=4)
    assert len(base.live()["docs"]) == 2
    base.run("approve-deletes", "docs", check=0)
    assert base.live()["docs"] == {}
    assert base.found("pump") == []
    shell = base.run("approve-deletes", "docs", "--json", check=9)
    assert json.loads(shell.stdout)["error"] == "not-found"


def test_an_approval_is_a_ceiling(base: Any) -> None:
    """When more is missing than was withheld, the approval does not cover it."""
    for number in range(30):
        base.write(f"note{number}.md", f"# Note {number}\n\nThe pump says {number}.")
    assert base.refresh().exit_code == 0
    for number in range(15):
        (base.root / "docs" / f"note{number}.md").unlink()
    assert base.refresh().exit_code == 4
    for number in range(15, 18):
        (base.root / "docs" / f"note{number}.md").unlink()
    shell = base.run("approve-deletes", "docs", check=4)
    assert "18 of 30 are missing" in shell.stdout
    assert "the approval for 15 does not cover them" in shell.stdout
    assert len(base.live()["docs"]) == 30
    base.run("approve-deletes", "docs", check=0)
    assert len(base.live()["docs"]) == 12


# --- databases, APIs, plug-ins ---------------------------------------------------------------------


@pytest.fixture
def articles(make_base: Callable[..., Any]) -> Any:
    """A knowledge base over a published SQLite table of three rows."""
    made = make_base(
        {"db": {"kind": "database", "dsn": "sqlite:///app.db", "table": "articles", "key": "id"}}
    )
    change(made, "CREATE TABLE articles (id INTEGER, body TEXT)")
    change(made, "INSERT INTO articles VALUES (1, 'one pump'), (2, 'two valves'), (3, 'three')")
    assert made.refresh().exit_code == 0
    return made


def change(base: Any, *statements: str) -> None:
    """Run statements on the SQLite file."""
    connection = sqlite3.connect(base.root / "app.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_missing_column_names_those_that_exist(articles: Any) -> None:
    """A key column that was renamed fails the source, which keeps its last state."""
    change(articles, "ALTER TABLE articles RENAME COLUMN id TO number")
    before = articles.published()
    shell = articles.run("refresh", "--json", check=8)
    (source,) = json.loads(shell.stdout)["sources"]
    assert (source["outcome"], source["kind"], source["live"]) == ("failed", "source-data", 3)
    assert "id" in source["note"] and "number, body" in source["note"]
    assert articles.published() == before


def test_a_duplicate_key_holds_the_last_version(articles: Any) -> None:
    """Two rows under one key are both refused, with the key; the version before stays served."""
    change(articles, "INSERT INTO articles VALUES (1, 'another pump'), (4, 'four')")
    report = articles.refresh()
    assert report.exit_code == 0
    assert "more than one record" in quarantined(articles)["1"]
    live = articles.live()["db"]
    assert sorted(live) == ["1", "2", "3", "4"]
    assert "one pump" in live["1"] and "another" not in live["1"]
    change(articles, "DELETE FROM articles WHERE body = 'one pump'")
    assert articles.refresh().exit_code == 0
    assert quarantined(articles) == {}
    assert "another pump" in articles.live()["db"]["1"]


def test_a_closed_port_fails_in_words(make_base: Callable[..., Any]) -> None:
    """An API that nobody serves is a failed source: no traceback, exit code 8, a store that opens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/items"
    api = {"kind": "api", "url": url, "key": "id", "deadline": "2s", "timeout": "1s"}
    api |= {"allow_private": True}
    base = make_base({"api": api})
    shell = base.run("refresh", "--json", check=8)
    (source,) = json.loads(shell.stdout)["sources"]
    assert (source["outcome"], source["kind"]) == ("failed", "source-unreachable")
    assert str(port) in source["note"] and "->" in source["note"]
    assert shell.stderr == ""
    shell = base.run("search", "pump", check=9)
    assert "Nothing is published yet" in shell.stderr


def test_a_plug_in_that_raises_takes_nothing_along(make_base: Callable[..., Any]) -> None:
    """Whatever a source of another package raises, the other sources are published."""

    class Broken(MemorySource):
        def pull(self, request: Any) -> Any:
            yield from ()
            raise RuntimeError("the wiki is on fire")

    sources = {name: {"kind": "memory"} for name in ("good", "wiki")}
    base = make_base(sources)
    opened = {
        "good": MemorySource.of([Record(key="a", text="a pump")], name="good"),
        "wiki": Broken.of([], name="wiki"),
    }
    report = base.refresh(sources_open=opened)
    assert report.exit_code == 3
    wiki = next(s for s in report.sources if s.source == "wiki")
    assert "RuntimeError" in wiki.note and "on fire" in wiki.note
    assert base.live()["good"] == {"a": "a pump"}


def test_records_without_a_key_or_a_text_are_named(make_base: Callable[..., Any]) -> None:
    """A record without a key is quarantined under the place where it stood."""
    base = make_base({"memory": {"kind": "memory"}})
    records = [Record(key="a", text="a pump"), Record(key=None, text="lost"), Record(key="c")]
    report = base.refresh(sources_open={"memory": MemorySource.of(records, name="memory")})
    assert report.exit_code == 0
    held = quarantined(base)
    assert "(no key, row 2)" in held and "c" in held
    assert base.live()["memory"] == {"a": "a pump"}


# --- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nsources:\n  docs: {kind: documents, rot: docs}\n", "headwater.yaml:3"),
        (
            "name: x\nsources:\n  docs:\n    kind: documents\n    rooot: docs\n",
            "did you mean 'root'",
        ),
        ("name: x\nsources:\n  docs: {kind: documents\n", "headwater.yaml:"),
        ("name: x\nsource: {}\n", "headwater.yaml:2"),
        ("", "headwater.yaml"),
        (
            "name: x\nsources:\n  d: {kind: database, dsn: 'sqlite:///a', key: id}\n",
            "'table' and 'query'",
        ),
    ],
)
def test_a_typo_names_the_line(base: Any, text: str, told: str) -> None:
    """A wrong headwater.yaml ends with exit code 2 and says where."""
    (base.root / "headwater.yaml").write_text(text)
    shell = base.run("refresh", check=2)
    assert told in shell.stderr
    assert "->" in shell.stderr
    assert not (base.root / "store").exists()


def test_a_wrong_suite_names_the_expectation(base: Any) -> None:
    """An expectation that does not exist fails its source with exit code 2 and publishes nothing."""
    base.suite("docs", '{"rows": [{"type": "expect_column_values_to_be_wet", "kwargs": {}}]}')
    base.write("pumps.md", "# Pumps\n\nA pump.")
    shell = base.run("refresh", check=2)
    assert "expect_column_values_to_be_wet" in shell.stdout
    assert "did you mean" in shell.stdout
    assert base.store.current_name() is None


def test_usage_errors_have_exit_code_2(base: Any) -> None:
    """An unknown option, an unknown time and a key without a source are usage errors."""
    base.run("refresh", "--nonsense", check=2)
    base.run("status", "--now", "yesterday-ish", check=2)
    base.run("refresh", "--key", "pumps.md", check=2)
    base.run("refresh", "--source", "nobody", check=9)


# --- the model -------------------------------------------------------------------------------------


def test_an_unknown_model_is_told(base: Any) -> None:
    """A model that cannot be found is exit code 10; nothing is published."""
    base.configure({"docs": {"kind": "documents", "root": "docs"}}, model="./no-such-model")
    base.write("pumps.md", "# Pumps\n\nA pump.")
    shell = base.run("refresh", twin=False, check=10)
    assert "no-such-model" in shell.stderr and "->" in shell.stderr
    assert base.store.current_name() is None


def test_another_model_is_refused_without_new_model(base: Any) -> None:
    """A store keeps to the model it was built with until a person asks for a new index."""
    two_notes(base)
    before = base.published()
    base.write("pumps.md", "# Pumps\n\nA new pump.")
    base.configure({"docs": {"kind": "documents", "root": "docs"}}, model="another/model")
    with pytest.raises(ModelError) as caught:
        refresh(load(base.root), encoding=open_encoding)
    _, obj, todo = three_parts(caught.value)
    assert "another/model" in obj and "all-MiniLM-L6-v2" in obj and "--new-model" in todo
    assert caught.value.exit_code == 10
    base.run("refresh", twin=False, check=10)
    assert base.published()[1] == before[1]
    assert "hall three" in base.found("pump in hall three")[0]


# --- the machine -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "headwater-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def cramped(make_base: Callable[..., Any], small_disk: Path, tmp_path: Path) -> Any:
    """A knowledge base on the small disk; its documents lie elsewhere."""
    made = make_base(name="disk")
    assert made.root == small_disk
    (made.root / "docs").rmdir()
    (tmp_path / "documents").mkdir()
    (made.root / "docs").symlink_to(tmp_path / "documents")
    two_notes(made)
    return made


def test_a_full_disk_leaves_the_last_snapshot_served(cramped: Any) -> None:
    """A disk that fills up stops the refresh in words; with space again it goes through."""
    before = cramped.published()
    for number in range(40):
        cramped.write(f"big{number}.md", f"# Big {number}\n\n" + os.urandom(40_000).hex())
    shell = cramped.run("refresh", check=10)
    assert "The disk is full" in shell.stderr
    assert "->" in shell.stderr and "untouched" in shell.stderr
    assert cramped.published()[1] == before[1]
    assert len(cramped.found("pump")) == 2
    with pytest.raises(StorageUnavailableError) as caught:
        cramped.refresh()
    three_parts(caught.value)
    assert cramped.verify().ok
    for number in range(2, 40):
        (cramped.root / "docs" / f"big{number}.md").unlink()
    (cramped.root / "docs" / "big0.md").write_text("# Big 0\n\nNow it is small.")
    (cramped.root / "docs" / "big1.md").write_text("# Big 1\n\nNow it is small, too.")
    assert cramped.refresh().exit_code == 0
    assert len(cramped.live()["docs"]) == 4
    assert cramped.verify().ok


def test_a_disk_that_was_full_recovers_with_the_same_input(cramped: Any) -> None:
    """Once somebody frees space, the very same refresh succeeds."""
    small_disk = cramped.root
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(b"\0" * (free - 8192))
    cramped.write("pumps.md", "# Pumps\n\n" + os.urandom(20_000).hex())
    with pytest.raises(StorageUnavailableError):
        cramped.refresh()
    assert "hall three" in cramped.live()["docs"]["pumps.md"]
    ballast.unlink()
    assert cramped.refresh().exit_code == 0
    assert "hall three" not in cramped.live()["docs"]["pumps.md"]
    assert cramped.verify().ok


def test_a_second_refresh_at_the_same_time_is_turned_away(base: Any) -> None:
    """While a run holds a source, another one reports it as busy, with exit code 7."""
    two_notes(base)
    base.write("pumps.md", "# Pumps\n\nThe pump is new.")
    before = base.published()
    with claimed(base.root / "store", "docs", run_id="another-run"):
        shell = base.run("refresh", "--json", check=7)
    (source,) = json.loads(shell.stdout)["sources"]
    assert (source["outcome"], source["kind"]) == ("busy", "busy")
    assert "another-run" in source["note"]
    assert base.published() == before
    assert base.refresh().exit_code == 0
    assert "new" in base.live()["docs"]["pumps.md"]


def test_a_run_that_was_overtaken_cannot_publish(base: Any) -> None:
    """A claim that somebody took over is refused at the last step."""
    two_notes(base)
    store = base.store
    with claimed(store.root, "docs", run_id="first") as first:
        (store.root / "claims" / "docs.json").write_text('{"token": 99, "run_id": "second"}')
        with pytest.raises(BusyError):
            store.publish(store.current_name(), claims=(first,))


# --- the store -------------------------------------------------------------------------------------


def test_a_newer_store_is_refused(base: Any) -> None:
    """A store that a newer headwater wrote is neither read nor written."""
    two_notes(base)
    stamp = {"format": FORMAT + 1, "hash": "sha256"}
    (base.root / "store" / "FORMAT").write_text(json.dumps(stamp))
    before = base.published()
    for command in (["refresh"], ["search", "pump"]):
        shell = base.run(*command, check=6)
        assert f"format {FORMAT + 1}" in shell.stderr and "upgrade headwater" in shell.stderr
    with pytest.raises(FormatError) as caught:
        Store.open(base.root / "store")
    three_parts(caught.value)
    assert base.published() == before


LOOKING = (
    ["log"],
    ["diff", "1"],
    ["changes", "1"],
    ["history", "docs", "pumps.md"],
    ["sql", "from documents"],
    ["verify"],
    ["tags"],
    ["audit"],
    ["rollback", "1"],
)


Told = Callable[..., tuple[str, str]]


@pytest.fixture
def told(base: Any, capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs a command line that fails: what failed and what to do, exactly one error."""

    def told(*words: str, check: int) -> tuple[str, str]:
        kb = [] if "--kb" in words else ["--kb", str(base.root)]
        code = main([*words, *kb])
        out, err = capsys.readouterr()
        what, _, todo = err.strip().partition("\n  -> ")
        assert (code, out) == (check, ""), (words, err)
        assert what.startswith("headwater: ") and todo, err
        return what, todo

    return told


def test_a_folder_that_is_no_knowledge_base_is_told(told: Told, tmp_path: Path) -> None:
    """Every command that looks names the folder, and what to do, and makes nothing."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for words in LOOKING:
        what, todo = told(*words, "--kb", str(folder), check=9)
        assert "elsewhere" in what and "headwater refresh" in todo
        assert words[0] == "sql" or ("--kb" in todo and "headwater init" in todo)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_no_store_is_told(base: Any, told: Told) -> None:
    """A folder called store without FORMAT is refused, and left as it is."""
    (base.root / "store").mkdir()
    (base.root / "store" / "holiday.txt").write_text("not mine")
    for words in LOOKING:
        what, todo = told(*words, check=9)
        assert "no store" in what and "headwater refresh" in todo
    assert [path.name for path in (base.root / "store").iterdir()] == ["holiday.txt"]


def test_a_snapshot_that_cannot_be_opened_is_told(base: Any, told: Told) -> None:
    """Unknown, too early or expired: every command that takes a snapshot says so and what to do."""
    two_notes(base)
    base.write("pumps.md", "# Pumps\n\nThe pump has moved.")
    assert base.refresh().exit_code == 0
    set_tag(base.store, "reviewed")
    first = base.store.resolve("1").name()
    write_retired(base.store.root, [first], now=datetime.now(UTC))
    before = base.published(), base.listing("tags", "runs", "audit.jsonl")
    for ref, what, todo in (
        ("golden", "golden", "reviewed"),
        ("2020-01-01", "Nothing was published by then", "headwater log"),
        ("77", "No such snapshot", "headwater log"),
        ("00000077-0123456789abcdef", "No such snapshot", "headwater log"),
        ("next tuesday", "no time", "headwater log"),
        ("1", "expired by retention", "the nearest that are kept"),
    ):
        for words in (
            ["diff", ref],
            ["diff", "2", ref],
            ["changes", ref],
            ["sql", "from documents", "--as-of", ref],
            ["search", "pump", "--as-of", ref],
            ["rollback", ref],
            ["tag", "late", ref],
        ):
            found = told(*words, check=9)
            assert what in found[0] and todo in found[1], words
    assert (base.published(), base.listing("tags", "runs", "audit.jsonl")) == before


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("", ["refresh"]),
        ("rubbish\n", ["search", "pump"]),
        ("../../etc/passwd\n", ["verify", "--deep"]),
    ],
)
def test_a_damaged_current_is_named(base: Any, text: str, command: list[str]) -> None:
    """A CURRENT that names no snapshot stops everything with exit code 6, and says what to do."""
    two_notes(base)
    good = (base.root / "store" / "CURRENT").read_text()
    (base.root / "store" / "CURRENT").write_text(text)
    base.write("pumps.md", "# Pumps\n\nA new pump.")
    shell = base.run(*command, check=6)
    assert "CURRENT is damaged" in shell.stderr + shell.stdout
    with pytest.raises(StoreError) as caught:
        base.store.current()
    three_parts(caught.value)
    (base.root / "store" / "CURRENT").write_text(good)
    assert base.refresh().exit_code == 0
    assert base.verify().ok


def test_a_current_that_names_a_snapshot_that_is_not_there(base: Any) -> None:
    """A snapshot that is gone is told as such, and readers that are open go on."""
    two_notes(base)
    with Retriever.open(base.root) as retriever:
        (base.root / "store" / "CURRENT").write_text("00000009-0123456789abcdef\n")
        assert len(retriever.search("pump")) == 2
    shell = base.run("search", "pump")
    assert shell.returncode in (6, 9)
    assert "00000009-0123456789abcdef" in shell.stderr


def test_a_damaged_object_is_found_and_never_parsed(base: Any) -> None:
    """A flipped byte in an object is refused by name: exit code 6."""
    two_notes(base)
    manifest = base.store.current()
    entry = manifest.segments[0].vectors
    path = base.root / "store" / "objects" / entry.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for command in (["verify", "--deep"], ["search", "pump"]):
        shell = base.run(*command, check=6)
        assert entry.sha256 in shell.stdout + shell.stderr


def test_keys_and_windows_need_one_source(base: Any) -> None:
    """Asking for keys without naming a source is a configuration error before anything is pulled."""
    with pytest.raises(ConfigError):
        refresh(base.kb, RefreshOptions(keys=("a",)))
    assert not (base.root / "store").exists()


def test_a_report_that_cannot_be_written_spoils_nothing(base: Any) -> None:
    """What was published stays published, and is remembered as verified, without its HTML page."""
    (base.root / "reports").write_text("a file where the folder of reports should be")
    base.write("pumps.md", "# Pumps\n\nThe pump is in hall three.")
    report = base.refresh()
    assert (report.published, report.exit_code, report.report) == (True, 0, "")
    assert RunLog(base.store.root).last(["docs"])["docs"].outcome == "verified"
    assert base.found("pump") == ["# Pumps\n\nThe pump is in hall three."]


def test_a_store_on_another_disk_is_a_store(base: Any, small_disk: Path) -> None:
    """The folder `store` may be a mount or a link to one: every file finds its way there."""
    (base.root / "store").symlink_to(small_disk)
    base.write("pumps.md", "# Pumps\n\nThe pump is in hall three.")
    report = base.refresh()
    assert (report.published, report.exit_code) == (True, 0)
    assert (base.root / report.report).is_file()
    assert base.verify().ok


def test_no_damaged_object_is_ever_believed(base: Any) -> None:
    """Whichever object is damaged, a search or a refresh is right or refused by name: exit code 6."""
    two_notes(base)
    base.write("gauges.md", "# Gauges\n\nThe gauge is in hall five.")
    (base.root / "docs" / "valves.md").unlink()
    base.refresh()
    right = sorted(base.found("pump"))
    manifest = base.store.current()
    cached = [e for e, _ in base.store.objects.listing() if e.kind == "embeddings.parquet"]
    base.write("pumps.md", "# Pumps\n\nThe pump is in hall six.")
    refused = 0
    for entry in (*manifest.objects(), *cached):
        path = base.root / "store" / "objects" / entry.name
        data = path.read_bytes()
        path.write_bytes(
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        )
        problems = base.verify().problems
        assert any(entry.sha256 in problem for problem in problems), entry
        for action in (lambda: sorted(base.found("pump")), lambda: base.refresh(dry_run=True)):
            try:
                found = action()
                assert found == right or (found.embedded, found.exit_code) == (1, 0), entry
            except HeadwaterError as error:
                assert error.exit_code == 6, (entry, error)
                assert entry.sha256 in str(error)
                refused += 1
        path.write_bytes(data)
    assert refused >= 8
    assert base.refresh().embedded == 1
    assert base.verify().ok


def test_a_damaged_cache_costs_only_its_vectors(base: Any) -> None:
    """Vectors that cannot be read are made again; the refresh goes through."""
    two_notes(base)
    (cached,) = [p for e, p in base.store.objects.listing() if e.kind == "embeddings.parquet"]
    cached.write_bytes(cached.read_bytes()[:100])
    base.write("pumps.md", "# Pumps\n\nThe pump is in hall six.")
    report = base.refresh()
    assert (report.exit_code, report.published) == (0, True)
    assert report.embedded <= 2
    assert "hall six" in base.found("pump in hall six")[0]
    assert cached.name in "".join(base.verify().problems)
