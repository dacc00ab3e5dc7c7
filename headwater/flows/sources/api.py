"""A JSON API as a source: each record of the reply becomes a document.

A pull is all or nothing: whatever is cut short, malformed or does not add up is an error and never
a shorter list. The watermark keeps, for each page, its URL, its validators and the hash of its
body. The next pull first asks whether any of these pages changed; only if every one answers
`304 Not Modified` is nothing listed. A `${NAME}` of the configuration stays a name in the watermark.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlencode, urljoin, urlsplit, urlunsplit

from headwater.config import ApiConfig, expand
from headwater.errors import ConfigError, SourceDataError
from headwater.flows.sources.http import HttpSession, Reply, Validators, shown
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, Window
from headwater.flows.sources.rendering import (
    BATCH_ROWS,
    Layout,
    render_batch,
    signature,
    value_text,
    value_time,
)

_RENDERED_BY = (
    *("url", "records", "key", "text", "title", "record_url", "metadata", "ignore"),
    *("updated_at", "params", "pagination", "labels"),
)
_MISSING = object()
_ENV = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True)
class _Page:
    """A page as the watermark keeps it."""

    url: str
    validators: Validators
    sha256: str


class ApiSource:
    """Records of a JSON API; see `ApiConfig` for the options."""

    def __init__(self, name: str, config: ApiConfig, *, root: Path) -> None:
        """Keep the configuration; nothing is asked before a pull.

        Raises:
            ConfigError: a `${NAME}` is not set in the environment.
        """
        self.name = name
        self.root = root
        self._config = config
        where = f"sources.{name}"
        self._url = expand(config.url, where=f"{where}.url")
        self._params = {k: expand(v, where=f"{where}.params.{k}") for k, v in config.params.items()}
        self._headers = {
            k: expand(v, where=f"{where}.headers.{k}") for k, v in config.headers.items()
        }
        self._token = config.token and expand(config.token, where=f"{where}.token")
        self._secrets = _secrets((config.url, *config.params.values()))
        dumped = config.model_dump(include=set(_RENDERED_BY), mode="json")
        self._signature = signature(dumped)

    def pull(self, request: PullRequest) -> Pull:
        """Yield the records of every page; see `Source.pull`.

        Raises:
            ConfigError: a window is asked for and its query parameters are not configured.
            SourceUnreachableError: no usable answer within the attempts and the deadline.
            SourceDataError: a page is no JSON, is cut short, lacks its records, or the pages do not
                add up.
        """
        narrowed = request.keys is not None or request.window is not None
        first_url = _with_params(self._url, self._params | self._window_params(request.window))
        config = self._config
        with HttpSession(
            self._url,
            headers=self._headers,
            token=self._token,
            timeout_s=config.timeout.total_seconds(),
            deadline_s=config.deadline.total_seconds(),
            max_bytes=config.max_bytes,
        ) as http:
            known = () if narrowed else self._read_watermark(request.watermark)
            known = known if known and known[0].url == self._mask(first_url) else ()
            first = self._first_change(http, known)
            if known and first is None:
                note = f"{len(known)} pages, none modified"
                return ExtractEnd(True, request.watermark, note=note, unchanged=True)
            pages: list[_Page] = []
            rows = 0
            for page, records in self._walk(http, first_url, first):
                pages.append(page)
                rows += len(records)
                chosen = [r for r in records if self._wanted(r, request)]
                for start in range(0, len(chosen), BATCH_ROWS):
                    yield self._render(chosen[start : start + BATCH_ROWS])
        note = f"{len(pages)} pages, {rows} records"
        watermark = request.watermark if narrowed else self._write_watermark(pages)
        return ExtractEnd(not narrowed, watermark, note=note)

    # --- pages ------------------------------------------------------------------------------------

    def _first_change(self, http: HttpSession, known: tuple[_Page, ...]) -> Reply | None:
        """Ask the known pages in turn; the first reply that is no 304, None when there is none."""
        for page in known:
            reply = http.get(self._unmask(page.url), page.validators)
            if not reply.not_modified:
                return reply if page is known[0] else _NO_REPLY
        return None

    def _walk(
        self, http: HttpSession, first_url: str, first: Reply | None
    ) -> Iterator[tuple[_Page, list[dict[str, Any]]]]:
        """Fetch page after page; the last check is that the total, if the reply has one, is met."""
        url: str | None = first_url
        seen: set[str] = set()
        last_hash = ""
        count = 0
        number = 0
        total: int | None = None
        while url is not None:
            if url in seen:
                raise _data_error("The pages lead back to one already read", url)
            seen.add(url)
            reply = first if number == 0 and first and first.body else http.get(url)
            body = _parse(reply)
            records = self._records(body, reply.url)
            digest = hashlib.sha256(reply.body).hexdigest()
            if records and digest == last_hash:
                raise _data_error(
                    "Two pages in a row are identical", url, "check 'pagination.param' and 'style'"
                )
            last_hash = digest
            count += len(records)
            total = self._total(body, reply.url)
            yield self._page(url, reply.validators, digest), records
            number += 1
            if records or self._config.pagination.style == "next":
                done = total is not None and count >= total
                url = self._next_url(first_url, reply, body, number, count, done)
            else:
                url = None
        if total is not None and total != count:
            raise SourceDataError(
                f"The API counts {total} records and listed {count}",
                obj=shown(first_url),
                todo="run again; if it stays, check 'pagination' and 'pagination.total'",
            )

    def _next_url(
        self, first_url: str, reply: Reply, body: Any, number: int, count: int, done: bool
    ) -> str | None:
        pagination = self._config.pagination
        if pagination.style == "next":
            link = _at(body, pagination.next)
            if link is _MISSING or link is None or link == "":
                return None
            if not isinstance(link, str):
                raise _data_error(f"'{pagination.next}' is no URL", reply.url)
            return urljoin(reply.url, link)
        if pagination.style == "none" or done:
            return None
        position = number if pagination.style == "page" else count
        return _with_params(first_url, self._page_params(position))

    def _page_params(self, position: int) -> dict[str, str]:
        """The query of a page: `position` pages or records after the first."""
        pagination = self._config.pagination
        if pagination.style not in ("page", "offset"):
            sized = {}
        else:
            default = 1 if pagination.style == "page" else 0
            start = default if pagination.start is None else pagination.start
            sized = {pagination.param or pagination.style: str(start + position)}
        if pagination.size_param and pagination.size:
            sized[pagination.size_param] = str(pagination.size)
        return sized

    def _window_params(self, window: Window | None) -> dict[str, str]:
        first = self._page_params(0)
        if window is None:
            return first
        since, until = self._config.since_param, self._config.until_param
        if since is None or until is None:
            raise ConfigError(
                "A window needs the API's query parameters for from and to",
                obj=f"sources.{self.name}",
                todo="set 'since_param' and 'until_param'",
            )
        bounds = {since: window.start, until: window.end}
        return first | {k: v.isoformat().replace("+00:00", "Z") for k, v in bounds.items()}

    # --- records ----------------------------------------------------------------------------------

    def _records(self, body: Any, url: str) -> list[dict[str, Any]]:
        path = self._config.records
        found = _at(body, path) if path else body
        if not isinstance(found, list):
            where = f"'{path}'" if path else "the reply itself"
            raise _data_error(
                f"The reply has no list of records at {where}", url, _offer(body, path)
            )
        for position, record in enumerate(found):
            if not isinstance(record, dict):
                raise _data_error(f"Record {position} of the page is no object", url)
        return found

    def _total(self, body: Any, url: str) -> int | None:
        path = self._config.pagination.total
        if path is None:
            return None
        total = _at(body, path)
        if not isinstance(total, int) or isinstance(total, bool):
            raise _data_error(f"The reply has no count at '{path}'", url, "mend 'pagination.total'")
        return total

    def _wanted(self, record: dict[str, Any], request: PullRequest) -> bool:
        if request.keys is not None and self._key(record) not in request.keys:
            return False
        if request.window is None or self._config.updated_at is None:
            return True
        # Whether the bounds belong to the window differs from API to API; ours is half-open.
        when = value_time(_at(record, self._config.updated_at))
        return when is None or request.window.start <= when < request.window.end

    def _key(self, record: dict[str, Any]) -> str | None:
        value = _at(record, self._config.key)
        return None if value is _MISSING or isinstance(value, dict | list) else value_text(value)

    def _render(self, records: list[dict[str, Any]]) -> Any:
        config = self._config
        names = config.text or _all_fields(records, config)
        layout = Layout(
            text=tuple(name for name in names if name not in config.ignore),
            metadata=tuple(name for name in config.metadata if name not in config.ignore),
            title=config.title,
            updated_at=config.updated_at,
            labels=config.labels,
            bare=len(config.text) == 1,
        )
        paths = {*layout.text, *layout.metadata, config.title, config.updated_at} - {None}
        kept = _without(records, config.ignore)
        columns = {
            str(path): [_present(_at(record, str(path))) for record in kept] for path in paths
        }
        if config.updated_at:
            columns[config.updated_at] = [_present(_at(r, config.updated_at)) for r in records]
        urls = [value_text(_present(_at(r, config.record_url or ""))) for r in records]
        links = urls if config.record_url else [None] * len(records)
        return render_batch([self._key(r) for r in records], columns, layout, urls=links)

    # --- watermarks -------------------------------------------------------------------------------

    def _read_watermark(self, watermark: str | None) -> tuple[_Page, ...]:
        """The pages of the last extract; empty when they cannot prove anything."""
        try:
            data = json.loads(watermark or "null")
            if data["config"] != self._signature:
                return ()
            pages = tuple(
                _Page(p["url"], Validators(p["etag"], p["last_modified"]), p["sha256"])
                for p in data["pages"]
            )
        except (ValueError, KeyError, TypeError):
            return ()
        return pages if all(page.validators.headers() for page in pages) else ()

    def _write_watermark(self, pages: list[_Page]) -> str:
        listed = [
            {
                "url": page.url,
                "etag": page.validators.etag,
                "last_modified": page.validators.last_modified,
                "sha256": page.sha256,
            }
            for page in pages
        ]
        return json.dumps({"config": self._signature, "pages": listed}, sort_keys=True)

    def _page(self, url: str, validators: Validators, digest: str) -> _Page:
        masked = self._mask(url)
        # A page that cannot be asked for again proves nothing next time.
        usable = self._unmask(masked) == url
        return _Page(masked, validators if usable else Validators(), digest)

    def _mask(self, url: str) -> str:
        """`url` with what came from the environment named instead of shown."""
        for name, value in self._secrets:
            url = url.replace(value, name)
        return url

    def _unmask(self, url: str) -> str:
        for name, value in reversed(self._secrets):
            url = url.replace(name, value)
        return url


_NO_REPLY = Reply("", b"", Validators())
"""Something changed, but the first page's body is not at hand."""


