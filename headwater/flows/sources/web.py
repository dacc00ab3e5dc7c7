"""The `web` source: pages that a list, a sitemap or a feed names, each a document.

A page that cannot be had for now keeps its document; one that is missing (404, 410) in two pulls in
a row is gone. Which pages there are is read anew each time, and absence from a list that was read
whole is a deletion, within the guard; a feed is a window, and absence from it is none.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from headwater.config import WebConfig, expand
from headwater.errors import ConfigError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.document_rows import DocumentRows
from headwater.flows.sources.http import HttpSession, Limits
from headwater.flows.sources.http_access import Access, check_plain
from headwater.flows.sources.http_guard import Addresses
from headwater.flows.sources.parsing.worker import ParserWorker
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, canonical_json
from headwater.flows.sources.urls import Origin, normal_url, origin_of
from headwater.flows.sources.web_listing import Lister, WebListing
from headwater.flows.sources.web_pages import Outcome, PageVisitor, parsers_id
from headwater.flows.sources.web_robots import Robots
from headwater.flows.sources.web_visits import Visit, Visits

_ATTEMPTS = 3
_DOWN_AFTER = 5
"""So many pages in a row without an answer, and their site is not asked for more in this pull."""


class WebSource:
    """Pages of the web.

    Args:
        name: of the source.
        config: its options.
        root: the folder of `headwater.yaml`.

    Raises:
        ConfigError: a URL is none, an environment variable is not set, or credentials are given
            for pages of several origins.
    """

    def __init__(self, name: str, config: WebConfig, *, root: Path) -> None:
        self._name = name
        self._config = config
        self._root = root
        self._pages = self._urls("pages", config.pages)
        self._lists = self._urls("sitemaps", config.sitemaps) + self._urls("feeds", config.feeds)
        sent = (*config.pages, *config.sitemaps, *config.feeds)
        urls = (*self._pages, *self._lists)
        access = Access.of(config, urls, where=f"sources.{name}", sent=sent)
        if (config.headers or config.token or config.auth) and len(access.origins) > 1:
            raise ConfigError(
                "Credentials belong to one origin, and the pages are on several",
                obj=f"sources.{name}",
                todo="make a source for each origin",
            )
        self._access = access

    def _urls(self, option: str, urls: Iterable[str]) -> tuple[str, ...]:
        where = f"sources.{self._name}.{option}"
        try:
            expanded = (check_plain(expand(url, where=where), where=where) for url in urls)
            return tuple(normal_url(url) for url in expanded)
        except SourceDataError as error:
            raise ConfigError(error.what, obj=f"{where}: {error.obj}", todo=error.todo) from None

    def pull(self, request: PullRequest) -> Pull:
        """Yield the pages; see `Source.pull`.

        Complete when every list could be read, every page was asked for, and all were wanted.

        Raises:
            SourceUnreachableError: a list cannot be had, or no page answers.
            SourceDataError: a list is none.
            ConfigError: a window of time was asked for.
        """
        if request.window is not None:
            raise ConfigError(
                "Web pages have no time of their own to backfill by",
                obj=self._name,
                todo="leave out the window, or name pages with --key",
            )
        config = self._config
        limits = Limits(
            timeout_s=config.timeout.total_seconds(),
            deadline_s=config.deadline.total_seconds(),
            max_bytes=config.max_bytes,
            rate=config.rate,
            attempts=_ATTEMPTS,
        )
        worker = ParserWorker(deadline_s=config.parse_timeout.total_seconds())
        http = HttpSession(self._access, limits, Addresses(config.allow_private))
        with self._access.hiding(), http, worker:
            lister = Lister(config, pages=self._pages, lists=self._lists)
            listing = lister.read(http)
            if config.feeds:
                for key in request.known:
                    if lister.takes(key):
                        listing.hints.setdefault(key, None)
            pulling = _Pulling(config, http, worker, request, listing, self._visits())
            yield from pulling.batches()
        note = pulling.note()
        if request.keys is not None:
            return ExtractEnd(complete=False, watermark=request.watermark, note=note)
        return ExtractEnd(pulling.complete, pulling.watermark(), note=note)

    def _visits(self) -> Visits:
        path = self._root / ".headwater" / "web" / f"{self._name}.json"
        return Visits(path, scope=f"1 {self._config.user_agent} {parsers_id()}")


class _Pulling:
    """One pull: the pages of a listing become rows."""

    def __init__(
        self,
        config: WebConfig,
        http: HttpSession,
        worker: ParserWorker,
        request: PullRequest,
        listing: WebListing,
        visits: Visits,
    ) -> None:
        robots = Robots(http, config.user_agent) if config.robots == "respect" else None
        self._config = config
        self._http = http
        self._request = request
        self._listing = listing
        self._visits = visits
        self._visitor = PageVisitor(
            http=http,
            allowed=robots.check if robots else None,
            worker=worker,
            visits=visits,
            known=request.known,
            page_bytes=config.page_bytes,
            agent=config.user_agent,
            by_name=request.keys is not None,
        )
        self._missing_before = _read_watermark(request.watermark)
        self._missing: dict[str, int] = {}
        self._silent: Counter[Origin] = Counter()
        self._answered = 0
        self._not_asked = 0
        self._bytes = 0
        self._counts: Counter[str] = Counter()

    @property
    def complete(self) -> bool:
        """Whether absence from what was listed means deletion."""
        return not (self._not_asked or self._listing.failed)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows.

        Raises:
            SourceUnreachableError: not a single page answered.
        """
        rows = DocumentRows(self._config.labels)
        held: list[tuple[str, Outcome]] = []
        for url, hint in self._in_order():
            outcome = self._take(url, hint)
            if outcome is None:
                self._not_asked += 1
            elif self._answered == 0:
                # Nobody knows yet whether these pages fail or the whole site does.
                held.append((url, outcome))
            else:
                for one in (*held, (url, outcome)):
                    self._add(rows, *one)
                held.clear()
            if rows.full:
                yield rows.batch()
        if held:
            url, outcome = held[0]
            raise SourceUnreachableError(
                f"No page could be had: {outcome.error}",
                obj=url,
                todo=outcome.advice or "run again later",
            )
        if self._request.keys is None:
            self._visits.save(self._listing.hints)
        if rows.count:
            yield rows.batch()

    def _in_order(self) -> list[tuple[str, str | None]]:
        """New pages first, then those whose date moved, then by the age of their last visit."""
        wanted = self._request.keys

        def urgency(entry: tuple[str, str | None]) -> tuple[int, float]:
            visit = self._visitor.last(entry[0])
            if visit is None:
                return 0, 0.0
            return (1 if entry[1] != visit.hint else 2), visit.at

        listed = ((u, h) for u, h in self._listing.hints.items() if wanted is None or u in wanted)
        return sorted(listed, key=urgency)

    def _take(self, url: str, hint: str | None) -> Outcome | None:
        """Ask for one page; None when there is no time, or its site does not answer."""
        visit = self._visitor.last(url)
        if visit is not None and self._is_young(visit, hint):
            self._visits.keep(url, visit)
            self._counts["not asked, as their dates stand still"] += 1
            self._answered += 1
            return Outcome("unchanged", visit.fingerprint)
        origin = origin_of(url)
        spent = self._bytes > self._config.max_bytes or self._http.left_s <= 0
        if spent or self._silent[origin] >= _DOWN_AFTER:
            return None
        outcome = self._visitor.visit(url, hint)
        self._http.start_over()
        self._bytes += outcome.size
        if outcome.state != "down":
            self._answered += 1
            self._silent[origin] = 0
            return outcome
        self._silent[origin] += 1
        # A page that the deadline cut off was not asked in earnest.
        return None if self._http.left_s <= 0 else outcome

    def _is_young(self, visit: Visit, hint: str | None) -> bool:
        longest = self._config.max_age
        if longest is None or hint is None or hint != visit.hint or self._request.keys is not None:
            return False
        return 0 <= time.time() - visit.at < longest.total_seconds()

    def _add(self, rows: DocumentRows, url: str, outcome: Outcome) -> None:
        state = "unreadable" if outcome.state == "down" else outcome.state
        if outcome.status:
            before = self._missing_before.get(url, 0)
            self._missing[url] = min(before + 1, 2)
            state = "gone" if before else state
        self._counts[state] += 1
        if state == "unchanged" and outcome.fingerprint is not None:
            rows.unchanged(url, outcome.fingerprint)
        elif state == "present" and outcome.document is not None:
            rows.add(
                url,
                "present",
                fingerprint=outcome.fingerprint,
                source_ts=outcome.modified,
                text=outcome.document.text,
                title=outcome.document.title,
                url=outcome.url,
                metadata=canonical_json(outcome.document.metadata),
            )
        elif state == "gone":
            rows.add(url, "gone")
        else:
            rows.add(url, "unreadable", error=outcome.error)

    def watermark(self) -> str | None:
        """The pages that are missing: a second time in a row deletes them."""
        missing = dict(self._missing)
        # A page that was not asked for this time breaks no row.
        missing |= {
            url: count
            for url, count in self._missing_before.items()
            if url in self._listing.hints and self._not_asked and url not in missing
        }
        return json.dumps({"missing": missing}, sort_keys=True) if missing else None

    def note(self) -> str:
        """One line for the run log."""
        listing = self._listing
        parts = [f"{len(listing.hints):,} pages"]
        parts += [f"{number:,} {state}" for state, number in sorted(self._counts.items())]
        if listing.unwanted:
            parts.append(f"{listing.unwanted:,} left out by 'include' and 'exclude'")
        if listing.other:
            parts.append(f"{listing.other:,} on other hosts left out")
        if self._visits.trouble:
            parts.append(f"visits cannot be kept ({self._visits.trouble})")
        if self._not_asked:
            parts.append(f"incomplete: {self._not_asked:,} were not asked for")
        parts += [f"incomplete: {why}" for why in listing.failed[:3]]
        return ", ".join(parts)


def _read_watermark(text: str | None) -> Mapping[str, int]:
    try:
        missing = json.loads(text or "{}")["missing"]
        return {url: count for url, count in missing.items() if isinstance(count, int)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
