"""Emission: from a snapshot and its evidence to a release that becomes visible whole or not at all.

No file holds a wall-clock time: the same snapshot and configuration give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.config import DatasetConfig, format_duration
from headwater.errors import ConfigError, NotFoundError, PublicationStoppedError, StoreError
from headwater.retrieval.datasets.card import dataset_card
from headwater.retrieval.datasets.evidence import gather_evidence, read_history
from headwater.retrieval.datasets.examples import build_examples
from headwater.retrieval.datasets.record import file_entry, release_record, training_files
from headwater.retrieval.datasets.release import (
    CARD,
    MANIFEST,
    Release,
    read_release,
    to_bytes,
)
from headwater.retrieval.datasets.sections import Section
from headwater.retrieval.datasets.settled import NOT_SETTLED, ON_HOLD, Judgement, Rule, judge_chunks
from headwater.storage import files
from headwater.storage.manifest import Manifest
from headwater.storage.store import Store
from headwater.storage.tables import open_tables, query

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# With --unproven these are no obstacle: the evidence is what is missing.
_EVIDENCE = (NOT_SETTLED, ON_HOLD)


@dataclass(frozen=True)
class Emission:
    """What one emission did.

    Attributes:
        path: the folder of the release.
        created: False when the very same release was there already.
        snapshot: it was cut from.
        files: training file -> rows.
        chunks, settled: live chunks of the sources, and how many have settled.
        rejections: recipe or `all` -> reason -> chunks.
        unproven: emitted without evidence.
    """

    name: str
    version: str
    path: Path
    created: bool
    snapshot: str
    files: Mapping[str, int]
    chunks: int
    settled: int
    rejections: Mapping[str, Mapping[str, int]]
    unproven: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**vars(self), "path": str(self.path), "files": dict(self.files)}


def emit(
    store: Store,
    *,
    name: str,
    config: DatasetConfig,
    as_of: str | None = None,
    unproven: bool = False,
    out: Path,
    force: bool = False,
) -> Emission:
    """Write the release `<out>/<name>/<version>/`, or find it there.

    Args:
        store: the store.
        name: of the dataset.
        config: what it is cut from, and when a chunk counts as settled.
        as_of: a published snapshot, as for `Store.resolve`; the current one when None. Its chunks
            may go on settling as long as it stands.
        unproven: use chunks that have not settled too; card and manifest say so.
        out: the folder of all datasets.
        force: write a release anew that is there but damaged.

    Raises:
        PublicationStoppedError: nothing has settled, or no settled chunk gives an example.
        NotFoundError: no such snapshot or source.
        ConfigError: the name cannot name a folder.
        StoreError: the release is there, damaged, and `force` is not set.
        BusyError: another process emits the same dataset.
        StorageUnavailableError: the disk is full or read-only; nothing became visible.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("A dataset needs a name of small letters, digits, - and _", obj=name)
    manifest = store.resolve(as_of)
    unknown = sorted(set(config.sources) - set(manifest.sources))
    if unknown:
        raise NotFoundError(
            "The snapshot holds no such source", obj=", ".join(unknown), todo="run a refresh"
        )
    rule = Rule(config.settled_for, config.min_checks)
    history = read_history(store.objects, manifest)
    judged = [
        j
        for j in judge_chunks(history, gather_evidence(store, manifest, at_snapshot=unproven), rule)
        if not config.sources or j.source in config.sources
    ]
    if not unproven and not any(j.settled for j in judged):
        raise _nothing_settled(name, judged, rule)
    sections = _read_sections(store, manifest, judged, history.origins, unproven=unproven)
    examples = build_examples(sections, config)
    if not examples.count:
        reasons = Counter[str]()
        for counts in examples.rejections.values():
            reasons.update(counts)
        raise PublicationStoppedError(
            "No chunk gives an example",
            obj=f"{name}: " + "; ".join(f"{n} x {r}" for r, n in reasons.most_common()),
            todo="look at the dataset's min_tokens, licences and recipes in headwater.yaml",
        )
    contents = training_files(examples, manifest.name())
    record = release_record(name, config, manifest, judged, examples, contents, unproven=unproven)
    return _publish(out / name, record, contents, force=force)


