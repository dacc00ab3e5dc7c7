"""Records of an API as a source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from headwater.config.fields import Duration, Model, Texts
from headwater.config.http_options import HttpOptions

TimeFormat = Literal["iso", "unix", "unix_ms", "date"]
PaginationStyle = Literal["none", "page", "offset", "cursor", "next", "link"]


class Pagination(Model):
    """How the pages of an API follow each other."""

    style: PaginationStyle = "none"
    param: str | None = Field(None, description="parameter; the style's name by default")
    size_param: str | None = Field(None, description="parameter of the page size")
    size: int | None = Field(None, gt=0, description="records asked for per page")
    start: int | None = Field(None, ge=0, description="first page; 1 for 'page', 0 for 'offset'")
    next: str = Field("next", description="path to the next page's URL, or to the next cursor")
    after: str | None = Field(
        None, description="of 'cursor': path in the last record whose value is the next cursor"
    )
    more: str | None = Field(None, description="path to a flag that says if more pages follow")
    total: str | None = Field(None, description="path to the total count, checked at the end")
    stable: bool = Field(
        False, description="a change does not shift the pages (keyset cursors): read them once"
    )


class Incremental(Model):
    """Ask only for what changed since the last published extract, and for all now and then."""

    param: str = Field(description="parameter that takes the time to list changes from")
    field: str | None = Field(None, description="path to a record's time; 'updated_at' if left out")
    lag: Duration = Field(timedelta(minutes=5), description="ask again for this much before it")
    full_every: int = Field(
        24, ge=1, le=1000, description="list everything in every so many pulls: finds deletions"
    )


class ApiConfig(HttpOptions):
    """JSON over HTTP; each record of the reply becomes a document."""

    kind: Literal["api"]
    url: str
    method: Literal["GET", "POST"] = "GET"
    body: dict[str, Any] | None = Field(None, description="JSON sent with POST")
    records: str = Field("", description="path to the list of records: 'data.items'; '' = the root")
    key: str = Field(description="path to a record's key")
    text: Texts = Field((), description="paths rendered as text; all fields if empty")
    title: str | None = None
    record_url: str | None = Field(None, description="path to a record's own link")
    metadata: Texts = ()
    ignore: Texts = Field((), description="volatile fields that are no change")
    updated_at: str | None = Field(None, description="path to the source's own time of a record")
    deleted: str | None = Field(None, description="path to what says that a record was deleted")
    deleted_values: Texts = Field(
        (), description="values that mean deleted; any but false, 0, '' and null if empty"
    )
    params: dict[str, str] = Field({}, description="of the query")
    pagination: Pagination = Pagination()
    incremental: Incremental | None = None
    place: Literal["query", "body"] | None = Field(
        None, description="where page and time parameters go; the body with POST, else the query"
    )
    time_format: TimeFormat = Field("iso", description="how the API takes times")
    since_param: str | None = Field(None, description="parameter that takes a backfill's from")
    until_param: str | None = Field(None, description="parameter that takes a backfill's to")

    @model_validator(mode="after")
    def _fits(self) -> ApiConfig:
        if self.method == "GET" and (self.body is not None or self.place == "body"):
            raise ValueError("a body needs 'method: POST'")
        if self.incremental and not (self.incremental.field or self.updated_at):
            raise ValueError("'incremental' needs 'updated_at' or a 'field' of its own")
        if self.deleted_values and self.deleted is None:
            raise ValueError("'deleted_values' needs 'deleted'")
        if self.pagination.after is not None and self.pagination.style != "cursor":
            raise ValueError("'pagination.after' belongs to the style 'cursor'")
        return self
