"""Which place a `root` names: the one registry of kinds of places."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from headwater.config import DocumentsConfig, expand
from headwater.errors import ConfigError
from headwater.flows.sources.archive import ZipPlace
from headwater.flows.sources.bucket import BucketPlace
from headwater.flows.sources.folder import FolderPlace
from headwater.flows.sources.git import GitPlace
from headwater.flows.sources.places import Place
from headwater.flows.sources.urls import shown
from headwater.flows.sources.web_folder import WebFolderPlace

_BUCKETS = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


def open_place(name: str, config: DocumentsConfig, *, root: Path) -> Callable[[], Place]:
    """What opens the place that `config.root` names; nothing is opened or connected yet.

    Args:
        name: of the source, for messages.
        config: its options.
        root: the folder that relative paths start from.

    Raises:
        ConfigError: the kind of place is unknown, or an environment variable is not set.
    """
    where = expand(config.root, where=f"sources.{name}.root")
    deadline = config.deadline.total_seconds()
    scheme = where.partition("://")[0].lower() if "://" in where else ""
    if where.startswith("git+"):
        url = _repository(where.removeprefix("git+"), root)
        return lambda: GitPlace(name, url, config.ref, deadline_s=deadline)
    if scheme in _BUCKETS:
        options = {
            key: expand(value, where=f"sources.{name}.storage.{key}")
            for key, value in config.storage.items()
        }
        return lambda: BucketPlace(name, where, options, deadline_s=deadline)
    if scheme in ("http", "https"):
        token = expand(config.token, where=f"sources.{name}.token") if config.token else None
        private = config.allow_private
        return lambda: WebFolderPlace(
            name, where, token, deadline_s=deadline, allow_private=private
        )
    if scheme:
        raise ConfigError(
            "No such kind of place",
            obj=f"sources.{name}.root: {shown(where)}",
            todo="a folder, a .zip, git+https://…, s3://…, gs://…, az://… or https://…",
        )
    path = os.path.join(root, where)  # noqa: PTH118
    if where.lower().endswith(".zip"):
        return lambda: ZipPlace(name, path)
    return lambda: FolderPlace(name, path)


def _repository(where: str, root: Path) -> str:
    """The address of a repository, or its path on this machine."""
    if where.startswith("file://"):
        return where.removeprefix("file://")
    # user@host:path is what ssh calls an address.
    if "://" in where or ("@" in where.partition("/")[0] and ":" in where):
        return where if "://" in where else "ssh://" + where.replace(":", "/", 1)
    return os.path.join(root, where)  # noqa: PTH118
