"""SQL over all that a knowledge base holds: a snapshot's tables, its quarantine, the releases."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from headwater.errors import HeadwaterError
from headwater.flows.emit import FOLDER
from headwater.flows.held import read_quarantine
from headwater.retrieval.datasets.release import list_releases, read_release
from headwater.storage.sql import run_sql
from headwater.storage.store import Store

DATASETS = pa.schema(
    [
        ("name", pa.string()),
        ("version", pa.string()),
        ("snapshot", pa.string()),
        ("seq", pa.int64()),
        ("rows", pa.int64()),
        ("unproven", pa.bool_()),
        ("path", pa.string()),
    ]
)
"""One row per release below `datasets/`, by name, newest last. `path` is relative to the knowledge
base. A release whose manifest cannot be read has only its name, version and path."""


def ask_sql(
    root: Path, statement: str, *, as_of: str | None = None, timeout_s: float | None = None
) -> pa.Table:
    """Answer one question in SQL about the knowledge base in the folder `root`.

    The tables are those of `storage.sql.run_sql`, and `quarantine` and `datasets`.

    Raises:
        ConfigError: the statement is wrong, or not allowed.
        NotFoundError: no such snapshot, or no store.
    """
    store = Store.open(root / "store")
    more = {
        "quarantine": read_quarantine(store.objects, store.resolve(as_of)),
        "datasets": releases(root),
    }
    return run_sql(store, statement, as_of=as_of, more=more, timeout_s=timeout_s)


def releases(root: Path) -> pa.Table:
    """The dataset releases of the knowledge base in `root`, as a table of `DATASETS`."""
    rows = []
    for path in list_releases(root / FOLDER):
        row = {
            "name": path.parent.name,
            "version": path.name,
            "path": path.relative_to(root).as_posix(),
        }
        rows.append({**row, **_recorded(path)})
    return pa.Table.from_pylist(rows, schema=DATASETS)


def _recorded(path: Path) -> dict[str, object]:
    try:
        release = read_release(path)
        record = release.manifest
        return {
            "snapshot": str(record["snapshot"]),
            "seq": int(record["seq"]),
            "rows": sum(release.rows.values()),
            "unproven": bool(record["unproven"]),
        }
    except (HeadwaterError, KeyError, TypeError, ValueError):
        # What is damaged about it is for 'headwater dataset status' to say.
        return {}
