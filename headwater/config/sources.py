"""Where knowledge is pulled from: one model per kind of source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from headwater.config.fields import Duration, Model, Texts


class DeletionGuard(Model):
    """How much of a source may vanish in one refresh before a person must look.

    Deletions are withheld when more than `max(max_count, max_share * size)` records are missing.
    """

    max_count: int = Field(10, ge=0, description="this many may always go")
    max_share: float = Field(0.10, ge=0, le=1, description="or this share of the source")


class Schedule(Model):
    """When a deployment runs: exactly one of `every` and `cron`."""

    every: Duration | None = Field(None, description="an interval: 15m, 6h, 1d")
    cron: str | None = Field(None, description="a cron line in UTC: '0 * * * *'")

    @model_validator(mode="after")
    def _one_of(self) -> Schedule:
        if (self.every is None) == (self.cron is None):
            raise ValueError("expected exactly one of 'every' and 'cron'")
        return self


class SourceOptions(Model):
    """What every kind of source has."""

    freshness: Duration = Field(
        timedelta(days=1), description="the objective: verified no longer ago than this"
    )
    suite: str | None = Field(
        None, description="the expectations, a file; suites/<source>.json when left out"
    )
    labels: Texts = Field((), description="put on every record of the source")
    licence: str | None = Field(None, description="SPDX name, carried into datasets")
    deletion_guard: DeletionGuard = DeletionGuard()
    schedule: Schedule | None = Field(None, description="its own, beside the knowledge base's")


class DocumentsConfig(SourceOptions):
    """Files below a folder: md, rst, txt, html, csv, json, jsonl, pdf, docx."""

    kind: Literal["documents"]
    root: str = Field(description="the folder, relative to headwater.yaml")
    glob: Texts = Field(("**/*",), description="which files; '**' crosses folders")
    exclude: Texts = Field((), description="globs to leave out")
    url: str | None = Field(None, description="a link template: https://docs.example/{key}")
    encoding: str = Field("utf-8", description="of text files; the byte order mark wins")
    max_bytes: int = Field(50_000_000, gt=0, description="larger files go to quarantine")


class DatabaseConfig(SourceOptions):
    """A table or a query; each row becomes a document."""

    kind: Literal["database"]
    dsn: str = Field(description="sqlite:///file.db, postgresql://…, or any SQLAlchemy URL")
    table: str | None = Field(None, description="a table or view; or give 'query'")
    query: str | None = Field(None, description="a SELECT without a trailing semicolon")
    key: Texts = Field(description="the key column or columns")
    text: Texts = Field((), description="columns rendered as text; all others if empty")
    title: str | None = Field(None, description="the column that titles a document")
    url: str | None = Field(None, description="a link template over the columns")
    metadata: Texts = Field((), description="columns kept as metadata, not embedded")
    ignore: Texts = Field((), description="volatile columns that are no change")
    cursor: str | None = Field(None, description="an ever-rising column: pull only what is new")
    cursor_lag: Duration | None = Field(
        None, description="re-read this much before the watermark (timestamp cursors)"
    )
    updated_at: str | None = Field(None, description="the source's own time of a row")

    @model_validator(mode="after")
    def _one_of(self) -> DatabaseConfig:
        if (self.table is None) == (self.query is None):
            raise ValueError("expected exactly one of 'table' and 'query'")
        return self


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


class PluginConfig(SourceOptions):
    """A source registered by another package under the entry-point group `headwater.sources`."""

    kind: str
    options: dict[str, Any] = Field({})


BUILT_IN: dict[str, type[SourceOptions]] = {
    "documents": DocumentsConfig,
    "database": DatabaseConfig,
    "api": ApiConfig,
}
SourceConfig = DocumentsConfig | DatabaseConfig | ApiConfig | PluginConfig


def read_source(value: Any) -> Any:
    """Pick the model by `kind`, so that an error speaks of one kind and not of all four."""
    if isinstance(value, SourceOptions):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError("expected a mapping with 'kind': documents, database, api or a plug-in's")
    return BUILT_IN.get(value["kind"], PluginConfig).model_validate(value)
