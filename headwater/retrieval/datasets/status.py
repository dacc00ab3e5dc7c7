"""What the world has since contradicted of a release."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.errors import FormatError, StoreError
from headwater.retrieval.datasets.release import REVOKED, Release, list_releases, read_release
from headwater.storage.manifest import Manifest
from headwater.storage.store import Store
from headwater.storage.tables import open_tables, query

__all__ = ["DatasetStatus", "dataset_status", "list_releases"]

_FRESH = 0.01


@dataclass(frozen=True)
class DatasetStatus:
    """How a release stands against a snapshot.

    Attributes:
        snapshot: it was cut from; `compared_with`: it was compared with.
        rows: in all training files.
        contradicted: rows whose text no live document of their source holds any more, or whose
            licence is no longer one that the dataset asks for.
        share: contradicted / rows.
        state: `fresh` (at most 1 %), `aging` (at most `stale_above`), `stale`, `revoked` (an
            erasure took its rows away: do not train on copies of it), or `damaged` (the files are
            not those that were emitted; nothing was counted).
        stale_ids: the contradicted rows as `<file>:<line>`, lines from 1.
        unproven: emitted without evidence.
        problems: what is damaged.
    """

    name: str
    version: str
    snapshot: str
    rows: int
    contradicted: int
    share: float
    state: str
    stale_ids: tuple[str, ...] = ()
    unproven: bool = False
    compared_with: str = ""
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def dataset_status(store: Store, folder: Path, *, as_of: str | None = None) -> DatasetStatus:
    """Compare the release in `folder` with a snapshot, the current one when `as_of` is None.

    A text that moved, with a rename or to another document of its source, is not contradicted.

    Raises:
        NotFoundError: no such release or snapshot.
        FormatError: a newer headwater wrote the release.
    """
    manifest = store.resolve(as_of)
    try:
        release = read_release(folder)
    except FormatError:
        raise
    except StoreError as error:
        return _unusable(folder, (error.what,))
    if (folder / REVOKED).is_file():
        return _unusable(folder, (), release, state="revoked")
    problems = release.problems()
    if problems:
        return _unusable(folder, problems, release)
    stale = _contradicted(store, manifest, release)
    rows = sum(release.rows.values())
    share = len(stale) / rows if rows else 0.0
    record = release.manifest
    return DatasetStatus(
        name=record["name"],
        version=record["version"],
        snapshot=record["snapshot"],
        rows=rows,
        contradicted=len(stale),
        share=share,
        state=_state(share, float(record["config"]["stale_above"])),
        stale_ids=stale,
        unproven=record["unproven"],
        compared_with=manifest.name(),
    )


def _state(share: float, stale_above: float) -> str:
    if share > stale_above:
        return "stale"
    return "fresh" if share <= _FRESH else "aging"


def _contradicted(store: Store, manifest: Manifest, release: Release) -> tuple[str, ...]:
    asked = set(release.manifest["config"]["licences"])
    with open_tables(store.objects, manifest) as tables:
        rows = query(
            tables,
            "select distinct l.source, lower(hex(c.text_hash)) as text "
            "from live l join chunks c using (content_hash)",
        )
    live = {
        (source, text)
        for source, text in zip(rows["source"].to_pylist(), rows["text"].to_pylist(), strict=True)
        if not asked or manifest.sources[source].licence in asked
    }
    return tuple(
        f"{name}:{line}"
        for name, line, row in release.lineage()
        if (row["source"], row["text_hash"]) not in live
    )


def _unusable(
    folder: Path,
    problems: tuple[str, ...],
    release: Release | None = None,
    *,
    state: str = "damaged",
) -> DatasetStatus:
    record = release.manifest if release else {}
    return DatasetStatus(
        name=str(record.get("name", folder.parent.name)),
        version=folder.name,
        snapshot=str(record.get("snapshot", "")),
        rows=0,
        contradicted=0,
        share=0.0,
        state=state,
        unproven=bool(record.get("unproven", False)),
        problems=problems,
    )
