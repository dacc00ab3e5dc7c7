"""The environment as three sources: files below a folder, tables of SQLite, records of an API."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from examples.python_environment.api import Item
from examples.python_environment.facts import Environment, Package

CONFIG = """\
# The example knowledge base "your Python environment", written by examples/python_environment.
version: 1
name: python-environment

sources:
  documents:                 # CPython's reference topics, and the readmes of what is installed
    kind: documents
    root: documents

  distributions:             # an SQLite database, filled from importlib.metadata
    kind: database
    dsn: sqlite:///environment.sqlite
    query: |
      SELECT name, version, summary, licence, requires_python, home_page,
             (SELECT group_concat(requirement, ', ')
                FROM (SELECT requirement FROM requirements
                       WHERE distribution = distributions.name ORDER BY position)) AS requires
        FROM distributions
    key: name
    title: name
    text: [name, summary, version, licence, requires_python, requires]
    metadata: [home_page]

  modules:                   # a JSON API on loopback; its port differs from run to run
    kind: api
    url: ${DEMO_API}/modules
    allow_private: [127.0.0.0/8, "::1/128"]
    records: items
    key: distribution
    title: distribution
    text: [distribution, modules, commands, plugins, remark]
    metadata: [files, kilobytes]
    pagination: {style: next, next: next, total: total}

datasets:
  environment:
    recipes: [pairs, instructions, text]
    settled_for: 30d
    min_checks: 5
"""

_TABLES = """
DROP TABLE IF EXISTS requirements;
DROP TABLE IF EXISTS distributions;
CREATE TABLE distributions (
    name TEXT PRIMARY KEY, version TEXT NOT NULL, summary TEXT, licence TEXT,
    requires_python TEXT, home_page TEXT
);
CREATE TABLE requirements (
    distribution TEXT NOT NULL, position INTEGER NOT NULL, requirement TEXT NOT NULL,
    PRIMARY KEY (distribution, position)
);
"""


def write_config(root: Path) -> None:
    """Write `headwater.yaml`, unless there is one already: it is yours to edit."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "headwater.yaml"
    if not path.exists():
        path.write_text(CONFIG, "utf-8")


def write_documents(root: Path, environment: Environment) -> int:
    """Make `topics/` and `readmes/` below `documents/` hold just that; returns how many files.

    A file that is right already is left alone, and so is everything beside the two folders.
    """
    folder = root / "documents"
    wanted = {folder / f"topics/{name}.rst": text for name, text in environment.topics.items()}
    wanted |= {
        readme_path(root, package): package.readme
        for package in environment.packages
        if package.readme
    }
    for path in [*folder.glob("topics/*"), *folder.glob("readmes/*")]:
        if path.is_file() and path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        data = f"{text.strip()}\n".encode(errors="replace")
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return len(wanted)


def readme_path(root: Path, package: Package) -> Path:
    """Where the readme of a package lies."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", package.name)
    return root / "documents" / "readmes" / f"{name}{package.readme_suffix}"


def write_database(root: Path, environment: Environment) -> Path:
    """Fill `environment.sqlite` anew, in one transaction; returns its path."""
    path = root / "environment.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        for package in environment.packages:
            connection.execute(
                "INSERT INTO distributions VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(package.name, package.version, package.summary, package.licence),
                    *(package.requires_python, package.home_page),
                ),
            )
            connection.executemany(
                "INSERT INTO requirements VALUES (?, ?, ?)",
                [(package.name, at, text) for at, text in enumerate(package.requires)],
            )
        connection.execute("COMMIT")
    return path


def api_items(environment: Environment) -> list[Item]:
    """The records of the API: what each distribution brought into the environment."""
    return [
        {
            "distribution": package.name,
            "modules": list(package.modules),
            "commands": list(package.commands),
            "plugins": list(package.plugins),
            "remark": None,
            "files": package.files,
            "kilobytes": package.kilobytes,
        }
        for package in environment.packages
    ]
