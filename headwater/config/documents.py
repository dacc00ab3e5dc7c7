"""Files as a source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headwater.config.fields import Texts
from headwater.config.source_options import SourceOptions


class DocumentsConfig(SourceOptions):
    """Files below a folder: md, rst, txt, html, csv, json, jsonl, pdf, docx."""

    kind: Literal["documents"]
    root: str = Field(description="the folder, relative to headwater.yaml")
    glob: Texts = Field(("**/*",), description="which files; '**' crosses folders")
    exclude: Texts = Field((), description="globs to leave out")
    url: str | None = Field(None, description="a link template: https://docs.example/{key}")
    encoding: str = Field("utf-8", description="of text files; the byte order mark wins")
    max_bytes: int = Field(50_000_000, gt=0, description="larger files go to quarantine")