def _nothing_settled(name: str, judged: Sequence[Judgement], rule: Rule) -> PublicationStoppedError:
    if not judged:
        return PublicationStoppedError(
            "The snapshot holds no chunks of these sources", obj=name, todo="run a refresh first"
        )
    longest = max(j.unchanged_for for j in judged)
    checks = max(j.checks for j in judged)
    barred = sum(bool(j.why) and j.why != NOT_SETTLED for j in judged)
    return PublicationStoppedError(
        f"0 of {len(judged)} chunks are settled",
        obj=f"{name}: the longest unchanged is {format_duration(longest)}, "
        f"{format_duration(rule.settled_for)} are asked for; the most checks are {checks}, "
        f"{rule.min_checks} are asked for"
        + (f"; {barred} are held back or on hold" if barred else ""),
        todo="go on refreshing until they are, or emit without that evidence: --unproven",
    )


def _read_sections(
    store: Store,
    manifest: Manifest,
    judged: Iterable[Judgement],
    origins: Mapping[tuple[str, str], str],
    *,
    unproven: bool,
) -> list[Section]:
    known = {(j.source, j.key, j.text_hash): j for j in judged}
    with open_tables(store.objects, manifest) as tables:
        rows = query(
            tables,
            "select l.source, l.key, l.version_id, l.title, l.labels, c.ordinal, c.text_hash, "
            'c.heading_path, c.start, c."end", c.tokens, c.text '
            "from live l join chunks c using (content_hash)",
        ).to_pylist()
    sections = []
    for row in rows:
        judgement = known.get((row["source"], row["key"], row["text_hash"]))
        if judgement is None:
            continue
        state = manifest.sources.get(row["source"])
        sections.append(
            Section(
                **{**row, "title": row["title"] or "", "labels": tuple(row["labels"] or ())}
                | {"heading_path": tuple(row["heading_path"] or ())},
                origin=origins[row["source"], row["key"]],
                kind=state.kind if state else "",
                licence=state.licence if state else None,
                since=judgement.since,
                checks=judgement.checks,
                confirmed_at=judgement.confirmed_at,
                why="" if unproven and judgement.why in _EVIDENCE else judgement.why,
            )
        )
    return sections


def _publish(
    folder: Path,
    record: dict[str, Any],
    contents: Mapping[str, tuple[bytes, int]],
    *,
    force: bool,
) -> Emission:
    card = dataset_card(record)
    record["files"][CARD] = file_entry(card, 0)
    target = folder / record["version"]
    with files.locked(folder / ".lock", wait_s=60, holder=f"dataset emit {record['name']}"):
        for draft in folder.glob(".draft-*"):
            files.remove_tree(draft)
        there = target.exists()
        if there and not _damaged(target):
            return _emission(Release(target, record), created=False)
        if there and not force:
            raise StoreError(
                "The release is there already, and damaged",
                obj=str(target),
                todo="remove that folder and emit again",
            )
        draft = folder / f".draft-{os.getpid()}"
        try:
            texts = {path: data for path, (data, _) in contents.items()}
            _write(draft, {**texts, CARD: card, MANIFEST: to_bytes(record)})
            if there:
                files.move(target, folder / f".draft-{os.getpid()}-replaced")
            files.move(draft, target)
        finally:
            for rest in folder.glob(".draft-*"):
                files.remove_tree(rest)
    return _emission(Release(target, record), created=True)


def _write(draft: Path, contents: Mapping[str, bytes]) -> None:
    for path, data in contents.items():
        files.make_folder((draft / path).parent)
        files.write_new(draft / path, data)
    for folder in {(draft / path).parent for path in contents} | {draft}:
        files.sync_folder(folder)


def _damaged(target: Path) -> bool:
    try:
        return bool(read_release(target).problems())
    except (StoreError, NotFoundError):
        return True


def _emission(release: Release, *, created: bool) -> Emission:
    record = release.manifest
    return Emission(
        name=record["name"],
        version=record["version"],
        path=release.path,
        created=created,
        snapshot=record["snapshot"],
        files=release.rows,
        chunks=record["counts"]["chunks"],
        settled=record["counts"]["settled"],
        rejections=record["rejections"],
        unproven=record["unproven"],
    )
