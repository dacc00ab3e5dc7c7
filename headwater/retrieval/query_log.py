"""What was asked, for those who tend the knowledge: `queries/<day>.jsonl` beside the store.

Off unless it is switched on, and then private: a question is a keyed hash, by which equal ones can
be counted and nobody can test a guess without the key. Its words are kept only where that is
configured too. A log that cannot be written never fails a search.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from headwater.retrieval.hits import Hit
from headwater.retrieval.normalisation import normalise

log = logging.getLogger(__name__)

FOLDER: Final = "queries"
_SECRET: Final = "key"
_KEY_BYTES: Final = 32
_VERSION: Final = 1
_LONGEST_TEXT: Final = 1000
_RETRY_S: Final = 60.0


@dataclass(frozen=True)
class Asked:
    """One line of the log.

    Attributes:
        at: when, RFC 3339 in UTC, to the second.
        query: keyed hash of the normalised question, hex.
        mode: hybrid, dense or lexical.
        snapshot: that was searched.
        k, found: hits asked for and returned.
        cosine: of the nearest hit, -1 to 1; None without one, and in a lexical search.
        sources: hits by source.
        top: the documents of the first three hits, `source/key`; empty where texts are not kept.
        restricted: whether labels, filters or times narrowed the search.
        past: whether another snapshot than the current one was asked for.
        ms: milliseconds that it took.
        text: the question; None where texts are not kept.
    """

    at: str
    query: str
    mode: str
    snapshot: str
    k: int
    found: int
    cosine: float | None
    sources: dict[str, int] = field(default_factory=dict)
    top: tuple[str, ...] = ()
    restricted: bool = False
    past: bool = False
    ms: float = 0.0
    text: str | None = None


class QueryLog:
    """Appends to the log of a knowledge base. Safe between threads, processes and across a fork.

    Args:
        root: the knowledge base's folder.
        text: keep the questions' words, and the documents that were found for them.
        keep: with the first line of a day, days older than this are removed; None keeps all.
    """

    def __init__(self, root: Path, *, text: bool = False, keep: timedelta | None = None) -> None:
        self._folder = root / FOLDER
        self._text = text
        self._keep = keep
        self._pruned = ""
        self._secret = b""
        self._lock = threading.Lock()
        self._given_up = float("-inf")

    def record(
        self,
        query: str,
        hits: Sequence[Hit],
        *,
        mode: str,
        snapshot: str,
        k: int,
        restricted: bool,
        past: bool,
        seconds: float,
    ) -> None:
        """Append a line; where that fails, say so once a minute and go on."""
        if time.monotonic() - self._given_up < _RETRY_S:
            return
        cosines = [hit.cosine for hit in hits if hit.cosine is not None]
        plain = normalise(query)
        try:
            line = Asked(
                at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                query=hmac.digest(self._key(), plain.encode(), "sha256").hex()[:32],
                mode=mode,
                snapshot=snapshot,
                k=k,
                found=len(hits),
                cosine=round(max(cosines), 4) if cosines else None,
                sources=dict(Counter(hit.source for hit in hits)),
                top=tuple(f"{hit.source}/{hit.key}" for hit in hits[:3]) if self._text else (),
                restricted=restricted,
                past=past,
                ms=round(1000 * seconds, 2),
                text=plain[:_LONGEST_TEXT] if self._text else None,
            )
            self._append(line)
        except (OSError, ValueError) as error:
            # The latter: its key is damaged.
            self._given_up = time.monotonic()
            log.warning("the query log cannot be written: %s: %s", self._folder, error)

    def _append(self, line: Asked) -> None:
        day = line.at[:10]
        if self._keep is not None and day != self._pruned:
            prune_log(self._folder.parent, keep=self._keep, today=date.fromisoformat(day))
            self._pruned = day
        data = json.dumps({"v": _VERSION, **vars(line)}, separators=(",", ":")).encode() + b"\n"
        path = self._folder / f"{day}.jsonl"
        # Not through the store's door: this is no part of it, and is not worth waiting for the disk.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # One write at the end of the file: lines of several processes never mix.
            os.write(handle, data)
        finally:
            os.close(handle)

    def _key(self) -> bytes:
        """The key of the hashes: made with the first line, by one of those who try."""
        with self._lock:
            if not self._secret:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                path = self._folder / _SECRET
                # Linked when it is whole, so that nobody reads half of a key.
                draft = self._folder / f".{_SECRET}-{os.getpid()}-{os.urandom(4).hex()}"
                if not path.exists():
                    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    os.write(handle, os.urandom(_KEY_BYTES).hex().encode())
                    os.close(handle)
                    with suppress(FileExistsError):
                        os.link(draft, path)
                    draft.unlink()
                secret = bytes.fromhex(path.read_text())
                if len(secret) != _KEY_BYTES:
                    raise ValueError(
                        f"{path.name} is damaged: 'headwater queries clear' removes it"
                    )
                self._secret = secret
            return self._secret


def read_log(
    root: Path, *, since: date | None = None, until: date | None = None
) -> Iterator[Asked]:
    """The lines of the log, oldest first; those that a crash tore are left out.

    Args:
        root: the knowledge base's folder.
        since: the first day; None for all.
        until: the last day; None for all.
    """
    known = Asked.__dataclass_fields__
    for path in _days(root):
        day = date.fromisoformat(path.stem)
        if (since and day < since) or (until and day > until):
            continue
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, TypeError, AttributeError):
                raw: dict[str, Any] = json.loads(line)
                found = {name: value for name, value in raw.items() if name in known}
                yield Asked(**{**found, "top": tuple(found.get("top", ()))})


def prune_log(root: Path, *, keep: timedelta, today: date) -> list[str]:
    """Remove the days that are older than `keep`; returns them."""
    gone = []
    for path in _days(root):
        if date.fromisoformat(path.stem) < today - keep:
            path.unlink(missing_ok=True)
            gone.append(path.stem)
    return gone


def lines_naming(root: Path, named: re.Pattern[str]) -> int:
    """How many lines name something, in a question or in the documents that were found for it."""
    return sum(
        _names(line, named) for path in _days(root) for line in path.read_bytes().splitlines()
    )


def forget_lines(root: Path, named: re.Pattern[str]) -> int:
    """Take out the lines that name something; returns how many.

    For an erasure. Lines without text cannot name anybody. What a service adds at the very moment
    may be lost with them.
    """
    gone = 0
    for path in _days(root):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not _names(line, named)]
        if len(kept) < len(lines):
            gone += len(lines) - len(kept)
            draft = path.with_suffix(".tmp")
            draft.touch(mode=0o600)
            draft.write_bytes(b"".join(kept))
            draft.replace(path)
    return gone


def clear_log(root: Path) -> int:
    """Remove everything, the key of the hashes too; returns how many days there were."""
    days = _days(root)
    for path in (*days, root / FOLDER / _SECRET):
        path.unlink(missing_ok=True)
    return len(days)


def _names(line: bytes, named: re.Pattern[str]) -> bool:
    try:
        raw = json.loads(line)
        told = "\n".join([raw.get("text") or "", *raw.get("top", ())])
    except (ValueError, AttributeError, TypeError):
        # Torn: what is left of it is looked at as it is.
        told = line.decode("utf-8", "replace")
    return bool(named.search(told))


def _days(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"))
