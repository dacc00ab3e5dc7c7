"""A JSON API as a source: each record of the reply becomes a document.

Whatever is cut short or malformed is an error and never a shorter list; a list that changed while
it was read is not complete, and nothing is deleted because of it. The watermark keeps, for each
page, its URL, its validators and the hash of its body, and the newest time that was seen. The next
pull first asks whether any of these pages changed, or asks only for what changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater.config import ApiConfig, expand
from headwater.errors import ConfigError
from headwater.flows.sources.api_pages import Params, Step, style_of
from headwater.flows.sources.api_records import JsonRecord, RecordReader
from headwater.flows.sources.api_values import expand_all, put, time_value
from headwater.flows.sources.api_walk import Asked, Listing, PageReader, Spool, rows_of
from headwater.flows.sources.api_watermark import ApiWatermark, KnownPage, Mask, read_watermark
from headwater.flows.sources.http import HttpSession, Limits, Reply, Request, Validators
from headwater.flows.sources.http_access import Access, check_plain
from headwater.flows.sources.http_guard import Addresses
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, Window
from headwater.flows.sources.rendering import signature
from headwater.flows.sources.urls import with_params, without_params

_RENDERED_BY = (
    *("url", "records", "key", "text", "title", "record_url", "metadata", "ignore"),
    *("updated_at", "params", "pagination", "labels", "method", "body", "place"),
    *("deleted", "deleted_values", "incremental"),
)
_SECRET_FROM = 8
"""Configured parameters of this length are kept out of watermarks: they may be keys."""

_NOTHING = ApiWatermark()


@dataclass(frozen=True)
class _Plan:
    """What one pull lists.

    Attributes:
        bounds: parameters of every page besides those of paging.
        whole: every record is asked for.
        since: only what changed from here on; None for all.
        known: the last published extract, as far as it says something of this one.
    """

    bounds: Params
    whole: bool
    since: datetime | None = None
    known: ApiWatermark = _NOTHING


class ApiSource:
    """Records of a JSON API; see `ApiConfig` for the options."""

    counts_partial_runs = True

    def __init__(self, name: str, config: ApiConfig, *, root: Path) -> None:
        """Keep the configuration; nothing is asked before a pull.

        Raises:
            ConfigError: a `${NAME}` is not set in the environment, or the URL holds credentials.
            SourceDataError: the URL is none.
        """
        self.name = name
        self.root = root
        self._config = config
        where = f"sources.{name}"
        self._url = check_plain(expand(config.url, where=f"{where}.url"), where=f"{where}.url")
        self._params = {k: expand(v, where=f"{where}.params.{k}") for k, v in config.params.items()}
        self._body = expand_all(config.body, where=f"{where}.body")
        sent = (config.url, *config.params.values(), json.dumps(config.body or {}))
        self._access = Access.of(config, (self._url,), where=where, sent=sent)
        named = {f"params.{k}": v for k, v in self._params.items() if len(v) >= _SECRET_FROM}
        self._mask = Mask((config.url, *config.params.values()), named)
        self._in_body = (config.place or "body") == "body" and config.method == "POST"
        self._reader = RecordReader(config)
        self._style = style_of(config.pagination)
        dumped = config.model_dump(include=set(_RENDERED_BY), mode="json")
        self._signature = signature(dumped)

    def pull(self, request: PullRequest) -> Pull:
        """Yield the records of every page; see `Source.pull`.

        Raises:
            ConfigError: a window is asked for and its parameters are not configured.
            SourceUnreachableError: no usable answer within the attempts and the deadline.
            SourceDataError: a page is no JSON, is cut short or lacks its records.
        """
        plan = self._plan(request)
        config = self._config
        limits = Limits(
            timeout_s=config.timeout.total_seconds(),
            deadline_s=config.deadline.total_seconds(),
            max_bytes=config.max_bytes,
            rate=config.rate,
        )
        addresses = Addresses(config.allow_private)
        with (
            self._access.hiding(),
            HttpSession(self._access, limits, addresses) as http,
            Spool() as spool,
        ):
            reply, modified = self._probe(http, plan)
            if not modified:
                note = f"{len(plan.known.pages)} pages, none modified"
                return ExtractEnd(True, request.watermark, note=note, unchanged=True)
            pages = self._page_reader(http, spool, plan, request)
            listing = pages.read(
                Step(params=self._style.first()),
                known_digest=plan.known.digest if plan.whole else "",
                reply=reply,
            )
            note = _note(listing, plan)
            if listing.same:
                return ExtractEnd(True, request.watermark, note=note, unchanged=True)
            yield from rows_of(listing, spool)
        complete = plan.whole and not listing.doubt
        return ExtractEnd(complete, self._next_watermark(request, plan, listing), note=note)

    # --- what to ask for ----------------------------------------------------------------------

    def _plan(self, request: PullRequest) -> _Plan:
        if request.keys is not None or request.window is not None:
            return _Plan(self._window_params(request.window), whole=False)
        known = read_watermark(request.watermark, self._signature)
        if request.partial_runs:
            # The documents are no longer what that extract was: something of a later one was taken
            # in while the rest waited. Were the API back in its old state, nobody would notice.
            known = ApiWatermark(since=known.since)
        wanted = self._config.incremental
        if wanted and known.since and request.partial_runs + 1 < wanted.full_every:
            start = known.since - wanted.lag
            bound = {wanted.param: time_value(start, self._config.time_format)}
            return _Plan(bound, whole=False, since=start, known=known)
        first, _ = self._identify(Step(params=self._style.first()), {})
        if known.pages and known.pages[0].url != self._mask.hide(first):
            known = ApiWatermark((), known.digest, known.since)
        return _Plan({}, whole=True, known=known)

    def _window_params(self, window: Window | None) -> dict[str, str | int]:
        if window is None:
            return {}
        since, until = self._config.since_param, self._config.until_param
        if since is None or until is None:
            raise ConfigError(
                "A window needs the API's query parameters for from and to",
                obj=f"sources.{self.name}",
                todo="set 'since_param' and 'until_param'",
            )
        form = self._config.time_format
        return {since: time_value(window.start, form), until: time_value(window.end, form)}

    def _identify(self, step: Step, bounds: Params) -> Asked:
        """The URL and the body that ask for a page."""
        if step.url is not None:
            # A server may repeat the key in its links: it is sent anew, and never remembered.
            url = without_params(step.url, self._access.params)
            return url, self._encoded(self._body)
        params: Mapping[str, Any] = {**bounds, **(step.params or {})}
        if not self._in_body:
            return with_params(self._url, {**self._params, **params}), self._encoded(self._body)
        body: dict[str, Any] = self._body or {}
        for path, value in params.items():
            body = put(body, path, value)
        return with_params(self._url, self._params), self._encoded(body)

    def _encoded(self, body: Mapping[str, Any] | None) -> bytes | None:
        if self._config.method == "GET":
            return None
        return json.dumps(body or {}, sort_keys=True).encode()

    # --- asking -------------------------------------------------------------------------------

    def _probe(self, http: HttpSession, plan: _Plan) -> tuple[Reply | None, bool]:
        """Ask the known pages in turn: the first page, if it changed, and whether any did."""
        known = plan.known
        if not plan.whole or not known.askable or self._config.method != "GET":
            return None, True
        linked = self._config.pagination.style == "link"
        for page in known.pages:
            last = page is known.pages[-1]
            # A link to a new page may stand in a header, which no ETag speaks for.
            reply = http.get(
                self._mask.show(page.url), Validators() if linked and last else page.validators
            )
            same = hashlib.sha256(reply.body).hexdigest() == page.sha256
            if linked and last:
                same = same and not reply.next_url
            if not (reply.not_modified or same):
                return reply if page is known.pages[0] else None, True
        return None, False

    def _page_reader(
        self, http: HttpSession, spool: Spool, plan: _Plan, request: PullRequest
    ) -> PageReader:
        def identify(step: Step) -> Asked:
            return self._identify(step, plan.bounds)

        def ask(step: Step, validators: Validators) -> Reply:
            url, body = identify(step)
            return http.send(
                Request(url, method=self._config.method, body=body, validators=validators)
            )

        def keep(record: JsonRecord) -> bool:
            return self._reader.wanted(record, request)

        return PageReader(
            ask=ask,
            identify=identify,
            reader=self._reader,
            style=self._style,
            pagination=self._config.pagination,
            keep=keep,
            spool=spool,
            start_over=http.start_over,
        )

    # --- what to remember ---------------------------------------------------------------------

    def _next_watermark(self, request: PullRequest, plan: _Plan, listing: Listing) -> str | None:
        if request.keys is not None or request.window is not None:
            return request.watermark
        known, reading = plan.known, listing.reading
        if listing.doubt:
            # A cursor must not pass over what this reading may lack; and its pages are not what
            # the documents are. An incremental pull asks from the same time again.
            return ApiWatermark(since=known.since).write(self._signature)
        seen = [when for when in (reading.newest,) if when is not None and self._config.incremental]
        if plan.since is not None and known.since is not None:
            seen.append(known.since)
        # A record from the future must not hide what changes until then.
        since = min(max(seen), datetime.now(UTC)) if seen else None
        if not plan.whole:
            return ApiWatermark(since=since).write(self._signature)
        pages: tuple[KnownPage, ...] = ()
        if self._config.method == "GET":
            pages = tuple(
                self._mask.page(page.asked[0], page.validators, page.sha256)
                for page in reading.pages
            )
        return ApiWatermark(pages, reading.digest, since).write(self._signature)


def _note(listing: Listing, plan: _Plan) -> str:
    reading = listing.reading
    parts = [f"{len(reading.pages)} pages, {reading.records} records"]
    if plan.since is not None:
        parts.append(f"changed since {plan.since.isoformat(timespec='seconds')}")
    if listing.same:
        parts.append("none changed")
    if listing.doubt:
        parts.append(f"incomplete: {listing.doubt}")
    return ", ".join(parts)
