"""A refresh that is killed outright, at any moment, costs nothing but its own time."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLED = Path(__file__).with_name("killed_refresh.py")
DOCUMENTS = 150
KILLS = 20


def start(root: Path, pause_s: float = 0.0, *die_at: str) -> subprocess.Popen[str]:
    """Begin a refresh in a process of its own; it says `begin` once everything is imported."""
    command = [sys.executable, str(KILLED), str(root), str(pause_s), *die_at]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    return process


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for it and read its report; empty when it was killed before."""
    out, error = process.communicate(timeout=120)
    assert "Traceback" not in error, error
    return json.loads(out.splitlines()[-1]) if process.returncode == 0 else {}


def fill(base: Any, generation: int, documents: int = DOCUMENTS) -> dict[str, str]:
    """Documents, all of them new to the store in each generation."""
    texts = {}
    for number in range(documents):
        body = "\n\n".join(
            f"## Part {part}\n\nGeneration {generation} of note {number} says {part * number}."
            + " The pump feeds the hall." * 20
            for part in range(3)
        )
        key = f"note{number:03d}.md"
        texts[key] = f"# Note {number}\n\n{body}"
        base.write(key, texts[key])
    return texts


def generation(text: str) -> int:
    """Which generation a text is of."""
    found = re.search(r"Generation (\d+)", text)
    assert found
    return int(found[1])


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(make_base: Callable[..., Any]) -> None:
    """After SIGKILL the store is on snapshot N or N+1 and whole, and no vector is made twice."""
    base = make_base()
    fill(base, 0)
    process = start(base.root)
    began = time.monotonic()
    first = end(process)
    lasted = time.monotonic() - began
    base.oracle.new(base.pulled("docs").values())
    assert first["embedded"] == base.cached() == len(base.oracle.seen)
    rng = random.Random(20)
    # One moment in each twentieth of the run, in any order.
    moments = [(part + rng.random()) / KILLS * lasted for part in range(KILLS)]
    rng.shuffle(moments)
    interrupted = 0
    for kill, moment in enumerate(moments, 1):
        texts = fill(base, kill)
        before = base.store.current_name()
        process = start(base.root)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        done = end(process)
        interrupted += not done
        after = base.store.current()
        assert after is not None
        assert before in (after.name(), after.parent), f"kill {kill}"
        served = {generation(text) for text in base.live()["docs"].values()}
        assert served == {kill if after.name() != before else kill - 1}, f"kill {kill}"
        found = base.verify()
        assert found.ok, f"kill {kill}: {found.problems}"
        base.oracle.new(texts.values())
        kept = base.cached()
        report = base.refresh()
        assert report.exit_code == 0, f"kill {kill}"
        assert report.embedded == len(base.oracle.seen) - kept, f"kill {kill}"
        assert base.cached() == len(base.oracle.seen), f"kill {kill}: a text has two vectors"
        assert base.live()["docs"] == texts, f"kill {kill}"
        assert not list((base.root / "store" / "tmp").glob("run-*")), f"kill {kill}"
    assert interrupted >= KILLS // 4
    found = base.verify()
    assert found.ok, found.problems


@pytest.mark.slow
def test_a_kill_at_every_rename_loses_nothing(base: Any) -> None:
    """Around each step that changes the store, a kill leaves a whole snapshot behind."""
    fill(base, 0, 3)
    assert base.refresh().exit_code == 0
    base.oracle.new(base.pulled("docs").values())
    states = []
    for number in range(1, 40):
        texts = fill(base, number, 3)
        base.oracle.new(texts.values())
        before = base.store.current_name()
        when = "before" if number % 2 else "after"
        done = end(start(base.root, 0.0, str(number), when))
        after = base.store.current()
        assert after is not None
        assert before in (after.name(), after.parent), number
        assert base.live()["docs"] == texts or after.name() == before, number
        found = base.verify()
        assert found.ok, f"{number}: {found.problems}"
        kept = base.cached()
        report = base.refresh()
        assert (report.exit_code, report.embedded) == (0, len(base.oracle.seen) - kept), number
        assert base.live()["docs"] == texts, number
        if done:
            break
        states.append((after.name() != before, kept < len(base.oracle.seen)))
    assert done, "the refresh never got to its end"
    # Killed before there were vectors, with them but before CURRENT moved, and after it moved.
    assert set(states) == {(False, True), (False, False), (True, False)}


def test_vectors_made_before_a_kill_are_kept(base: Any) -> None:
    """Killed half-way through a slow embedding, the next run embeds only the other half."""
    fill(base, 0)
    base.oracle.new(base.pulled("docs").values())
    total = len(base.oracle.seen)
    process = start(base.root, pause_s=0.5)
    deadline = time.monotonic() + 60
    while not (base.root / "store" / "FORMAT").is_file() or base.cached() < 256:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert end(process) == {}
    assert base.store.current_name() is None
    kept = base.cached()
    assert 256 <= kept < total
    report = base.refresh()
    assert (report.exit_code, report.embedded) == (0, total - kept)
    assert base.cached() == total
    assert base.verify().ok


def test_two_refreshes_at_the_same_time(base: Any) -> None:
    """The second is told who is at work, with exit code 7; the first publishes as if alone."""
    texts = fill(base, 0)
    process = start(base.root, 0.5)
    deadline = time.monotonic() + 60
    while not (base.root / "store" / "claims" / "docs.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shell = base.run("refresh", "--json", check=7)
    (source,) = json.loads(shell.stdout)["sources"]
    assert (source["outcome"], source["kind"]) == ("busy", "busy")
    assert str(process.pid) in source["note"]
    assert end(process)["snapshot"] == base.store.current_name()
    assert base.live()["docs"] == texts
    assert base.verify().ok
