"""Web pages as a source."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from headwater.config.fields import Duration, Texts
from headwater.config.http_options import HttpOptions


class WebConfig(HttpOptions):
    """Pages of the web: a list of them, those of a sitemap, or those a feed names."""

    kind: Literal["web"]
    pages: Texts = Field((), description="URLs of pages")
    sitemaps: Texts = Field((), description="URLs of sitemaps or of indexes of them, plain or .gz")
    feeds: Texts = Field((), description="URLs of RSS or Atom feeds; what leaves a feed stays")
    include: Texts = Field(("**",), description="globs over the paths of listed URLs")
    exclude: Texts = Field((), description="globs over the paths of URLs to leave out")
    hosts: Texts = Field((), description="hosts that listed URLs may name besides the configured")
    robots: Literal["respect", "ignore"] = "respect"
    user_agent: str = Field("headwater", pattern=r"^[!-~][ -~]{0,199}$", description="sent")
    rate: float | None = Field(5, gt=0, le=10_000, description="requests per second at most")
    deadline: Duration = Field(timedelta(minutes=30), description="for the whole pull")
    max_bytes: int = Field(2_000_000_000, gt=0, description="decoded, for the whole pull")
    page_bytes: int = Field(20_000_000, gt=0, description="a larger page goes to quarantine")
    max_pages: int = Field(10_000, gt=0, description="more are left out, and nothing is deleted")
    max_age: Duration | None = Field(
        None, description="a page whose listed date stands still is asked for again after this"
    )
    parse_timeout: Duration = Field(
        timedelta(seconds=30), description="what takes longer to parse goes to quarantine"
    )

    @model_validator(mode="after")
    def _lists_something(self) -> WebConfig:
        if not (self.pages or self.sitemaps or self.feeds):
            raise ValueError("expected 'pages', 'sitemaps' or 'feeds'")
        return self
