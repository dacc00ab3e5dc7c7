"""`headwater erase`, `erasures` and `readmit`, as a person at a terminal or a script uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TWIN = Path(__file__).parents[1] / "e2e" / "twin_headwater.py"
CONFIG = """\
name: forget
sources:
  docs: {kind: documents, root: docs}
"""
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Three documents, one of which is about a person; published."""
    (tmp_path / "headwater.yaml").write_text(CONFIG)
    (tmp_path / "docs").mkdir()
    for name, text in {
        "ada.md": "# Ada\n\nAda Quillfeather owes 431 crowns.",
        "ducks.md": "# Ducks\n\nThe canal has ducks.",
        "hours.md": "# Hours\n\nWe are open from nine to five.",
    }.items():
        (tmp_path / "docs" / name).write_text(text)
    assert run(tmp_path, "refresh").returncode == 0
    return tmp_path


def run(base: Path, *words: str) -> Done:
    """One command in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(TWIN), *words],
        cwd=base,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_person_is_erased_and_it_is_proved(base: Path) -> None:
    """Look first, erase, check, and see that a refresh leaves it out."""
    looked = run(base, "erase", "-s", "docs", "-k", "ada.md", "--dry-run")
    assert looked.returncode == 0
    assert "1 documents would be erased" in looked.stdout
    assert "docs/ada.md" in looked.stdout
    done = run(base, "erase", "-s", "docs", "-k", "ada.md", "--reason", "asked for", "--yes")
    assert done.returncode == 0, done.stderr
    assert "certificate" in done.stdout
    assert "asked for" in run(base, "erasures").stdout
    assert json.loads(run(base, "erasures", "1").stdout)["proof"]["found"] == 0
    checked = run(base, "erasures", "--verify")
    assert (checked.returncode, checked.stdout) == (0, "erasure 1: holds\n")
    again = run(base, "refresh")
    assert "1 record kept out: erased" in again.stdout
    found = json.loads(run(base, "search", "Quillfeather crowns", "--json").stdout)
    assert "Quillfeather" not in json.dumps(found)
    assert run(base, "verify", "--deep").returncode == 0
    assert "erasure" in run(base, "log").stdout
    assert "asked for" in run(base, "audit").stdout


def test_what_was_erased_is_let_in_again(base: Path) -> None:
    """With a reason of its own."""
    words = ("-s", "docs", "-k", "ada.md", "--reason", "asked for")
    assert run(base, "erase", *words, "--yes").returncode == 0
    assert run(base, "readmit", *words).stdout == "1 may come back\n"
    assert run(base, "refresh").returncode == 0
    assert "Quillfeather" in run(base, "search", "Quillfeather").stdout
    lines = json.loads(run(base, "erasures", "--json").stdout)
    assert [(line["documents"], line["readmitted"]) for line in lines] == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-s", "docs", "-k", "ada.md", "--reason", "r"), 2, "--dry-run"),
        (("-k", "ada.md", "--reason", "r", "--yes"), 2, "--source"),
        (("-s", "docs", "--reason", "r", "--yes"), 2, "--key"),
        (("--reason", "r", "--yes"), 2, "No document is named"),
        (("-s", "docs", "-k", "ada.md", "--yes"), 2, "reason"),
        (("-s", "docs", "-k", "nobody.md", "--reason", "r", "--yes"), 9, "ever known"),
        (("--where", "no such column = 1", "--reason", "r", "--yes"), 2, "condition"),
    ],
)
def test_what_cannot_be_done_is_said(
    base: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """One message, what to do, another exit code than 0, and nothing changed."""
    done = run(base, "erase", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert not (base / "store" / "redactions").exists()


def test_a_certificate_that_does_not_hold_exits_with_6(base: Path) -> None:
    """Somebody put an old object back."""
    old = {p: p.read_bytes() for p in (base / "store" / "objects").rglob("*.parquet")}
    words = ("-s", "docs", "-k", "ada.md", "--reason", "asked for", "--yes")
    assert run(base, "erase", *words).returncode == 0
    for path, data in old.items():
        path.write_bytes(data)
    done = run(base, "erasures", "1", "--verify")
    assert done.returncode == 6
    assert "that was erased" in done.stdout
    assert run(base, "erasures", "7").returncode == 9
