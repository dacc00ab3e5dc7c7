"""Rows of a database as a source."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from headwater.config.fields import Duration, Texts
from headwater.config.source_options import SourceOptions

Strategy = Literal["auto", "full", "cursor", "rowhash", "xmin"]
_PARTIAL = ("cursor", "xmin")


class DatabaseConfig(SourceOptions):
    """A table or a query; each row becomes a document."""

    kind: Literal["database"]
    dsn: str = Field(
        description="sqlite:///file.db, postgresql://…, mysql://…, mariadb://…, "
        "duckdb:///file.duckdb, or any SQLAlchemy URL"
    )
    table: str | None = Field(None, description="a table or view; or give 'query'")
    query: str | None = Field(None, description="a SELECT without a trailing semicolon")
    key: Texts = Field(description="the key column or columns")
    text: Texts = Field((), description="columns rendered as text; all others if empty")
    template: str | None = Field(
        None, description="lines with {column} that render a row, instead of 'text'"
    )
    title: str | None = Field(None, description="the column that titles a document")
    url: str | None = Field(None, description="a link template over the columns")
    metadata: Texts = Field((), description="columns kept as metadata, not embedded")
    ignore: Texts = Field((), description="volatile columns that are no change")
    strategy: Strategy = Field(
        "auto",
        description="how changes are found: cursor, rowhash, xmin (PostgreSQL) or full; "
        "auto is cursor where one is named, else full",
    )
    cursor: str | None = Field(None, description="an ever-rising column: pull only what is new")
    cursor_lag: Duration | int | None = Field(
        None,
        description="re-read this much before the watermark: a duration for a timestamp, "
        "a count for a number",
    )
    keyset_every: int | None = Field(
        None, ge=1, description="list all keys every so many runs, to find what was deleted"
    )
    updated_at: str | None = Field(None, description="the source's own time of a row")
    statement_timeout: Duration = Field(
        timedelta(hours=1), description="a statement that takes longer is ended"
    )

    @property
    def chosen_strategy(self) -> str:
        """The strategy, `auto` resolved."""
        if self.strategy != "auto":
            return self.strategy
        return "full" if self.cursor is None else "cursor"

    @model_validator(mode="after")
    def _one_of(self) -> DatabaseConfig:
        if (self.table is None) == (self.query is None):
            raise ValueError("expected exactly one of 'table' and 'query'")
        if self.text and self.template is not None:
            raise ValueError("expected only one of 'text' and 'template'")
        return self

    @model_validator(mode="after")
    def _fitting_strategy(self) -> DatabaseConfig:
        chosen = self.chosen_strategy
        if (self.cursor is not None) != (chosen == "cursor"):
            raise ValueError(f"strategy '{chosen}' and 'cursor' do not fit: expected both or none")
        if self.cursor_lag is not None and self.cursor is None:
            raise ValueError("'cursor_lag' needs a 'cursor'")
        if isinstance(self.cursor_lag, int) and self.cursor_lag <= 0:
            raise ValueError("expected a 'cursor_lag' above zero")
        if self.keyset_every is not None and chosen not in _PARTIAL:
            raise ValueError(f"'keyset_every' is for {' and '.join(_PARTIAL)}: others list all")
        if chosen == "xmin" and self.table is None:
            raise ValueError("strategy 'xmin' needs a 'table'")
        return self
