"""One `headwater.yaml` per knowledge base, read into frozen models.

An error names the file, the line, the key and what was expected. `${NAME}` in a string of a source
stands for an environment variable; it is resolved when the source is opened, so that searching
needs no secret, and secrets never enter a hash or a manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from headwater.errors import ConfigError, NotFoundError
from headwater.yaml_files import explain, read_yaml

CONFIG_NAME = "headwater.yaml"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def parse_duration(value: object) -> timedelta:
    """Read `15m`, `1d`, `1h 30m` (units s, m, h, d, w) as a positive duration.

    Raises:
        ValueError: the text is no duration.
    """
    if isinstance(value, timedelta):
        return value
    text = str(value).strip().lower()
    parts = list(_DURATION.finditer(text))
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError("expected a duration such as 30s, 15m, 6h, 1d or 2w")
    seconds = sum(float(part["number"]) * _UNITS[part["unit"]] for part in parts)
    if seconds <= 0:
        raise ValueError("expected a duration above zero")
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError("expected a duration of less than a million years") from None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back: `1d`, `1h30m`."""
    left = int(value.total_seconds())
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?\s*[smhdw]\s*)+$"}),
]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_TEXT_OR_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed), WithJsonSchema(_TEXT_OR_TEXTS)]
"""A list of texts; one text stands for a list of one."""


