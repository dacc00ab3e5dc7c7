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
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from headwater.config.answering import AnswersConfig
from headwater.config.apis import ApiConfig, Incremental, Pagination
from headwater.config.building import ChunkingConfig, GatesConfig, IndexConfig
from headwater.config.databases import DatabaseConfig
from headwater.config.documents import DocumentsConfig
from headwater.config.embedding import EmbeddingConfig, EmbeddingEndpoint
from headwater.config.endpoints import EndpointConfig
from headwater.config.fields import NAME, Duration, Model, Texts, format_duration, parse_duration
from headwater.config.http_options import HttpAuth
from headwater.config.keeping import DatasetConfig, ErasureConfig, RetentionConfig
from headwater.config.serving import QueryLogConfig, ServingConfig, ServingKey
from headwater.config.source_options import (
    ContentShrink,
    DeletionGuard,
    Schedule,
    SchemaDrift,
)
from headwater.config.sources import BUILT_IN, PluginConfig, SourceConfig, read_source
from headwater.config.web import WebConfig
from headwater.errors import ConfigError, NotFoundError
from headwater.yaml_files import explain, read_yaml

__all__ = [
    "CONFIG_NAME",
    "DEFAULT_MODEL",
    "AnswersConfig",
    "ApiConfig",
    "ChunkingConfig",
    "Config",
    "ContentShrink",
    "DatabaseConfig",
    "DatasetConfig",
    "DeletionGuard",
    "DocumentsConfig",
    "Duration",
    "EmbeddingConfig",
    "EmbeddingEndpoint",
    "EndpointConfig",
    "ErasureConfig",
    "GatesConfig",
    "HttpAuth",
    "Incremental",
    "IndexConfig",
    "KnowledgeBase",
    "Pagination",
    "PluginConfig",
    "QueryLogConfig",
    "RetentionConfig",
    "Schedule",
    "SchemaDrift",
    "ServingConfig",
    "ServingKey",
    "SourceConfig",
    "Texts",
    "WebConfig",
    "expand",
    "format_duration",
    "json_schema",
    "load",
    "parse",
    "parse_duration",
]

CONFIG_NAME = "headwater.yaml"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Config(Model):
    """A knowledge base."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    model: str = Field(DEFAULT_MODEL, description="a name, or the path of a folder")
    sources: dict[
        Annotated[str, Field(pattern=NAME)], Annotated[SourceConfig, BeforeValidator(read_source)]
    ] = Field(min_length=1)
    schedule: Schedule | None = Field(None, description="of the refresh of all sources")
    on_source_error: Literal["continue", "stop"] = "continue"
    chunking: ChunkingConfig = ChunkingConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    index: IndexConfig = IndexConfig()
    gates: GatesConfig = GatesConfig()
    retention: RetentionConfig = RetentionConfig()
    erasure: ErasureConfig = ErasureConfig()
    answers: AnswersConfig = AnswersConfig()
    serving: ServingConfig = ServingConfig()
    query_log: QueryLogConfig = QueryLogConfig()
    datasets: dict[Annotated[str, Field(pattern=NAME)], DatasetConfig] = Field({})


_MODELS: tuple[type[Model], ...] = (
    *(Config, ChunkingConfig, IndexConfig, GatesConfig, DatasetConfig, Schedule, DeletionGuard),
    *(ContentShrink, SchemaDrift),
    *(
        Pagination,
        Incremental,
        HttpAuth,
        RetentionConfig,
        ServingConfig,
        ServingKey,
        QueryLogConfig,
    ),
    *(EmbeddingConfig, EmbeddingEndpoint, EndpointConfig, AnswersConfig),
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
