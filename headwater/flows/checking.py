"""Does a source answer, what does it hold, and what will a refresh of it cost? Nothing is written."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from headwater.config import KnowledgeBase, SourceConfig
from headwater.flows.freshness import SourceFreshness, freshness
from headwater.flows.intake import pull_checked
from headwater.flows.sources.protocol import ExtractEnd, PullRequest, Source
from headwater.flows.sources.registry import open_source, registered_kinds
from headwater.storage.store import Store

MOST_RECORDS = 20_000
MOST_SECONDS = 30.0
"""A check reads no further than this."""

_SHOWN = 5


@dataclass(frozen=True)
class Field:
    """A field of a source's records.

    Attributes:
        name: a column of the record, or `metadata.<name>`.
        types: of its values, the most frequent first.
        filled: share of the records that have it, 0 to 1.
        longest: of its texts, in characters; 0 for what is no text.
    """

    name: str
    types: tuple[str, ...]
    filled: float
    longest: int = 0


@dataclass(frozen=True)
class Reading:
    """What one pull cost.

    Attributes:
        records: listed.
        seconds: it took.
        ended: whether it came to its end; else the check had seen enough.
        complete: what the source said of it.
        states: state -> records.
        note: the source's own.
    """

    records: int
    seconds: float
    ended: bool
    complete: bool
    states: Mapping[str, int]
    note: str = ""


@dataclass(frozen=True)
class SourceCheck:
    """What a check found.

    Attributes:
        source, kind: as configured.
        records: the first ones, plain values.
        fields: of all that was read.
        strategy: how a refresh will find out what changed, in one line.
        first: the first pull.
        quiet: a second pull that was told of the first, as a refresh without news is; None where
            the first did not come to its end.
    """

    source: str
    kind: str
    records: tuple[Mapping[str, Any], ...]
    fields: tuple[Field, ...]
    strategy: str
    first: Reading
    quiet: Reading | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Listed:
    """A configured source.

    Attributes:
        documents: live ones; 0 before the first refresh.
        state: as `headwater status` says it, or `never pulled`.
        registered: whether a package provides its kind.
    """

    source: str
    kind: str
    registered: bool
    documents: int
    state: str


def list_sources(kb: KnowledgeBase) -> tuple[Listed, ...]:
    """The configured sources, in the order of the file; nothing is connected."""
    kinds = registered_kinds()
    known = {}
    if (kb.store / "FORMAT").exists():
        store = Store.open(kb.store)
        known = {entry.source: entry for entry in freshness(kb, store)}
    found = []
    for name, config in kb.config.sources.items():
        entry = known.get(name)
        state = _state(entry) if entry else "never pulled"
        documents = entry.documents if entry else 0
        found.append(Listed(name, config.kind, config.kind in kinds, documents, state))
    return tuple(found)


def _state(entry: SourceFreshness) -> str:
    if entry.hold:
        return "on hold"
    stale = "" if entry.fresh else ", stale"
    return f"{entry.last_outcome or 'never pulled'}{stale}"


def list_kinds() -> dict[str, str]:
    """Kind -> the class that pulls it, with the package that registers it."""
    return {
        name: f"{entry.value} ({entry.dist.name})" if entry.dist else entry.value
        for name, entry in registered_kinds().items()
    }


def check_source(kb: KnowledgeBase, name: str, *, source: Source | None = None) -> SourceCheck:
    """Connect to a source and read some of it, twice: as the first refresh would, and as a later one.

    Args:
        kb: the knowledge base.
        name: of the source.
        source: an opened one to use instead of what the configuration says.

    Raises:
        NotFoundError: the configuration names no such source.
        ConfigError: its configuration is wrong, or nothing registers its kind.
        SourceError: it does not answer, or not with what it should.
    """
    config = kb.source(name)
    source = source or open_source(name, config, root=kb.root)
    profile = _Profile()
    request = PullRequest()
    first, end = _read(name, source, request, profile)
    quiet = None
    if end is not None:
        told = replace(request, watermark=end.watermark, known=profile.fingerprints)
        told = replace(told, current=frozenset(profile.keys))
        quiet, _ = _read(name, source, told, None)
    return SourceCheck(
        name,
        config.kind,
        tuple(profile.records),
        profile.fields(),
        _strategy(config, end, quiet),
        first,
        quiet,
    )


def _read(
    name: str, source: Source, request: PullRequest, profile: _Profile | None
) -> tuple[Reading, ExtractEnd | None]:
    """Pull to the end, or as far as a check goes."""
    began, records, states = time.monotonic(), 0, Counter[str]()
    pull = pull_checked(name, source, request)
    end = None
    try:
        while records < MOST_RECORDS and time.monotonic() - began < MOST_SECONDS:
            batch = next(pull)
            records += batch.num_rows
            states.update(batch.column("state").to_pylist())
            if profile is not None:
                profile.add(batch)
    except StopIteration as stop:
        end = stop.value
    finally:
        pull.close()
    reading = Reading(
        records,
        round(time.monotonic() - began, 3),
        end is not None,
        end is not None and end.complete,
        dict(states),
        end.note if end else "",
    )
    return reading, end


def _strategy(config: SourceConfig, end: ExtractEnd | None, quiet: Reading | None) -> str:
    chosen = getattr(config, "chosen_strategy", None)
    named = f"{chosen}: " if isinstance(chosen, str) else ""
    if end is None or quiet is None:
        return f"{named}not known before a pull has come to its end"
    if quiet.complete and not quiet.records:
        return f"{named}the source proves that nothing changed, and lists nothing"
    if not quiet.complete:
        return f"{named}only what changed since the last extract is listed; deletions are not seen"
    if quiet.states.get("unchanged", 0) == quiet.records:
        return f"{named}every record is listed, and known ones are told by their fingerprint"
    if quiet.states.get("unchanged", 0):
        return f"{named}every record is listed, and some are told by their fingerprint"
    return f"{named}every record is read and compared with what is stored"


class _Profile:
    """What records look like, taken batch by batch."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.fingerprints: dict[str, str] = {}
        self.keys: set[str] = set()
        self._count = 0
        self._filled: Counter[str] = Counter()
        self._types: dict[str, Counter[str]] = {}
        self._longest: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            metadata = json.loads(row["metadata"] or "{}")
            if len(self.records) < _SHOWN:
                when = row["source_ts"].isoformat() if row["source_ts"] else None
                self.records.append({**row, "metadata": metadata, "source_ts": when})
            if row["key"]:
                self.keys.add(row["key"])
                if row["fingerprint"]:
                    self.fingerprints[row["key"]] = row["fingerprint"]
            self._count += 1
            for name in ("key", "text", "title", "url", "source_ts", "fingerprint", "error"):
                self._see(name, row[name])
            for name, value in metadata.items():
                self._see(f"metadata.{name}", value)

    def _see(self, name: str, value: Any) -> None:
        if value in (None, "", [], {}):
            return
        self._filled[name] += 1
        self._types.setdefault(name, Counter())[_NAMES.get(type(value), "time")] += 1
        if isinstance(value, str):
            self._longest[name] = max(self._longest[name], len(value))

    def fields(self) -> tuple[Field, ...]:
        return tuple(
            Field(
                name,
                tuple(kind for kind, _ in self._types[name].most_common()),
                round(count / self._count, 3),
                self._longest[name],
            )
            for name, count in self._filled.items()
        )


_NAMES = {
    str: "text",
    bool: "yes/no",
    int: "whole number",
    float: "number",
    list: "list",
    dict: "mapping",
}