def _secrets(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(marker, value as a URL may show it) for each `${NAME}` in `texts`, longest value first."""
    found: dict[str, str] = {}
    for text in texts:
        for name in _ENV.findall(text):
            value = expand(name, where="url or params")
            for form, spelled in enumerate((value, quote(value, safe=""), quote_plus(value))):
                if spelled and spelled not in found.values():
                    found[f"{name}:{form}"] = spelled
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return tuple((f"<{name}>", value) for name, value in ordered)


def _with_params(url: str, params: Mapping[str, str]) -> str:
    if not params:
        return url
    parts = urlsplit(url)
    pairs = [p for p in parse_qsl(parts.query, keep_blank_values=True) if p[0] not in params]
    return urlunsplit(parts._replace(query=urlencode([*pairs, *params.items()])))


def _parse(reply: Reply) -> Any:
    try:
        return json.loads(reply.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what = str(error) or type(error).__name__
        raise _data_error("The reply is no JSON", reply.url, what) from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _at(value: Any, path: str) -> Any:
    """The value at a dotted path; a field whose own name has dots is found too."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def _present(value: Any) -> Any:
    return None if value is _MISSING else value


def _all_fields(records: list[dict[str, Any]], config: ApiConfig) -> tuple[str, ...]:
    """Every field of the records but the configured others, by name.

    Sorted, because a server may write the fields of an object in another order each time.
    """
    apart = {config.key, config.updated_at, config.record_url, *config.metadata, *config.ignore}
    return tuple(sorted({name for record in records for name in record} - apart))


def _without(records: list[dict[str, Any]], paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """The records less the ignored paths, also where these lie inside a rendered object."""
    nested = [path for path in paths if "." in path]
    return [_drop(record, nested) for record in records] if nested else records


def _drop(record: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    kept = dict(record)
    for path in paths:
        head, _, rest = path.partition(".")
        if isinstance(kept.get(head), dict):
            kept[head] = _drop(kept[head], [rest]) if "." in rest else _less(kept[head], rest)
    return kept


def _less(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != name}


def _offer(body: Any, path: str) -> str:
    if isinstance(body, dict):
        lists = [name for name, value in body.items() if isinstance(value, list)]
        return f"mend 'records'; lists in the reply: {', '.join(lists) or 'none'}"
    return "mend 'records'; '' stands for the reply itself" if path else "mend 'url' or 'records'"


def _data_error(what: str, url: str, todo: str = "check 'url' and 'pagination'") -> SourceDataError:
    return SourceDataError(what, obj=shown(url), todo=todo)
