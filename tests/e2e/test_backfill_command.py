"""`headwater backfill` as people run it: estimated, killed, started again, by times and by keys."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TWIN = Path(__file__).with_name("twin_headwater.py")
DAYS = 8
RANGE = ("--from", "2026-01-01", "--to", f"2026-01-0{DAYS + 1}", "--window", "1d")


@pytest.fixture
def base(make_base: Callable[..., Any]) -> Any:
    """A knowledge base over a table of a few days, forty rows each."""
    table = {"kind": "database", "dsn": "sqlite:///t.db", "table": "notes", "key": "id"}
    base = make_base(
        {"db": {**table, "text": "told", "updated_at": "at", "parallel_windows": 2}},
        embedding={"price_per_million_tokens": 4},
    )
    with sqlite3.connect(base.root / "t.db") as db:
        db.execute("create table notes (id integer primary key, told text, at text)")
        db.executemany(
            "insert into notes values (?, ?, ?)",
            [
                (n, f"Note {n} of the pump.", f"2026-01-0{1 + n // 40} {n % 24:02d}:00:00")
                for n in range(DAYS * 40)
            ],
        )
    db.close()
    return base


def test_an_estimate_then_the_backfill_and_nothing_left_to_do(base: Any) -> None:
    """The dry run has texts, tokens, time and money, and what it says is what is then embedded."""
    shell = base.run("backfill", "db", *RANGE, "--dry-run", check=0)
    assert "8 windows, 320 records: 320 new, 0 changed" in shell.stdout
    assert "320 texts to embed" in shell.stdout and "tokens/s (now)" in shell.stdout
    assert "at 4 per million tokens" in shell.stdout and "nothing was written" in shell.stdout
    told = json.loads(base.run("backfill", "db", *RANGE, "--dry-run", "--json").stdout)
    assert told["price"]["texts"] == 320 and told["price"]["money"] > 0
    few = json.loads(
        base.run("backfill", "db", *RANGE, "--dry-run", "--sample", "2", "--json").stdout
    )
    assert (few["read"], few["windows"], few["price"]["texts"]) == (2, 8, 320)
    shell = base.run("backfill", "db", *RANGE, "--parallel", "2", check=0)
    assert "1/8 2026-01-01 00:00 to 2026-01-02 00:00: 40 records, about" in shell.stdout
    assert len(base.live()["db"]) == 320 and base.cached() == 320
    shell = base.run("backfill", "db", *RANGE, "--publish", "end", "--json", check=0)
    steps = json.loads(shell.stdout)
    assert [step["report"] is not None for step in steps] == [False] * 8 + [True]
    assert not steps[-1]["report"]["published"]


def test_a_range_of_keys_and_ranges_that_make_no_sense(base: Any) -> None:
    """Keys are cut by number; half a range, two ranges and none are refused."""
    shell = base.run(
        *("backfill", "db", "--from-key", "100", "--to-key", "130", "--keys", "20"), check=0
    )
    assert "1/2 keys 100 to 120: 20 records" in shell.stdout
    assert sorted(map(int, base.live()["db"])) == list(range(100, 130))
    for wrong in (("--from", "2026-01-01"), (), (*RANGE, "--from-key", "1")):
        shell = base.run("backfill", "db", *wrong, check=2)
        assert "->" in shell.stderr
    assert base.run("backfill", "nobody", *RANGE, check=9)


@pytest.mark.slow
@pytest.mark.parametrize("publish", ["window", "end"])
def test_a_backfill_that_is_killed_outright_is_simply_started_again(
    base: Any, publish: str
) -> None:
    """After SIGKILL, whenever, the same command ends with everything, each text embedded once."""
    command = [sys.executable, str(TWIN), "backfill", "db", *RANGE, "--publish", publish]
    for patience in (1.2, 1.8, 2.4):
        running = subprocess.Popen(
            [*command, "--rate", "60"],
            cwd=base.root,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(patience)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=30)
    shell = base.run("backfill", "db", *RANGE, "--publish", publish, check=0)
    assert len(base.live()["db"]) == 320, shell.stdout
    assert base.cached() == 320
    assert base.verify().ok
    assert not list((base.root / ".headwater" / "backfills").rglob("*.arrow"))
