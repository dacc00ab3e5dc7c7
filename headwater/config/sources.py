"""Where knowledge is pulled from: one model per kind of source, a file each."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from headwater.config.apis import ApiConfig
from headwater.config.databases import DatabaseConfig
from headwater.config.documents import DocumentsConfig
from headwater.config.source_options import SourceOptions
from headwater.config.web import WebConfig


class PluginConfig(SourceOptions):
    """A source registered by another package under the entry-point group `headwater.sources`."""

    kind: str
    options: dict[str, Any] = Field({})


BUILT_IN: dict[str, type[SourceOptions]] = {
    "documents": DocumentsConfig,
    "database": DatabaseConfig,
    "api": ApiConfig,
    "web": WebConfig,
}
SourceConfig = DocumentsConfig | DatabaseConfig | ApiConfig | WebConfig | PluginConfig


def read_source(value: Any) -> Any:
    """Pick the model by `kind`, so that an error speaks of one kind and not of all."""
    if isinstance(value, SourceOptions):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError(
            "expected a mapping with 'kind': documents, database, api, web or a plug-in's"
        )
    return BUILT_IN.get(value["kind"], PluginConfig).model_validate(value)
