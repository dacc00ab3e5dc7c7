"""The tour: headwater's own commands on the example, with a check on everything they promise."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.python_environment import changes
from examples.python_environment.api import EnvironmentApi
from examples.python_environment.facts import Environment
from examples.python_environment.knowledge_base import (
    api_items,
    write_config,
    write_database,
    write_documents,
)
from headwater.cli import main as headwater
from headwater.storage.objects import EMBEDDINGS
from headwater.storage.store import Store

SEARCHES = (
    ("when is the default value of a parameter evaluated", "documents"),
    ("a fast linter and code formatter for Python", "distributions"),
    ("which distribution brings the command pytest", "modules"),
)

_WITHHELD = 4
"""The exit code of a refresh that waits for a person."""

_INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""


class BrokenPromiseError(Exception):
    """A command did not do what the tour says it does."""


def take_tour(root: Path, environment: Environment) -> None:
    """Fill the sources, refresh, search, change the sources, refresh again, and look back.

    Args:
        root: the knowledge base; made when it is not there, and brought up to date when it is.
        environment: what the sources are filled from.

    Raises:
        BrokenPromiseError: a command failed, or its result is not what the tour promises.
    """
    started = time.monotonic()
    with EnvironmentApi(api_items(environment)) as api:
        # A proxy for the outside world does not know this machine's loopback.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
        os.environ["DEMO_API"] = api.url
        tour = _Tour(root, environment, api)
        tour.fill()
        tour.refresh_all()
        tour.search()
        tour.change()
        tour.look_back()
        tour.emit()
    _show_next(root, time.monotonic() - started)


class _Tour:
    def __init__(self, root: Path, environment: Environment, api: EnvironmentApi) -> None:
        self._root = root
        self._environment = environment
        self._api = api
        self._before = ""

    # --- the steps ----------------------------------------------------------------------------

    def fill(self) -> None:
        """Put the environment's facts where the sources look for them."""
        packages = self._environment.packages
        _heading(f"The sources: Python {self._environment.python} and what is installed in it")
        write_config(self._root)
        files = write_documents(self._root, self._environment)
        write_database(self._root, self._environment)
        print(f"documents      {files} files in {self._root}/documents: topics and readmes")
        print(f"distributions  {len(packages)} rows in {self._root}/environment.sqlite")
        print(f"modules        {len(packages)} records at {self._api.url}/modules (DEMO_API)")
        self._run("init", str(self._root), kb=False)

    def refresh_all(self) -> None:
        """Bring the knowledge base up to date with the environment."""
        _heading("Refresh: pull, validate, embed, index, publish")
        known = self._vectors()
        if not known:
            print("The first one embeds every text, which takes a minute or two.")
        started = time.monotonic()
        code = self._run("refresh", allowed=(0, _WITHHELD))
        if code == _WITHHELD:
            self._approve()
        manifest = self._store().current()
        _check(manifest is not None, "a snapshot is published")
        assert manifest is not None
        self._before = str(manifest.seq)
        new, texts = self._vectors() - known, manifest.counts["texts"]
        _check(bool(known) or new == texts, f"the first refresh embeds all {texts} texts")
        print(
            f"-> {manifest.counts['documents']} documents, {manifest.counts['chunks']} chunks, "
            f"{texts} distinct texts; {new} embedded now, in {time.monotonic() - started:.1f} s"
        )

    def _approve(self) -> None:
        """An environment that shrank since the last run: the guard asks, and this tour agrees."""
        status = self._json("status", "--json", allowed=(0, 5))
        waiting = [entry["source"] for entry in status["sources"] if entry["withheld"]]
        _check(bool(waiting), "every gate passes")
        print("\nMuch of the environment is gone since the last run, so headwater asks first:")
        for source in waiting:
            self._run("approve-deletes", source)

    def search(self) -> None:
        """Ask each source one question."""
        _heading("Search")
        for place, (query, source) in enumerate(SEARCHES):
            print("\n" if place else "", end="")
            self._run("search", query, "-k", "1", "--source", source)
            _check(bool(self._hits(query, source)), "the search finds something")

    def change(self) -> None:
        """Change the sources and refresh: only the difference may cost anything."""
        _heading("Something changes at each source")
        stamp = f"tour of {datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"
        for made in changes.change_sources(self._root, self._environment, self._api, stamp=stamp):
            print(f"{made.source:<14} {made.what}")
        _heading("Refresh again: only the difference is embedded")
        known = self._vectors()
        planned = self._json("plan", "--json")["embedded"]
        self._run("refresh")
        manifest = self._store().current()
        assert manifest is not None
        new, texts = self._vectors() - known, manifest.counts["texts"]
        diff = self._json("diff", self._before, "--json")
        _check(
            new == planned == diff["chunks_added"] == changes.NEW_TEXTS,
            f"{changes.NEW_TEXTS} texts are embedded (planned {planned}, done {new}, "
            f"and the snapshots differ in {diff['chunks_added']})",
        )
        print()
        self._run("diff", self._before)
        print(f"-> {new} of {texts} texts were embedded: the edit, the new row, the remark;")
        print("   'headwater plan' foretold it. The renamed file and the deleted row cost nothing.")

    def look_back(self) -> None:
        """What is found now, and what was found before the change."""
        _heading(f"Now, and as of snapshot {self._before}, before the change")
        self._run("search", changes.DELETED_QUERY, "-k", "1", "--source", "distributions")
        as_of = ("--as-of", self._before)
        self._run("search", changes.DELETED_QUERY, "-k", "1", "--source", "distributions", *as_of)
        then, now = self._both(changes.DELETED_QUERY, "distributions")
        _check(changes.DELETED_ROW in then, "the deleted row is found in the past")
        _check(changes.DELETED_ROW not in now, "the deleted row is not found any more")
        print(f"-> {changes.DELETED_ROW} is gone now, and was there then.\n")

        self._run("search", changes.EDIT_QUERY, "-k", "1", "--source", "documents")
        self._run("search", changes.EDIT_QUERY, "-k", "1", "--source", "documents", *as_of)
        then, now = self._both(changes.EDIT_QUERY, "documents")
        _check(changes.EDIT in now.get(changes.EDITED, ""), "the edit is found")
        _check(changes.EDIT not in then.get(changes.EDITED, changes.EDIT), "the past is unedited")
        print("-> The sentence that the edit added is there now, and was not then.")

        then, now = self._both(changes.ADDED_QUERY, "distributions")
        _check(changes.ADDED_ROW in now and changes.ADDED_ROW not in then, "the added row is new")
        then, now = self._both(changes.REMARK_QUERY, "modules")
        _check(changes.REMARKED in now, "the remark is found")

    def emit(self) -> None:
        """Write a dataset; nothing has settled within minutes, hence `--unproven`."""
        _heading("A first fine-tuning dataset")
        print("What settles for 30 days can be proven; until then a dataset is marked unproven.")
        self._run("dataset", "emit", "environment", "--unproven")

    # --- running commands ---------------------------------------------------------------------

    def _run(self, *words: str, kb: bool = True, allowed: tuple[int, ...] = (0,)) -> int:
        """Show a command and run it; its output goes where ours goes."""
        command = [*words, *(("--kb", str(self._root)) if kb else ())]
        print(f"$ headwater {shlex.join(command)}")
        code = headwater(command)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        _check(code in allowed, f"'headwater {words[0]}' succeeds (it exited with {code})")
        return code

    def _json(self, *words: str, allowed: tuple[int, ...] = (0,)) -> Any:
        """Run a command quietly, for a check."""
        out = io.StringIO()
        with redirect_stdout(out):
            code = headwater([*words, "--kb", str(self._root)])
        _check(code in allowed, f"'headwater {words[0]} --json' succeeds (it exited with {code})")
        return json.loads(out.getvalue())

    def _hits(self, query: str, source: str, *more: str) -> dict[str, str]:
        """Key -> text of the best hits."""
        found = self._json("search", query, "-k", "5", "--source", source, "--json", *more)
        return {hit["key"]: hit["text"] for hit in reversed(found)}

    def _both(self, query: str, source: str) -> tuple[dict[str, str], dict[str, str]]:
        """The best hits before the change, and now."""
        return self._hits(query, source, "--as-of", self._before), self._hits(query, source)

    def _store(self) -> Store:
        return Store.open(self._root / "store")

    def _vectors(self) -> int:
        """How many texts were ever embedded: counted in the store, not taken from a report."""
        if not (self._root / "store").is_dir():
            return 0
        listing = self._store().objects.listing()
        return sum(pq.read_metadata(p).num_rows for entry, p in listing if entry.kind == EMBEDDINGS)


def _heading(text: str) -> None:
    print(f"\n== {text}")


def _check(kept: bool, promise: str) -> None:
    if not kept:
        raise BrokenPromiseError(f"it promised that {promise}")


def _show_next(root: Path, seconds: float) -> None:
    _heading(f"Done in {seconds:.0f} s. Try next")
    beside = Path(sys.executable).with_name("headwater")
    name = "headwater" if shutil.which("headwater") else os.path.relpath(beside)
    for command, why in (
        ("search 'what is a descriptor'", "anything that is in the topics or readmes"),
        ("status", "how fresh each source is"),
        ("log", "the snapshots"),
        ("diff 1 --text", "what changed since the first one"),
        ("refresh --source documents", "after an edit of yours below documents/"),
        ("rollback 1", "serve the first snapshot's state again"),
        ("dataset status", "what the world has contradicted since"),
        ("verify --deep", "every byte against its hash"),
    ):
        print(f"  {name} {command} --kb {shlex.quote(str(root))}")
        print(f"      {why}")
