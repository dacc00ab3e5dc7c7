"""The `documents` source: files of a folder, an archive, a repository, a bucket or a web listing.

A document is parsed only when its content, its parser or an option changed; its fingerprint says
so. Of a file on a disk, size and times tell whether it must be opened at all (`seen`); a repository
and a bucket name the content of each file themselves.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from headwater.config import DocumentsConfig, expand
from headwater.errors import ConfigError, ParseError
from headwater.flows.sources.document_rows import DocumentRows
from headwater.flows.sources.opening import open_place
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import check_encoding, detector
from headwater.flows.sources.parsing.formats import FORMATS, Format, finish, no_text
from headwater.flows.sources.parsing.worker import ParserWorker
from headwater.flows.sources.places import Choice, Item, Listing, Place
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, canonical_json
from headwater.flows.sources.seen import Seen


class DocumentsSource:
    """Files, each a document.

    Args:
        name: of the source, for messages.
        config: its options.
        root: the folder of `headwater.yaml`.

    Raises:
        ConfigError: the encoding is unknown, the root is of no known kind, or an environment
            variable is not set.
    """

    counts_partial_runs = True

    def __init__(self, name: str, config: DocumentsConfig, *, root: Path) -> None:
        self._name = name
        self._config = config
        self._root = root
        self._place_of = open_place(name, config, root=root)
        self._url = expand(config.url, where=f"sources.{name}.url") if config.url else None
        self._encoding = check_encoding(config.encoding, where=f"sources.{name}.encoding")
        self._choice = Choice.of(config.glob, config.exclude)

    def pull(self, request: PullRequest) -> Pull:
        """Yield the documents; see `Source.pull`.

        Complete when every folder could be listed and all keys were asked for. A window chooses
        among the documents of now by when they last changed.

        Raises:
            SourceUnreachableError: the root is missing, cannot be listed or no longer answers.
            ConfigError: a window of time was asked for, and the place knows no times.
            MissingExtraError: a format's library is not installed.
        """
        with self._place_of() as place, self._worker() as worker:
            if request.window is not None and not place.dated:
                raise ConfigError(
                    "Documents on a disk have no time of their own to backfill by",
                    obj=self._name,
                    todo="leave out the window, or name documents with --key",
                )
            narrowed = request.keys is not None or request.window is not None
            mark = request.watermark if narrowed else self._watermark(place.state())
            # While something waits, the documents are no longer what that commit was: a part of a
            # later one was taken in. Were the branch put back, nobody would notice.
            same = mark is not None and mark == request.watermark and not request.partial_runs
            if same and not narrowed:
                return ExtractEnd(
                    complete=True, watermark=mark, note="the same commit", unchanged=True
                )
            # Stamps younger than this moment are not trusted: it comes before the listing.
            seen = Seen(self._marks(), scope=self._config.root)
            listing = place.list_files(self._choice)
            files = _chosen(listing, place, request)
            reading = _Reading(self, place, worker, seen, request)
            for item in files:
                reading.take(item)
                if reading.rows.full:
                    yield reading.rows.batch()
        if not narrowed:
            for why in listing.unnamed:
                reading.rows.add(None, "unreadable", error=why)
            for key, why in sorted(listing.refused.items()):
                reading.rows.add(key, "unreadable", error=why)
            if not listing.failed:
                seen.save()
        elif request.keys is not None:
            _add_absent(reading.rows, request.keys - {one.key for one in files}, listing)
        if reading.rows.count:
            yield reading.rows.batch()
        note = _note(len(files), reading.counts, listing, seen.trouble)
        complete = not narrowed and not listing.failed
        return ExtractEnd(complete=complete, watermark=mark, note=note)

    def _watermark(self, state: str | None) -> str | None:
        """The state of the place, and all else that decides which records come of it."""
        if state is None:
            return None
        options = self._config.model_dump_json(include={"glob", "exclude", "max_bytes"})
        parts = [options, *(self.tails(one).failed for one in FORMATS)]
        return f"{state} {hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"

    def _worker(self) -> ParserWorker:
        return ParserWorker(deadline_s=self._config.timeout.total_seconds())

    def _marks(self) -> Path:
        return self._root / ".headwater" / "seen" / self._name

    def link(self, key: str) -> str | None:
        """The document's address by the configured template."""
        return self._url.replace("{key}", quote(key)) if self._url else None

    def tails(self, fmt: Format) -> _Tails:
        """What follows the name of the content in a fingerprint: all else that makes the record."""
        link = f";{hashlib.sha256(self._url.encode()).hexdigest()[:8]}" if self._url else ""
        plain = f":{fmt.parser_id(self._encoding)}{link}"
        guessed = f"{plain};{detector()}" if fmt.encoded and self._encoding == "auto" else plain
        limits = f";{self._config.timeout.total_seconds():g}s"
        return _Tails(plain, guessed, guessed + limits)

    def parse(self, item: Item, data: bytes, worker: ParserWorker) -> ParsedDocument:
        """The document in `data`.

        Raises:
            ParseError: there is none, and why.
        """
        if not data.strip():
            raise no_text(item.key)
        item.format.check_installed()
        parsed = worker.parse(item.format, data, name=item.key, encoding=self._encoding)
        return finish(parsed, name=item.key)

    @property
    def max_bytes(self) -> int:
        """A larger file goes to quarantine."""
        return self._config.max_bytes

    @property
    def labels(self) -> tuple[str, ...]:
        """Put on every document."""
        return self._config.labels


@dataclass(frozen=True)
class _Tails:
    """How the fingerprints of one format end.

    Attributes:
        plain: of a document whose encoding was given, or plain to see.
        guessed: of one whose encoding had to be detected: the detector plays a part.
        failed: of one that could not be parsed: the limits play a part too.
    """

    plain: str
    guessed: str
    failed: str


