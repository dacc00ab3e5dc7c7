"""`headwater search` with a filter, labels, a time and an explanation, over a refreshed base."""

from __future__ import annotations

import json

import pytest

from headwater.cli import main
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh

CONFIG = """\
name: test
sources:
  open: {kind: documents, root: open, labels: [public]}
  closed: {kind: documents, root: closed, labels: [public, staff]}
"""


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """Two folders of documents, one of them for the staff."""
    root = tmp_path_factory.mktemp("kb")
    (root / "headwater.yaml").write_text(CONFIG)
    for name in ("open/pumps.md", "open/faq/valves.md", "closed/prices.md"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {path.stem}\n\nWhat there is to say about {path.stem}.\n")
    assert refresh(load(root), encoding=twin_encoding).published
    return root


@pytest.fixture
def run(kb, capsys, monkeypatch):
    """Runs a search: exit code, stdout, stderr."""
    monkeypatch.chdir(kb)

    def run(*words):
        code = main(["search", "what is there to say", *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.mark.parametrize(
    "words, found",
    [
        ([], {"pumps.md", "faq/valves.md", "prices.md"}),
        (["--where", "path like 'faq/%' or source = 'closed'"], {"faq/valves.md", "prices.md"}),
        (["--label", "public"], {"pumps.md", "faq/valves.md"}),
        (["--label", "public", "--label", "staff", "--where", "label = 'staff'"], {"prices.md"}),
        (["--label", "staff"], set()),
        (["--changed-since", "2099-01-01"], set()),
        (["--max-staleness", "1d", "--source", "closed"], {"prices.md"}),
        (["--max-staleness", "0.001s"], set()),
    ],
)
def test_options_of_a_search_narrow_it(run, words, found):
    """`--where`, `--label`, `--changed-since` and `--max-staleness` do what the library does."""
    code, out, _ = run(*words, "--json")
    assert code == 0 and {hit["key"] for hit in json.loads(out)} == found
    assert all(hit["explain"] is None for hit in json.loads(out))


def test_an_explained_search_tells_people_and_machines(run):
    """`--explain` adds a line to each hit, and an object to its JSON."""
    _, out, _ = run("--explain", "--where", "source = 'closed'")
    assert "exact in" in out and "33.3%" in out
    _, out, _ = run("--explain", "--where", "source = 'closed'", "--json")
    assert json.loads(out)[0]["explain"]["found_by"] == "exact"


@pytest.mark.parametrize(
    "where, what",
    [
        ("souce = 'open'", "nearest: source"),
        ("source = 'open", "does not end, at character 10"),
        ("meta.nothing = 1", "Unknown filter field"),
        ("source = 1", "compares a text with a number"),
    ],
)
def test_a_filter_with_a_mistake_is_a_usage_error(run, where, what):
    """Exit code 2 and a message of three parts, on stderr or as JSON."""
    code, out, err = run("--where", where)
    assert code == 2 and what in err and not out
    code, out, _ = run("--where", where, "--json")
    assert code == 2 and json.loads(out)["error"] == "config"
