"""The files that a web server lists as links, in its pages of folders."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote, urljoin, urlsplit

from headwater.errors import HeadwaterError, ParseError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.bucket import version_of
from headwater.flows.sources.http import HttpSession, Limits, Request
from headwater.flows.sources.http_access import Access
from headwater.flows.sources.http_guard import Addresses
from headwater.flows.sources.http_replies import Validators
from headwater.flows.sources.places import Choice, Item, Listing, Local, format_of, normal
from headwater.flows.sources.urls import origin_of, shown

_AT_ONCE = 8
_MAX_FOLDERS = 10_000
_MAX_PAGE_BYTES = 20_000_000
_NO_TOTAL = 1 << 60
_TIMEOUT_S = 30.0
_GONE = 404
_NOT_ASKED = (405, 501)


class WebFolderPlace(Local):
    """Files behind the links of a page, and of the pages of folders that it links to.

    Args:
        name: of the source, for messages.
        url: of the top page.
        token: a bearer token, sent to that server only.
        deadline_s: for the whole pull.
        allow_private: whether, or where, addresses that are not public may be asked.

    Raises:
        MissingExtraError: the HTTP client is not installed.
        SourceDataError: `url` is none.
    """

    dated = True

    def __init__(
        self,
        name: str,
        url: str,
        token: str | None,
        *,
        deadline_s: float,
        allow_private: bool | tuple[str, ...],
    ) -> None:
        self._name = name
        self._url = url.partition("?")[0].partition("#")[0].rstrip("/") + "/"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        secrets = (token,) if token else ()
        self._access = Access(frozenset({origin_of(self._url)}), headers, {}, secrets)
        addresses = Addresses(allow_private)
        limits = Limits(_TIMEOUT_S, deadline_s, _NO_TOTAL)
        self._http = HttpSession(self._access, limits, addresses)
        # A server that does not like HEAD is not asked five times for every file.
        self._heads = HttpSession(
            self._access, Limits(_TIMEOUT_S, deadline_s, _NO_TOTAL, attempts=1), addresses
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in (self._http, self._heads):
            session.__exit__()

    def list_files(self, choice: Choice) -> Listing:
        """See `Place.list_files`. A folder's page that fails makes the listing incomplete."""
        listing = Listing()
        wanted: list[str] = []
        folders, seen = [""], {""}
        while folders:
            folder = folders.pop()
            try:
                links = self._links(folder)
            except HeadwaterError as error:
                if not folder:
                    raise self._unreachable(f"{error.what}; {error.todo}") from None
                listing.failed[folder] = error.what
                continue
            for path in links:
                if path in seen:
                    continue
                key = normal(path.rstrip("/"))
                if not path.endswith("/"):
                    if choice.takes_path(key):
                        wanted.append(path)
                        seen.add(path)
                elif not choice.leaves_out(key) and not key.rpartition("/")[2].startswith("."):
                    folders.append(path)
                    seen.add(path)
            if len(folders) > _MAX_FOLDERS:
                raise self._unreachable(f"it has more than {_MAX_FOLDERS:,} folders")
        self._look_at(wanted, listing)
        listing.close()
        return listing

    def read(self, item: Item, max_bytes: int) -> bytes:
        """See `Place.read`."""
        path, _ = item.at
        request = Request(self._url + quote(path), accept="*/*", max_bytes=max_bytes, keep=(_GONE,))
        try:
            with self._access.hiding():
                reply = self._http.send(request)
        except SourceDataError as error:
            raise ParseError(error.what, obj=item.key, todo=error.todo) from None
        if reply.status == _GONE:
            raise ParseError("The file is gone since it was listed", obj=item.key)
        return reply.body

    def time_of(self, item: Item) -> datetime | None:
        """When it was last modified, as the server says."""
        _, modified = item.at
        when: datetime | None = modified
        return when

    def _links(self, folder: str) -> list[str]:
        """Paths below the root that a folder's page links to; those of folders end with `/`."""
        from lxml import etree

        base = self._url + quote(folder)
        with self._access.hiding():
            page = self._http.send(Request(base, accept="*/*", max_bytes=_MAX_PAGE_BYTES)).body
        tree = etree.fromstring(page, etree.HTMLParser(no_network=True)) if page.strip() else None
        top, below = (unquote(urlsplit(one).path) for one in (self._url, base))
        found = []
        for link in [] if tree is None else tree.iter("a"):
            target = urlsplit(urljoin(base, link.get("href", "")))
            path = unquote(target.path)
            if target[:2] == urlsplit(base)[:2] and path.startswith(below) and path != below:
                found.append(path[len(top) :])
        return found

    def _look_at(self, paths: Iterable[str], listing: Listing) -> None:
        """Ask for what the server says of each file, some at a time."""
        readable = []
        for path in paths:
            fmt = format_of(path.rpartition("/")[2])
            if fmt is None:
                listing.other += 1
            else:
                readable.append((path, fmt))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            heads = pool.map(self._head, (path for path, _ in readable))
            for (path, fmt), said in zip(readable, heads, strict=True):
                if said is None:
                    continue
                modified = _time(said.last_modified)
                version = version_of(said.etag) if said.etag else None
                # Modified times may be older than the content: they only tell what to look at.
                stamp = f"{int(modified.timestamp() * 1e9)}" if modified and not version else ""
                at = (path, modified)
                listing.files.append(Item(normal(path), at, fmt, stamp, version))

    def _head(self, path: str) -> Validators | None:
        """What tells two contents apart; None for a link to nothing."""
        request = Request(
            self._url + quote(path), method="HEAD", accept="*/*", keep=(_GONE, *_NOT_ASKED)
        )
        try:
            reply = self._heads.send(request)
        except (SourceUnreachableError, SourceDataError):
            # Reading it will tell.
            return Validators()
        if reply.status == _GONE:
            return None
        return Validators() if reply.status in _NOT_ASKED else reply.validators

    def _unreachable(self, why: str) -> SourceUnreachableError:
        return SourceUnreachableError(
            "The listing cannot be read", obj=f"{self._name}: {shown(self._url)}", todo=why
        )


def _time(value: str | None) -> datetime | None:
    try:
        when = parsedate_to_datetime(value or "")
    except (ValueError, TypeError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
