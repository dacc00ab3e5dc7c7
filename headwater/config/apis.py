"""Records of an API as a source."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from headwater.config.fields import Duration, Model, Texts
from headwater.config.source_options import SourceOptions


class Pagination(Model):
    """How the pages of an API follow each other."""

    style: Literal["none", "page", "offset", "next"] = "none"
    param: str | None = Field(None, description="query parameter; 'page' or 'offset' by default")
    size_param: str | None = Field(None, description="query parameter of the page size")
    size: int | None = Field(None, gt=0, description="records asked for per page")
    start: int | None = Field(None, ge=0, description="first page; 1 for 'page', 0 for 'offset'")
    next: str = Field("next", description="path to the next page's URL in the reply")
    total: str | None = Field(None, description="path to the total count, checked at the end")


class ApiConfig(SourceOptions):
    """JSON over HTTP; each record of the reply becomes a document."""

    kind: Literal["api"]
    url: str
    records: str = Field("", description="path to the list of records: 'data.items'; '' = the root")
    key: str = Field(description="path to a record's key")
    text: Texts = Field((), description="paths rendered as text; all fields if empty")
    title: str | None = None
    record_url: str | None = Field(None, description="path to a record's own link")
    metadata: Texts = ()
    ignore: Texts = Field((), description="volatile fields that are no change")
    updated_at: str | None = Field(None, description="path to the source's own time of a record")
    params: dict[str, str] = Field({})
    headers: dict[str, str] = Field({})
    token: str | None = Field(None, description="bearer token: ${NAME}")
    pagination: Pagination = Pagination()
    timeout: Duration = Field(timedelta(seconds=30), description="per read")
    deadline: Duration = Field(timedelta(minutes=10), description="for the whole pull")
    max_bytes: int = Field(500_000_000, gt=0, description="decoded, for the whole pull")
    since_param: str | None = Field(
        None, description="query parameter that takes a backfill's from"
    )
    until_param: str | None = Field(None, description="query parameter that takes a backfill's to")
