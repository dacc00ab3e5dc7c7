"""How one page of an API leads to the next: a class per style, and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from headwater.config.apis import Pagination
from headwater.flows.sources.api_values import MISSING, at, data_error, follow_link, present
from headwater.flows.sources.rendering import value_text

Params = Mapping[str, str | int]


@dataclass(frozen=True)
class PageSeen:
    """A page that was read.

    Attributes:
        url: what answered.
        body: its JSON.
        next_url: the `Link` header with rel=next, None without one.
        records: of this page.
        last: the last of them.
        pages: read so far, this one included.
        count: records read so far, this page's included.
        met: as many as the reply's own total.
    """

    url: str
    body: Any
    next_url: str | None
    records: int
    last: Mapping[str, Any] | None
    pages: int
    count: int
    met: bool


@dataclass(frozen=True)
class Step:
    """Where the next page is: another URL, or other parameters of the first one."""

    url: str | None = None
    params: Params | None = None


class Style(Protocol):
    """A way of paging."""

    def first(self) -> Params:
        """The parameters of the first page."""
        ...

    def after(self, page: PageSeen) -> Step | None:
        """What follows `page`; None when it is the last.

        Raises:
            SourceDataError: the page does not say what it should.
        """
        ...


class _Sized:
    """What styles share: the size of a page, and the flag that ends the list."""

    def __init__(self, config: Pagination) -> None:
        self._config = config

    def first(self) -> Params:
        config = self._config
        return {config.size_param: config.size} if config.size_param and config.size else {}

    def _ended(self, page: PageSeen) -> bool:
        """Whether the reply itself says that no page follows."""
        if self._config.more is None:
            return False
        more = at(page.body, self._config.more)
        if more is MISSING:
            raise data_error(
                f"The reply has no flag at '{self._config.more}'",
                page.url,
                "mend 'pagination.more'",
            )
        return not more or str(more).lower() == "false"


class SinglePage(_Sized):
    """`none`: the reply is the list."""

    def after(self, page: PageSeen) -> Step | None:
        """Nothing follows."""
        return None


class _Counted(_Sized, ABC):
    """A position counts up until a page is empty, the total is met or the reply says so."""

    name = ""
    default_start = 0

    def first(self) -> Params:
        """The first position."""
        return self._at(0)

    def after(self, page: PageSeen) -> Step | None:
        """The next position."""
        if not page.records or page.met or self._ended(page):
            return None
        return Step(params=self._at(self._position(page)))

    def _at(self, position: int) -> Params:
        config = self._config
        start = self.default_start if config.start is None else config.start
        return {config.param or self.name: start + position, **super().first()}

    @abstractmethod
    def _position(self, page: PageSeen) -> int:
        """Pages, or records, before the next one."""


class NumberedPages(_Counted):
    """`page`: pages have numbers."""

    name = "page"
    default_start = 1

    def _position(self, page: PageSeen) -> int:
        return page.pages


class Offsets(_Counted):
    """`offset`: a page starts after so many records."""

    name = "offset"

    def _position(self, page: PageSeen) -> int:
        return page.count


class Cursors(_Sized):
    """`cursor`: a page names where the next one starts, or its last record does."""

    def after(self, page: PageSeen) -> Step | None:
        """The next cursor."""
        config = self._config
        if self._ended(page):
            return None
        if config.after is not None:
            if page.last is None:
                return None
            found = at(page.last, config.after)
        else:
            found = at(page.body, config.next)
            if found in (MISSING, None, "", False):
                return None
        text = None if isinstance(found, dict | list) else value_text(present(found))
        if not text:
            where = config.after or config.next
            raise data_error(f"'{where}' is no cursor", page.url, "mend 'pagination'")
        return Step(params={**super().first(), config.param or "cursor": text})


class NextLinks(_Sized):
    """`next`: the reply holds the next page's URL."""

    def after(self, page: PageSeen) -> Step | None:
        """The URL at the path."""
        link = at(page.body, self._config.next)
        if self._ended(page) or link in (MISSING, None, ""):
            return None
        if not isinstance(link, str):
            raise data_error(f"'{self._config.next}' is no URL", page.url)
        return Step(url=follow_link(page.url, link))


class LinkHeaders(_Sized):
    """`link`: the reply's `Link` header has the next page's URL."""

    def after(self, page: PageSeen) -> Step | None:
        """The URL of rel=next."""
        if self._ended(page) or not page.next_url:
            return None
        return Step(url=follow_link(page.url, page.next_url))


STYLES: dict[
    str, type[SinglePage | NumberedPages | Offsets | Cursors | NextLinks | LinkHeaders]
] = {
    "none": SinglePage,
    "page": NumberedPages,
    "offset": Offsets,
    "cursor": Cursors,
    "next": NextLinks,
    "link": LinkHeaders,
}
"""`pagination.style` -> the class that pages so."""


def style_of(config: Pagination) -> Style:
    """The way of paging that a configuration names."""
    return STYLES[config.style](config)
