"""Rows of a database as a source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headwater.config.fields import Duration, Texts
from headwater.config.source_options import SourceOptions


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