class _Reading:
    """One pull: the files of a listing become rows.

    Attributes:
        rows: what was read and not yet yielded.
        counts: how many files were unchanged, unreadable, …
    """

    def __init__(
        self,
        source: DocumentsSource,
        place: Place,
        worker: ParserWorker,
        seen: Seen,
        request: PullRequest,
    ) -> None:
        self._source = source
        self._place = place
        self._worker = worker
        self._seen = seen
        self._known = request.known
        # Whoever asks for a document by name wants it tried again.
        self._refused = request.refused if request.keys is None else {}
        self._tails = {one.name: source.tails(one) for one in FORMATS}
        self.rows = DocumentRows(source.labels)
        self.counts: Counter[str] = Counter()

    def take(self, item: Item) -> None:
        """Add the row of one file."""
        tails = self._tails[item.format.name]
        known = self._known.get(item.key)
        refused = self._refused.get(item.key)
        if refused is None:
            # The common case, in few steps: nothing is opened.
            if known is not None and self._still(item, known, tails.plain, tails.guessed):
                self.counts["unchanged"] += 1
                self.rows.unchanged(item.key, known)
                return
        elif self._still(item, refused[0], tails.failed):
            self._fail(item, refused[1], refused[0], tried=False)
            return
        self._read(item, tails, known, refused)

    def _still(self, item: Item, fingerprint: str, *tails: str) -> bool:
        """Whether the file has this fingerprint, as far as can be told without opening it."""
        content, colon, tail = fingerprint.partition(":")
        if colon + tail not in tails:
            return False
        if item.version is not None:
            return content == item.version
        return self._seen.holds(item.key, fingerprint, item.stamp)

    def _read(
        self, item: Item, tails: _Tails, known: str | None, refused: tuple[str, str] | None
    ) -> None:
        failed = None
        try:
            data = self._place.read(item, self._source.max_bytes)
            content = item.version or hashlib.sha256(data).hexdigest()
            failed = content + tails.failed
            if refused is not None and refused[0] == failed:
                self._fail(item, refused[1], failed, tried=False)
                return
            if refused is None and known in (content + tails.plain, content + tails.guessed):
                self.counts["unchanged"] += 1
                self._mark(item, known)
                self.rows.unchanged(item.key, known)
                return
            parsed = self._source.parse(item, data, self._worker)
        except ParseError as error:
            self._fail(item, _reason(error), failed)
            return
        except OSError as error:
            self._fail(item, f"the file cannot be read: {error.strerror or error}", None)
            return
        if known is not None and known.partition(":")[0] == content:
            self.counts["parsed anew for another parser or option"] += 1
        self._present(item, parsed, content, tails)

    def _mark(self, item: Item, fingerprint: str) -> None:
        if item.version is None:
            self._seen.keep(item.key, fingerprint, item.stamp)

    def _fail(self, item: Item, why: str, fingerprint: str | None, *, tried: bool = True) -> None:
        self.counts["unreadable" if tried else "unreadable as before"] += 1
        if fingerprint is not None:
            self._mark(item, fingerprint)
        self.rows.add(item.key, "unreadable", error=why, fingerprint=fingerprint)

    def _present(self, item: Item, parsed: ParsedDocument, content: str, tails: _Tails) -> None:
        key = item.key
        fingerprint = content + (tails.guessed if "encoding" in parsed.metadata else tails.plain)
        self._mark(item, fingerprint)
        stem = key.rpartition("/")[2]
        own = {"path": key, "format": item.format.name}
        self.rows.add(
            key,
            "present",
            text=parsed.text,
            title=parsed.title or stem.rpartition(".")[0] or stem,
            url=self._source.link(key),
            metadata=canonical_json({**parsed.metadata, **own}),
            fingerprint=fingerprint,
            source_ts=self._place.time_of(item),
        )


def _chosen(listing: Listing, place: Place, request: PullRequest) -> list[Item]:
    files = listing.files
    if request.keys is not None:
        return [one for one in files if one.key in request.keys]
    window = request.window
    if window is None:
        return files
    times = [(one, place.time_of(one)) for one in files]
    return [one for one, at in times if at is not None and window.start <= at < window.end]


def _add_absent(rows: DocumentRows, keys: Iterable[str], listing: Listing) -> None:
    """Keys that were asked for and are not listed: gone, unless their folder failed."""
    for key in sorted(keys):
        why = next((w for p, w in listing.failed.items() if key.startswith(p)), None)
        if why is None:
            rows.add(key, "gone")
        else:
            rows.add(key, "unreadable", error=f"its folder cannot be listed: {why}")


def _reason(error: ParseError) -> str:
    """One line for the quarantine, in the middle of which the reader already knows the file."""
    what = error.what[0].lower() + error.what[1:]
    return f"{what}: {error.todo}" if error.todo else what


def _note(count: int, counts: Counter[str], listing: Listing, trouble: str) -> str:
    parts = [f"{count:,} files"]
    parts += [f"{number:,} {state}" for state, number in counts.items() if number]
    if listing.other:
        parts.append(f"{listing.other:,} of other formats left out")
    if listing.links:
        parts.append(f"{listing.links:,} links not followed")
    if listing.unnamed:
        parts.append(f"{len(listing.unnamed):,} without a usable name")
    if trouble:
        parts.append(f"the marks of what was seen cannot be kept ({trouble})")
    for prefix, why in sorted(listing.failed.items()):
        parts.append(f"incomplete: {prefix} cannot be listed ({why})")
    return ", ".join(parts)
