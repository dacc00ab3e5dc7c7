"""Which class pulls which kind of source: the entry points of the group `headwater.sources`.

A package adds a kind by registering a class that is constructed as `Cls(name, config, root=root)`::

    [project.entry-points."headwater.sources"]
    wiki = "my_package:WikiSource"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from headwater.config import PluginConfig, SourceConfig, expand
from headwater.errors import ConfigError
from headwater.flows.sources.protocol import Source

GROUP = "headwater.sources"


def registered_kinds() -> dict[str, EntryPoint]:
    """Every kind that an installed package registers, sorted by name."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    return {entry.name: entry for entry in reversed(found)}


def open_source(name: str, config: SourceConfig, *, root: Path) -> Source:
    """Construct the source that `config.kind` names; nothing is connected yet.

    Args:
        name: the name of the source in `headwater.yaml`.
        config: its configuration.
        root: the folder that relative paths start from.

    Raises:
        ConfigError: no package registers the kind, its class cannot be imported, or a `${NAME}` of
            the configuration is not set in the environment.
    """
    kinds = registered_kinds()
    if config.kind not in kinds:
        raise ConfigError(
            "No such kind of source",
            obj=f"{name}: {config.kind}",
            todo=f"registered kinds: {', '.join(sorted(kinds)) or 'none'}",
        )
    entry = kinds[config.kind]
    try:
        cls = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "The class of this kind of source cannot be imported",
            obj=f"{name}: {entry.value}",
            todo=f"mend or remove the package that registers it ({error})",
        ) from error
    if isinstance(config, PluginConfig):
        options = _expand_all(config.options, where=f"sources.{name}.options")
        config = config.model_copy(update={"options": options})
    source: Source = cls(name, config, root=root)
    return source


def _expand_all(value: Any, *, where: str) -> Any:
    if isinstance(value, str):
        return expand(value, where=where)
    if isinstance(value, dict):
        return {k: _expand_all(v, where=f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_all(v, where=f"{where}.{i}") for i, v in enumerate(value)]
    return value
