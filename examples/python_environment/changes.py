"""What the tour changes at each source, and how to see it; every run writes words of its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from examples.python_environment.api import EnvironmentApi
from examples.python_environment.facts import Environment
from examples.python_environment.knowledge_base import readme_path

EDITED = "topics/bltin-null-object.rst"
ADDED_ROW = "rain-gauge"
DELETED_ROW = "PyYAML"
RENAMED = "rich"
REMARKED = "headwater"

EDIT = "Here None also stands for a reading that was never taken"

EDIT_QUERY = "the null object that functions return"
ADDED_QUERY = "reads how much rain has fallen from a rain gauge"
DELETED_QUERY = "YAML parser and emitter for Python"
REMARK_QUERY = "frozen for the spring release"

NEW_TEXTS = 3
"""The edited topic, the added row and the record with a remark; the rest needs no vector."""


@dataclass(frozen=True)
class Change:
    """One change at a source: what the reader is told about it."""

    source: str
    what: str


def change_sources(
    root: Path, environment: Environment, api: EnvironmentApi, *, stamp: str
) -> list[Change]:
    """Change something at each source.

    Args:
        root: the knowledge base.
        environment: what the sources were filled from.
        api: the API that is serving.
        stamp: words that no earlier run used, so that its texts are new to the store.
    """
    return [
        _edit(root, stamp),
        _rename(root, environment),
        *_change_rows(root, stamp),
        _remark(api, stamp),
    ]


def _edit(root: Path, stamp: str) -> Change:
    path = root / "documents" / EDITED
    heading, _, rest = path.read_text("utf-8").partition("\n\n")
    path.write_text(f"{heading}\n\n{EDIT} ({stamp}).\n\n{rest}", "utf-8")
    return Change("documents", f"edited {EDITED}: one sentence more")


def _rename(root: Path, environment: Environment) -> Change:
    package = next(package for package in environment.packages if package.name == RENAMED)
    path = readme_path(root, package)
    new = path.with_name(f"{package.name}-{package.version}{path.suffix}")
    path.rename(new)
    return Change("documents", f"renamed readmes/{path.name} to readmes/{new.name}")


def _change_rows(root: Path, stamp: str) -> list[Change]:
    summary = f"Reads how much rain has fallen from a rain gauge ({stamp})"
    with closing(sqlite3.connect(root / "environment.sqlite")) as connection, connection:
        connection.execute(
            "INSERT INTO distributions (name, version, summary) VALUES (?, '1.0', ?)",
            (ADDED_ROW, summary),
        )
        connection.execute("DELETE FROM requirements WHERE distribution = ?", (DELETED_ROW,))
        connection.execute("DELETE FROM distributions WHERE name = ?", (DELETED_ROW,))
    return [
        Change("distributions", f"added the row {ADDED_ROW}"),
        Change("distributions", f"deleted the row {DELETED_ROW}"),
    ]


def _remark(api: EnvironmentApi, stamp: str) -> Change:
    remark = f"frozen for the spring release ({stamp})"
    api.items = [
        {**item, "remark": remark} if item["distribution"] == REMARKED else item
        for item in api.items
    ]
    return Change("modules", f"gave the record {REMARKED} a remark")