Severity = Literal["critical", "warning"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class DeletionGuard(_Model):
    """How much of a source may vanish in one refresh before a person must look.

    Deletions are withheld when more than `max(max_count, max_share * size)` records are missing.
    """

    max_count: int = Field(10, ge=0, description="this many may always go")
    max_share: float = Field(0.10, ge=0, le=1, description="or this share of the source")


class Schedule(_Model):
    """When a deployment runs: exactly one of `every` and `cron`."""

    every: Duration | None = Field(None, description="an interval: 15m, 6h, 1d")
    cron: str | None = Field(None, description="a cron line in UTC: '0 * * * *'")

    @model_validator(mode="after")
    def _one_of(self) -> Schedule:
        if (self.every is None) == (self.cron is None):
            raise ValueError("expected exactly one of 'every' and 'cron'")
        return self


class _SourceOptions(_Model):
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


class DocumentsConfig(_SourceOptions):
    """Files below a folder: md, rst, txt, html, csv, json, jsonl, pdf, docx."""

    kind: Literal["documents"]
    root: str = Field(description="the folder, relative to headwater.yaml")
    glob: Texts = Field(("**/*",), description="which files; '**' crosses folders")
    exclude: Texts = Field((), description="globs to leave out")
    url: str | None = Field(None, description="a link template: https://docs.example/{key}")
    encoding: str = Field("utf-8", description="of text files; the byte order mark wins")
    max_bytes: int = Field(50_000_000, gt=0, description="larger files go to quarantine")


class DatabaseConfig(_SourceOptions):
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


class Pagination(_Model):
    """How the pages of an API follow each other."""

    style: Literal["none", "page", "offset", "next"] = "none"
    param: str | None = Field(None, description="query parameter; 'page' or 'offset' by default")
    size_param: str | None = Field(None, description="query parameter of the page size")
    size: int | None = Field(None, gt=0, description="records asked for per page")
    start: int | None = Field(None, ge=0, description="first page; 1 for 'page', 0 for 'offset'")
    next: str = Field("next", description="path to the next page's URL in the reply")
    total: str | None = Field(None, description="path to the total count, checked at the end")


class ApiConfig(_SourceOptions):
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
    params: dict[str, str] = {}
    headers: dict[str, str] = {}
    token: str | None = Field(None, description="bearer token: ${NAME}")
    pagination: Pagination = Pagination()
    timeout: Duration = Field(timedelta(seconds=30), description="per read")
    deadline: Duration = Field(timedelta(minutes=10), description="for the whole pull")
    max_bytes: int = Field(500_000_000, gt=0, description="decoded, for the whole pull")
    since_param: str | None = Field(
        None, description="query parameter that takes a backfill's from"
    )
    until_param: str | None = Field(None, description="query parameter that takes a backfill's to")


class PluginConfig(_SourceOptions):
    """A source registered by another package under the entry-point group `headwater.sources`."""

    kind: str
    options: dict[str, Any] = {}


BUILT_IN: dict[str, type[_SourceOptions]] = {
    "documents": DocumentsConfig,
    "database": DatabaseConfig,
    "api": ApiConfig,
}
SourceConfig = DocumentsConfig | DatabaseConfig | ApiConfig | PluginConfig


def _read_source(value: Any) -> Any:
    """Pick the model by `kind`, so that an error speaks of one kind and not of all four."""
    if isinstance(value, _SourceOptions):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError("expected a mapping with 'kind': documents, database, api or a plug-in's")
    return BUILT_IN.get(value["kind"], PluginConfig).model_validate(value)


class ChunkingConfig(_Model):
    """Sizes of chunks in tokens of the embedding model. A change re-embeds everything."""

    max_tokens: int | None = Field(None, ge=32, description="the model's own limit when left out")
    min_tokens: int = Field(64, ge=1)


class IndexConfig(_Model):
    """When a segment gets a graph, and when segments are merged."""

    graph_from: int = Field(4000, ge=2, description="rows below which the exact scan is faster")
    max_flat_segments: int = Field(4, ge=1)
    max_dead_share: float = Field(0.2, gt=0, lt=1)
    recall: float = Field(0.98, gt=0, le=1, description="recall@10 that ef is calibrated to")


class GatesConfig(_Model):
    """When a candidate's search results stop its publication; a `warning` only reports.

    A critical gate that fails keeps the candidate, unpublished, until `headwater publish --override`.
    """

    golden_share: float = Field(
        0.9, ge=0, le=1, description="of the queries in golden.yaml must find what they expect"
    )
    golden_severity: Severity = "critical"
    change_queries: int = Field(
        20, ge=0, le=40, description="documents asked for of what changed; 0 asks for none"
    )
    change_recall: float = Field(
        0.9,
        ge=0,
        le=1,
        description="of the new texts must be among the ten nearest to their opening",
    )
    change_severity: Severity = "warning"
    old_text_severity: Severity = Field(
        "critical", description="when a search still finds a text that is gone"
    )
    graph_recall: float | None = Field(
        None,
        ge=0,
        le=1,
        description="recall@10 of a new graph; 0.05 below index.recall if left out",
    )
    graph_severity: Severity = "critical"


class DatasetConfig(_Model):
    """What a fine-tuning dataset is cut from, and when a chunk counts as settled."""

    sources: Texts = Field((), description="all when empty")
    recipes: Annotated[
        tuple[Literal["pairs", "instructions", "text"], ...], BeforeValidator(_listed)
    ] = (
        "pairs",
        "instructions",
        "text",
    )
    settled_for: Duration = Field(
        timedelta(days=30), description="unchanged for at least this long"
    )
    min_checks: int = Field(5, ge=1, description="confirmed by at least this many refreshes")
    test_share: float = Field(0.1, ge=0, lt=1)
    min_tokens: int = Field(16, ge=1)
    stale_above: float = Field(0.05, gt=0, le=1, description="share contradicted that means stale")
    licences: Texts = Field((), description="only these SPDX names; all when empty")


class RetentionConfig(_Model):
    """How long past snapshots stay: all of late, then the newest of each hour, day and month.

    The current snapshot, its parent, tags, pins and what released datasets were cut from stay
    whatever this says. What stays for longer than `index_for` lets go of its index, which is most
    of its bytes: it is then searched exactly, with vectors from the embedding cache, and a rollback
    to it builds the index anew. The current snapshot, its parent and pins keep theirs.
    """

    all_for: Duration = Field(timedelta(days=1), description="every snapshot, for this long")
    hourly_for: Duration = Field(timedelta(days=7), description="one an hour, for this long")
    daily_for: Duration = Field(timedelta(days=90), description="one a day, for this long")
    monthly_for: Duration | None = Field(
        None, description="one a month, for this long; for ever when left out"
    )
    index_for: Duration = Field(
        timedelta(hours=6),
        description="index of past snapshots; later they are searched exactly, from the embedding"
        " cache",
    )
    grace: Duration = Field(
        timedelta(hours=1), description="from marking an object until it is deleted"
    )

    @model_validator(mode="after")
    def _in_order(self) -> RetentionConfig:
        tiers = (self.all_for, self.hourly_for, self.daily_for, self.monthly_for)
        spans = [span for span in tiers if span is not None]
        if spans != sorted(spans):
            raise ValueError("expected all_for <= hourly_for <= daily_for <= monthly_for")
        return self


class ErasureConfig(_Model):
    """How erasures are certified."""

    signing_key: str | None = Field(
        None, description="an Ed25519 private key, a PEM file; ${NAME} may stand for the path"
    )


class ServingKey(_Model):
    """Who may ask `headwater serve`. The key itself is nowhere, only its hash."""

    name: str = Field(pattern=_NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key; see serve --new-key")
    labels: Texts | None = Field(None, description="what it may see; all when left out")


class ServingConfig(_Model):
    """Who may ask over HTTP, and how much."""

    # Not `keys`: what has that attribute looks like a mapping, and Prefect calls it.
    api_keys: tuple[ServingKey, ...] = Field(
        (), description="without any, this machine alone may ask"
    )
    max_body_bytes: int = Field(1_000_000, ge=1024, description="of a request")
    max_concurrent: int = Field(64, ge=1, description="requests taken in at once")
    timeout: Duration = Field(timedelta(seconds=30), description="for one request")


class Config(_Model):
    """A knowledge base."""

    version: Literal[1] = 1
    name: str = Field(pattern=_NAME)
    model: str = Field(DEFAULT_MODEL, description="a name, or the path of a folder")
    sources: dict[
        Annotated[str, Field(pattern=_NAME)], Annotated[SourceConfig, BeforeValidator(_read_source)]
    ] = Field(min_length=1)
    schedule: Schedule | None = Field(None, description="of the refresh of all sources")
    on_source_error: Literal["continue", "stop"] = "continue"
    chunking: ChunkingConfig = ChunkingConfig()
    index: IndexConfig = IndexConfig()
    gates: GatesConfig = GatesConfig()
    retention: RetentionConfig = RetentionConfig()
    erasure: ErasureConfig = ErasureConfig()
    serving: ServingConfig = ServingConfig()
    datasets: dict[Annotated[str, Field(pattern=_NAME)], DatasetConfig] = {}


_MODELS: tuple[type[_Model], ...] = (
    *(Config, ChunkingConfig, IndexConfig, GatesConfig, DatasetConfig, Schedule, DeletionGuard),
    *(Pagination, RetentionConfig, ServingConfig, ServingKey),
    *BUILT_IN.values(),
)
"""Whose fields are suggested for an unknown key."""


@dataclass(frozen=True)
class KnowledgeBase:
    """A configured folder.

    Attributes:
        root: the folder that holds `headwater.yaml`.
        config: what the file says.
        config_sha256: of the file's bytes.
    """

    root: Path
    config: Config
    config_sha256: str

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self.root / "store"

    def source(self, name: str) -> SourceConfig:
        """The configuration of one source.

        Raises:
            NotFoundError: the configuration names no such source.
        """
        try:
            return self.config.sources[name]
        except KeyError:
            known = ", ".join(self.config.sources)
            raise NotFoundError(
                "No such source", obj=name, todo=f"headwater.yaml names: {known}"
            ) from None


def load(root: str | Path) -> KnowledgeBase:
    """Read the knowledge base in the folder `root`.

    Raises:
        ConfigError: there is no `headwater.yaml`, or it is wrong; the message says where.
    """
    folder = Path(root)
    path = folder / CONFIG_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            "This folder is no knowledge base",
            obj=str(path),
            todo=f"{error.strerror}; run 'headwater init DIR', or name the folder with --kb",
        ) from None
    return KnowledgeBase(folder, parse(data, name=str(path)), hashlib.sha256(data).hexdigest())


def parse(data: bytes, *, name: str = CONFIG_NAME) -> Config:
    """Read the bytes of a `headwater.yaml`.

    Raises:
        ConfigError: naming `name`, the line, the key and what was expected.
    """
    values, node = read_yaml(data, name=name)
    if not isinstance(values, dict):
        raise ConfigError(
            "The file is empty or not a mapping", obj=name, todo="it needs 'name' and 'sources'"
        )
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        told = explain(error, node, name=name, models=_MODELS)
        raise ConfigError("The configuration is wrong", obj=name, todo=told) from None


def json_schema() -> dict[str, Any]:
    """The JSON schema of `headwater.yaml`, for editors."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "headwater.yaml"
    return schema


def expand(value: str, *, where: str) -> str:
    """Replace each `${NAME}` in `value` by the environment variable.

    Args:
        value: the text from the configuration.
        where: the key it came from, for the message.

    Raises:
        ConfigError: the variable is not set.
    """

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(
                "An environment variable is not set",
                obj=f"{where}: ${{{match[1]}}}",
                todo=f"export {match[1]}=… and run again",
            )
        return found

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", replace, value)
