"""Which pages there are: sitemaps, indexes of them, feeds, and the configured list.

The dates of a listing are hints. They decide which page is asked for first, never which is not
asked for at all beyond the configured age.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from headwater.config import WebConfig
from headwater.errors import MissingExtraError, SourceDataError, SourceError
from headwater.flows.sources.http import HttpSession, Request
from headwater.flows.sources.http_bodies import CutShortError, WrongEncodingError, decode, is_gzip
from headwater.flows.sources.places import Choice
from headwater.flows.sources.urls import normal_url, shown

_SITEMAP_BYTES = 60_000_000
_MOST_SITEMAPS = 1_000
_XML = "application/xml, text/xml, */*;q=0.5"


@dataclass
class WebListing:
    """The pages of a source.

    Attributes:
        hints: URL -> the date its listing gives it, as it stands there; None without one.
        other: listed URLs on hosts that are not the source's.
        unwanted: listed URLs that the globs leave out.
        failed: lists that could not be read, and why; absence from what was read is no deletion.
    """

    hints: dict[str, str | None] = field(default_factory=dict)
    other: int = 0
    unwanted: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Entries:
    """What one list holds.

    Attributes:
        pages: URL and date.
        lists: URLs of further sitemaps.
    """

    pages: tuple[tuple[str, str | None], ...] = ()
    lists: tuple[str, ...] = ()


class Lister:
    """Reads the lists of one source.

    Args:
        config: of the source.
        pages: its configured pages, normalised.
        lists: its configured sitemaps and feeds.
    """

    def __init__(self, config: WebConfig, *, pages: Iterable[str], lists: Iterable[str]) -> None:
        self._choice = Choice.of(_rooted(config.include), _rooted(config.exclude))
        self._pages = tuple(pages)
        self._lists = tuple(lists)
        own = [urlsplit(url).hostname or "" for url in (*self._pages, *self._lists)]
        self._hosts = frozenset(_bare(host.lower()) for host in (*own, *config.hosts))
        self._most = config.max_pages
        self._agent = config.user_agent

    def read(self, http: HttpSession) -> WebListing:
        """List the pages.

        Raises:
            SourceUnreachableError: a configured list cannot be had.
            SourceDataError: it is no list, or names only pages of other hosts.
        """
        listing = WebListing(dict.fromkeys(self._pages))
        waiting = list(self._lists)
        read: set[str] = set()
        while waiting:
            url = waiting.pop(0)
            if url in read:
                continue
            if len(read) == _MOST_SITEMAPS:
                listing.failed.append(f"more than {_MOST_SITEMAPS} sitemaps")
                break
            read.add(url)
            try:
                found = read_list(http, url, agent=self._agent)
            except SourceError as error:
                if url in self._lists:
                    raise
                listing.failed.append(f"{shown(url)} ({error.what[0].lower()}{error.what[1:]})")
                continue
            waiting += [one for one in map(_usable, found.lists) if one and self._is_ours(one)]
            for page, hint in found.pages:
                self._add(listing, page, hint)
        if not listing.hints and listing.other:
            raise SourceDataError(
                "Every listed page is on another host",
                obj=", ".join(shown(url) for url in self._lists),
                todo="name the hosts under 'hosts'",
            )
        return listing

    def _add(self, listing: WebListing, url: str, hint: str | None) -> None:
        page = _usable(url)
        if page is None or not self._is_ours(page):
            listing.other += 1
        elif not self.takes(page):
            listing.unwanted += 1
        elif page in listing.hints or len(listing.hints) < self._most:
            listing.hints[page] = hint or listing.hints.get(page)
        elif not any("max_pages" in why for why in listing.failed):
            listing.failed.append(f"more than {self._most:,} pages: raise 'max_pages'")

    def takes(self, url: str) -> bool:
        """Whether the globs want this page."""
        path = unquote(urlsplit(url).path).strip("/")
        return self._choice.takes(path) and not self._choice.leaves_out(path)

    def _is_ours(self, url: str) -> bool:
        return _bare(urlsplit(url).hostname or "") in self._hosts


def read_list(http: HttpSession, url: str, *, agent: str) -> Entries:
    """Fetch one sitemap, index or feed.

    Raises:
        SourceUnreachableError: it cannot be had.
        SourceDataError: it is no list, or cut short.
    """
    reply = http.send(Request(url, accept=_XML, agent=agent, max_bytes=_SITEMAP_BYTES))
    body = reply.body
    if is_gzip(body):
        body = _gunzip(body, url)
    elif not reply.bounded and body.lstrip()[:1] != b"<":
        raise SourceDataError(
            "A list of plain lines may be cut short: the server does not say how long it is",
            obj=shown(url),
            todo="let the server send a Content-Length, or serve it as XML",
        )
    return parse_list(body, url=reply.url)


def parse_list(body: bytes, *, url: str) -> Entries:
    """The entries of a sitemap, an index of sitemaps, a feed, or lines of URLs.

    Raises:
        SourceDataError: it is none of these, or cut short.
    """
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"<":
        return _lines(body, url)
    root = _read_xml(body, url)
    kind = _local(root)
    if kind == "sitemapindex":
        found = (_text(one, "loc") for one in root if _local(one) == "sitemap")
        return Entries(lists=tuple(urljoin(url, one) for one in found if one))
    if kind == "urlset":
        listed = (
            (_text(one, "loc"), _text(one, "lastmod")) for one in root if _local(one) == "url"
        )
        return Entries(tuple((urljoin(url, loc), date) for loc, date in listed if loc))
    if kind in ("rss", "RDF"):
        items = (one for one in root.iter() if _local(one) == "item")
        named = ((_text(i, "link"), _text(i, "pubDate") or _text(i, "date")) for i in items)
        return Entries(tuple((urljoin(url, link), date) for link, date in named if link))
    if kind == "feed":
        entries = [one for one in root if _local(one) == "entry"]
        named = ((_atom_link(one), _text(one, "updated")) for one in entries)
        return Entries(tuple((urljoin(url, link), date) for link, date in named if link))
    raise SourceDataError(
        f"This is no sitemap and no feed, but <{kind}>", obj=shown(url), todo="check the URL"
    )


def _lines(body: bytes, url: str) -> Entries:
    lines = body.decode("utf-8-sig", "replace").split()
    if not lines or any(not re.match(r"https?://", line) for line in lines):
        raise SourceDataError(
            "This is no sitemap, no feed and no list of URLs",
            obj=shown(url),
            todo="check the URL; a list has one https://… a line",
        )
    return Entries(tuple((line, None) for line in lines))


def _read_xml(body: bytes, url: str) -> Any:
    try:
        from lxml import etree
    except ImportError:
        raise MissingExtraError.of("lxml", "pipeline") from None
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True
    )
    try:
        return etree.fromstring(body.lstrip(), parser)
    except etree.LxmlError as error:
        raise SourceDataError(
            "The list is no XML, or cut short", obj=shown(url), todo=str(error)[:300]
        ) from None


def _gunzip(body: bytes, url: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        for piece in decode([body], "gzip"):
            size += len(piece)
            if size > _SITEMAP_BYTES:
                raise SourceDataError(
                    f"A sitemap of more than {_SITEMAP_BYTES} bytes",
                    obj=shown(url),
                    todo="sitemaps hold at most 50 MB; split it",
                )
            parts.append(piece)
    except (CutShortError, WrongEncodingError) as error:
        raise SourceDataError(
            "The compressed list is damaged or cut short", obj=shown(url), todo=str(error)
        ) from None
    return b"".join(parts)


def _local(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _text(element: Any, name: str) -> str | None:
    for child in element:
        if _local(child) == name and child.text and child.text.strip():
            return str(child.text.strip())
    return None


def _atom_link(entry: Any) -> str | None:
    for child in entry:
        if _local(child) == "link" and child.get("rel", "alternate") == "alternate":
            href = child.get("href")
            return str(href) if href else None
    return None


def _usable(url: str) -> str | None:
    try:
        return normal_url(url)
    except SourceDataError:
        return None


def _bare(host: str) -> str:
    return host.removeprefix("www.")


def _rooted(globs: Iterable[str]) -> list[str]:
    return [glob.strip("/") for glob in globs]
