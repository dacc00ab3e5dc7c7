"""What is remembered of each page between two pulls, so that an unchanged one costs one short reply.

A visit says "with these validators the page had that fingerprint", which stays true whatever is
published or rolled back: the fingerprint to compare with comes from the store. So visits need no
transaction. They lie beside the knowledge base, like the marks of files (`seen`), and losing them
costs one full reading of every page.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater.flows.sources.http import Validators


@dataclass(frozen=True)
class Visit:
    """The last successful visit of a page.

    Attributes:
        fingerprint: of the document it gave.
        body: hash of what was sent.
        validators: to ask with whether it changed.
        hint: the date its listing gave it then, as it stood there.
        at: Unix time in s.
        whole: the page showed its end, `</html>`.
    """

    fingerprint: str
    body: str
    validators: Validators
    hint: str | None
    at: float
    whole: bool = False


class Visits:
    """The visits of one source.

    Args:
        path: the file they are kept in.
        scope: what else a fingerprint depends on: visits of another scope are none.

    Attributes:
        trouble: why they could not be kept, empty when they could.
    """

    def __init__(self, path: Path, *, scope: str) -> None:
        self._path = path
        self._scope = scope
        self._before = _load(path, scope)
        self._now: dict[str, Visit] = {}
        self.trouble = ""

    def get(self, url: str) -> Visit | None:
        """The last visit of `url`."""
        return self._before.get(url)

    def keep(self, url: str, visit: Visit) -> None:
        """Remember a visit."""
        self._now[url] = visit

    def save(self, listed: Iterable[str]) -> None:
        """Keep the visits of this pull, and older ones of pages that are still listed."""
        kept = {url: self._before[url] for url in listed if url in self._before} | self._now
        if kept == self._before:
            return
        data = {"scope": self._scope, "visits": {url: _row(kept[url]) for url in sorted(kept)}}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(data, file)
                Path(name).replace(self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            self.trouble = error.strerror or str(error)


def _row(visit: Visit) -> list[object]:
    proof = visit.validators
    return [
        visit.fingerprint,
        visit.body,
        proof.etag,
        proof.last_modified,
        visit.hint,
        round(visit.at, 3),
        visit.whole,
    ]


def _load(path: Path, scope: str) -> Mapping[str, Visit]:
    """The visits in a file; none when it is missing, damaged or of another scope."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["scope"] != scope:
            return {}
        return {
            url: Visit(print_, body, Validators(etag, modified), hint, float(at), bool(whole))
            for url, (print_, body, etag, modified, hint, at, whole) in data["visits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
