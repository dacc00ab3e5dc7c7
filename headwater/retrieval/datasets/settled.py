"""Which chunks have settled: a text that stayed in its document while its source kept confirming it.

Pure: tables and evidence in, judgements out. A chunk is a text in a document: what else changed in
that document does not matter, and a rename carries its age on. A document that was removed and came
back starts anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

import pyarrow as pa

DocumentId = tuple[str, str]
"""Source and key."""

ChunkId = tuple[str, str, bytes]
"""Source, key and the hash of the normalised text."""

NOT_SETTLED = "not settled yet"
HELD_BACK = "its document is held back in quarantine"
ON_HOLD = "its source is on hold"


@dataclass(frozen=True)
class Rule:
    """When a chunk counts as settled.

    Attributes:
        settled_for: unchanged for at least this long, in knowledge time.
        min_checks: confirmed by at least this many verifications after the one that brought it.
    """

    settled_for: timedelta
    min_checks: int


@dataclass(frozen=True)
class LostBranch:
    """What stood in the snapshots that a rollback left behind.

    Attributes:
        until: knowledge time of the rollback.
        seen: since when each text stood there. A text that did not stand there was contradicted:
            its age counts from `until`.
    """

    until: datetime
    seen: Mapping[ChunkId, datetime]


@dataclass(frozen=True)
class Evidence:
    """What is known about a snapshot beside its tables.

    Attributes:
        verifications: source -> when all its live documents were confirmed, oldest first, only
            while the snapshot stood.
        observed_at: knowledge time of the snapshot.
        held_back: documents whose newest record is in quarantine.
        held_until: when an earlier such time of a document ended; its clock starts there again.
        on_hold: sources that refreshes leave alone since a rollback.
        lost: of the newest rollback before the snapshot, or None.
    """

    verifications: Mapping[str, Sequence[datetime]]
    observed_at: datetime
    held_back: frozenset[DocumentId] = frozenset()
    held_until: Mapping[DocumentId, datetime] = field(default_factory=dict)
    on_hold: frozenset[str] = frozenset()
    lost: LostBranch | None = None


@dataclass(frozen=True)
class Judgement:
    """What the evidence says about one live chunk.

    Attributes:
        since: when the text came into the document to stay.
        checks: verifications after `since` up to `confirmed_at`.
        confirmed_at: the verification the judgement rests on; `since` when there was none. For a
            settled chunk the first one at or after the snapshot that fulfils the rule, so that more
            evidence never changes what was said of it.
        why: why it is not settled; empty when it is.
    """

    source: str
    key: str
    text_hash: bytes
    since: datetime
    checks: int
    confirmed_at: datetime
    why: str

    @property
    def settled(self) -> bool:
        """Whether it may be learned."""
        return not self.why

    @property
    def unchanged_for(self) -> timedelta:
        """How long the text is known to have stood."""
        return self.confirmed_at - self.since


@dataclass(frozen=True)
class _Version:
    source: str
    key: str
    content: bytes
    known_at: datetime
    before: str | None
    renamed_from: str | None


class History:
    """The lives of the documents of a snapshot.

    Args:
        versions: `version_id`, `source`, `key`, `content_hash`, `known_at`, `seq`, `renamed_from`.
        closures: `version_id`, `source`, `key`, `op`, `seq`.
        chunks: `content_hash`, `text_hash` of all contents, past ones included.
    """

    def __init__(self, versions: pa.Table, closures: pa.Table, chunks: pa.Table) -> None:
        ended = closures.select(["version_id", "source", "key", "op", "seq"]).to_pylist()
        self._closed = {row["version_id"] for row in ended}
        followed = {
            (row["source"], row["key"], row["seq"]): str(row["version_id"])
            for row in ended
            if row["op"] != "removed"
        }
        names = ["version_id", "source", "key", "content_hash", "known_at", "seq", "renamed_from"]
        self._versions = {
            row["version_id"]: _Version(
                row["source"],
                row["key"],
                row["content_hash"],
                row["known_at"],
                followed.get((row["source"], row["renamed_from"] or row["key"], row["seq"])),
                row["renamed_from"],
            )
            for row in versions.select(names).to_pylist()
        }
        self._texts: dict[bytes, set[bytes]] = {}
        for content, text in zip(
            chunks["content_hash"].to_pylist(), chunks["text_hash"].to_pylist(), strict=True
        ):
            self._texts.setdefault(content, set()).add(text)

    @cached_property
    def origins(self) -> dict[DocumentId, str]:
        """Each live document's first key, before every rename that is known."""
        return {(v.source, v.key): self._origin(v) for v in self._live()}

    @cached_property
    def first_seen(self) -> dict[ChunkId, datetime]:
        """Since when each text of each live document has stood there without a break."""
        found: dict[ChunkId, datetime] = {}
        for version in self._live():
            standing = set(self._texts.get(version.content, ()))
            for past in self._line(version):
                standing &= self._texts.get(past.content, set())
                if not standing:
                    break
                for text in standing:
                    found[version.source, version.key, text] = past.known_at
        return found

    def _live(self) -> Iterator[_Version]:
        for name, version in self._versions.items():
            if name not in self._closed:
                yield version

    def _line(self, version: _Version) -> Iterator[_Version]:
        """A version and those it followed, newest first, up to the document's birth."""
        at: _Version | None = version
        while at is not None:
            yield at
            at = self._versions.get(at.before) if at.before else None

    def _origin(self, version: _Version) -> str:
        *_, first = self._line(version)
        return first.renamed_from or first.key


def judge_chunks(history: History, evidence: Evidence, rule: Rule) -> tuple[Judgement, ...]:
    """Judge every live chunk, sorted by source, key and hash."""
    return tuple(
        _judge(chunk, _since(chunk, seen, evidence), evidence, rule)
        for chunk, seen in sorted(history.first_seen.items())
    )


def settled_chunks(history: History, evidence: Evidence, rule: Rule) -> tuple[Judgement, ...]:
    """The live chunks that have settled."""
    return tuple(j for j in judge_chunks(history, evidence, rule) if j.settled)


def _since(chunk: ChunkId, seen: datetime, evidence: Evidence) -> datetime:
    lost = evidence.lost
    if lost is not None and seen < lost.until:
        seen = max(seen, lost.seen.get(chunk, lost.until))
    return max(seen, evidence.held_until.get(chunk[:2], seen))


def _judge(chunk: ChunkId, since: datetime, evidence: Evidence, rule: Rule) -> Judgement:
    source, key, _ = chunk
    times = evidence.verifications.get(source, ())
    born = bisect_right(times, since)
    known = max(born, bisect_right(times, evidence.observed_at))
    for count in range(known, len(times) + 1):
        confirmed = times[count - 1] if count > born else since
        checks = count - born
        if checks >= rule.min_checks and confirmed - since >= rule.settled_for:
            why = _obstacle(source, key, evidence)
            return Judgement(*chunk, since, checks, confirmed, why)
    confirmed = times[-1] if len(times) > born else since
    why = _obstacle(source, key, evidence) or NOT_SETTLED
    return Judgement(*chunk, since, len(times) - born, confirmed, why)


def _obstacle(source: str, key: str, evidence: Evidence) -> str:
    if (source, key) in evidence.held_back:
        return HELD_BACK
    return ON_HOLD if source in evidence.on_hold else ""
