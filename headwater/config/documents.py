"""Files as a source."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from headwater.config.fields import Duration, Texts
from headwater.config.http_options import Networks
from headwater.config.source_options import SourceOptions


class DocumentsConfig(SourceOptions):
    """Files: md, rst, txt, html, csv, json, jsonl, pdf, docx, pptx, xlsx, odt, rtf, eml, ipynb.

    They lie below a folder, in a zip archive, a git repository, a bucket, or a web server's listing.
    """

    kind: Literal["documents"]
    root: str = Field(
        description="a folder or a .zip, relative to headwater.yaml; git+https://…, git+file://…; "
        "s3://, gs:// or az://bucket/prefix; https://…/ for a web server's listing"
    )
    glob: Texts = Field(("**/*",), description="which files; '**' crosses folders")
    exclude: Texts = Field((), description="globs to leave out")
    url: str | None = Field(None, description="a link template: https://docs.example/{key}")
    encoding: str = Field(
        "auto", description="of text files; 'auto' is UTF-8, and a guess where it is not"
    )
    max_bytes: int = Field(50_000_000, gt=0, description="larger files go to quarantine")
    timeout: Duration = Field(
        timedelta(seconds=30), description="what takes longer to parse goes to quarantine"
    )
    ref: str = Field("HEAD", description="of a git repository: a branch, a tag or a commit")
    storage: dict[str, str] = Field(
        {}, description="of a bucket: endpoint, region, access_key_id: ${NAME}, …"
    )
    token: str | None = Field(None, description="bearer token of a web server: ${NAME}")
    allow_private: Networks = Field(
        False, description="of a web server: connect to addresses that are not public"
    )
    deadline: Duration = Field(
        timedelta(minutes=30), description="for the whole pull from another machine"
    )
