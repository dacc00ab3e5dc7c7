"""Which place a `root` names: the one registry of kinds of places."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from headwater.config import DocumentsConfig, expand
from headwater.flows.sources.folder import FolderPlace
from headwater.flows.sources.places import Place


def open_place(name: str, config: DocumentsConfig, *, root: Path) -> Callable[[], Place]:
    """What opens the place that `config.root` names; nothing is opened or connected yet.

    Args:
        name: of the source, for messages.
        config: its options.
        root: the folder that relative paths start from.

    Raises:
        ConfigError: an environment variable is not set.
    """
    where = expand(config.root, where=f"sources.{name}.root")
    path = os.path.join(root, where)  # noqa: PTH118
    return lambda: FolderPlace(name, path)
