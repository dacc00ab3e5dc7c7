"""The life of one document: every version it ever had, and when each was known.

A version has one row for each stretch of snapshots that held it: a rollback ends the versions of the
branch it leaves and begins those of the snapshot it restores again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from headwater.errors import NotFoundError
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry
from headwater.storage.store import Store
from headwater.storage.tables import CLOSURES, VERSIONS

ROLLED_BACK = "rolled back"
RESTORED = "restored"

_MOST_COMPARED = 50_000


@dataclass(frozen=True)
class Begun:
    """A row of `versions`, as far as a history shows it."""

    version_id: str
    key: str
    title: str | None
    content_hash: bytes
    metadata_hash: bytes
    source_ts: datetime | None
    changed_at: datetime
    seq: int
    renamed_from: str | None


@dataclass(frozen=True)
class Ended:
    """A row of `closures`."""

    version_id: str
    key: str
    op: str
    seq: int


@dataclass(frozen=True)
class Step:
    """One published snapshot of the chain.

    Attributes:
        rollback: whether it went back to an earlier one.
        versions, closures: the names of the objects that hold its rows: those up to its `seq`.
    """

    name: str
    seq: int
    time: datetime
    rollback: bool
    versions: tuple[str, ...]
    closures: tuple[str, ...]


@dataclass(frozen=True)
class VersionSpan:
    """A version of a document, for one stretch of snapshots that held it.

    Attributes:
        began: `added`, `changed`, `metadata`, `touched` (only the source's fingerprint differs),
            `renamed` or `restored` (by a rollback).
        ended: `changed` (content, metadata or fingerprint), `removed`, `renamed`, `rolled back`;
            empty while the version is live.
        known_from, known_until: knowledge time; the version was live from the one up to, and not
            including, the other. None while it is live.
        from_seq, until_seq: the snapshots of these times.
        source_ts: the source's own time; None where it gives none.
        changed_at: when the content last changed.
        content_hash: hex.
    """

    version_id: str
    key: str
    title: str | None
    began: str
    known_from: datetime
    from_seq: int
    ended: str
    known_until: datetime | None
    until_seq: int | None
    source_ts: datetime | None
    changed_at: datetime
    content_hash: str
    renamed_from: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


def spans(
    key: str,
    steps: Sequence[Step],
    begun: Mapping[str, Sequence[Begun]],
    ended: Mapping[str, Sequence[Ended]],
) -> tuple[VersionSpan, ...]:
    """The versions of the documents that ever had `key`, renames followed both ways.

    Args:
        key: of the document.
        steps: the chain, oldest first.
        begun: object name -> its rows of the document's source; rows of other documents may be
            among them, objects without rows may be left out.
        ended: the same of closures.

    Returns:
        One row per version and stretch, by the time it began; empty when the key never was.
    """
    versions = {row.version_id: row for rows in begun.values() for row in rows}
    family = _family(key, versions.values(), [row for rows in ended.values() for row in rows])
    open_since: dict[str, tuple[Step, str]] = {}
    found: list[VersionSpan] = []
    for step in steps:
        over_by_then = (e for name in step.closures for e in ended.get(name, ()))
        closures = {e.version_id: e for e in over_by_then if e.seq <= step.seq}
        held = (v for name in step.versions for v in begun.get(name, ()))
        live = {v.version_id for v in held if v.seq <= step.seq}
        live = (live & family) - set(closures)
        over = [versions[v] for v in open_since if v not in live]
        for version in over:
            since, began = open_since.pop(version.version_id)
            closure = closures.get(version.version_id)
            found.append(_span(version, since, began, step, closure.op if closure else ROLLED_BACK))
        for name in sorted(live - set(open_since)):
            open_since[name] = (step, _began(versions[name], over, step))
    found += [
        _span(versions[v], since, began, None, "") for v, (since, began) in open_since.items()
    ]
    return tuple(sorted(found, key=lambda span: (span.from_seq, span.key)))


def _family(key: str, versions: Iterable[Begun], closures: Iterable[Ended]) -> set[str]:
    """The versions that had the key, and those that changes and renames link to them."""
    births = {(v.seq, v.key): v for v in versions}
    renames = {(v.seq, v.renamed_from): v for v in births.values() if v.renamed_from is not None}
    links: dict[str, set[str]] = {}
    for closure in closures:
        heirs = {"changed": births, "renamed": renames}.get(closure.op, {})
        heir = heirs.get((closure.seq, closure.key))
        if heir is not None:
            links.setdefault(closure.version_id, set()).add(heir.version_id)
            links.setdefault(heir.version_id, set()).add(closure.version_id)
    found: set[str] = set()
    waiting = [v.version_id for v in births.values() if v.key == key]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += links.get(name, ())
    return found


def _began(version: Begun, over: Sequence[Begun], step: Step) -> str:
    if step.rollback:
        return RESTORED
    if version.renamed_from is not None:
        return "renamed"
    before = next((v for v in over if v.key == version.key), None)
    if before is None:
        return "added"
    if before.content_hash != version.content_hash:
        return "changed"
    return "touched" if before.metadata_hash == version.metadata_hash else "metadata"


def _span(version: Begun, since: Step, began: str, until: Step | None, op: str) -> VersionSpan:
    return VersionSpan(
        version_id=version.version_id,
        key=version.key,
        title=version.title,
        began=began,
        known_from=since.time,
        from_seq=since.seq,
        ended=op,
        known_until=until.time if until else None,
        until_seq=until.seq if until else None,
        source_ts=version.source_ts,
        changed_at=version.changed_at,
        content_hash=version.content_hash.hex(),
        renamed_from=version.renamed_from,
    )


# --- reading --------------------------------------------------------------------------------------


def branches(chain: Sequence[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each snapshot of a chain, newest first, with the last one before the next rollback.

    History is only added to until a rollback goes back. So that last snapshot holds all rows of
    those before it, and they hold its rows up to their own `seq`; its objects are kept, whatever
    has expired since, while theirs may have been merged and be gone.
    """
    last: Manifest | None = None
    for manifest in chain:
        last = last or manifest
        yield manifest, last
        if manifest.cause == "rollback":
            last = None


def distinct(chain: Sequence[Manifest], kind: str) -> dict[str, ObjectEntry]:
    """Object name -> entry of `versions` or `closures`: all rows that a chain ever held.

    A row may stand in several objects, because branches merge their files on their own.
    """
    return {entry.name: entry for _, last in branches(chain) for entry in getattr(last, kind)}


def document_history(store: Store, source: str, key: str) -> tuple[VersionSpan, ...]:
    """Every version that the documents with this key ever had, across all published snapshots.

    Each object of the current snapshot, and of those that a rollback left, is read once, without
    its texts.

    Raises:
        NotFoundError: the source or the key was never known, or nothing is published.
    """
    chain = list(store.chain()) or [store.resolve(None)]
    # What a terminal gave that is no UTF-8: no name that a store holds has it.
    source, key = (name.encode("utf-8", "backslashreplace").decode() for name in (source, key))
    rows = _rows_of(store, distinct(chain, "versions"), VERSIONS, Begun, source)
    if rows.num_rows == 0:
        known = sorted({name for manifest in chain for name in manifest.sources})
        near = difflib.get_close_matches(source, known)
        raise NotFoundError(
            "No such source", obj=source, todo=f"the sources are: {', '.join(near or known)}"
        )
    keys = _related_keys(rows, key)
    if not keys:
        raise NotFoundError(
            "No document of this source ever had this key",
            obj=f"{source}/{key}",
            todo=_suggestion(key, rows),
        )
    ends = _rows_of(store, distinct(chain, "closures"), CLOSURES, Ended, source)
    steps = [_step(manifest, last) for manifest, last in branches(chain)][::-1]
    return spans(key, steps, _by_object(rows, keys, Begun), _by_object(ends, keys, Ended))


def _step(manifest: Manifest, last: Manifest) -> Step:
    return Step(
        manifest.name(),
        manifest.seq,
        manifest.time,
        manifest.cause == "rollback",
        tuple(entry.name for entry in last.versions),
        tuple(entry.name for entry in last.closures),
    )


def _rows_of(
    store: Store,
    entries: Mapping[str, ObjectEntry],
    schema: pa.Schema,
    row: type[Begun | Ended],
    source: str,
) -> pa.Table:
    """The rows of one source, with the name of the object that holds each in `object`."""
    import pyarrow.compute as pc

    names = list(row.__dataclass_fields__)
    fields = [*(schema.field(name) for name in names), pa.field("object", pa.string())]
    tables = [pa.schema(fields).empty_table()]
    for name, entry in entries.items():
        table = store.objects.read_table(entry, [*names, "source"])
        table = table.filter(pc.equal(table["source"], source)).select(names)
        owner = pa.repeat(pa.scalar(name, pa.string()), table.num_rows)
        tables.append(table.append_column("object", owner))
    return pa.concat_tables(tables)


def _related_keys(rows: pa.Table, key: str) -> set[str]:
    """The key and all keys that renames connect it with; empty when no version had it."""
    import pyarrow.compute as pc

    keys, more = set[str](), {key}
    while more - keys:
        keys |= more
        names = pa.array(sorted(keys), pa.string())
        either = pc.or_(pc.is_in(rows["key"], names), pc.is_in(rows["renamed_from"], names))
        hits = rows.filter(either)
        more = {k for c in ("key", "renamed_from") for k in hits[c].to_pylist() if k is not None}
    return keys if more else set()


def _by_object(rows: pa.Table, keys: set[str], kind: type[Any]) -> dict[str, list[Any]]:
    import pyarrow.compute as pc

    found: dict[str, list[Any]] = {}
    for row in rows.filter(pc.is_in(rows["key"], pa.array(sorted(keys), pa.string()))).to_pylist():
        found.setdefault(row.pop("object"), []).append(kind(**row))
    return found


def _suggestion(key: str, rows: pa.Table) -> str:
    known = sorted(set(rows["key"].to_pylist()))
    part = [k for k in known if key.casefold() in k.casefold()]
    # Closeness is costly to tell: among very many keys, only those that contain the text count.
    near = difflib.get_close_matches(key, known, n=5) if len(known) <= _MOST_COMPARED else []
    near = list(dict.fromkeys([*near, *part[:5]]))[:5]
    return f"did you mean: {', '.join(near)}" if near else "see 'headwater sql \"from versions\"'"
