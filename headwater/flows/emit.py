"""Datasets of a knowledge base: which to emit, where they lie, how they fare."""

from __future__ import annotations

from headwater.config import KnowledgeBase
from headwater.errors import NotFoundError
from headwater.retrieval.datasets.emission import Emission, emit
from headwater.retrieval.datasets.status import DatasetStatus, dataset_status, list_releases
from headwater.storage.store import Store

FOLDER = "datasets"


def emit_datasets(
    kb: KnowledgeBase,
    names: tuple[str, ...] = (),
    *,
    as_of: str | None = None,
    unproven: bool = False,
) -> list[Emission]:
    """Emit the named datasets of `headwater.yaml`, or all of them.

    Raises:
        NotFoundError: no such dataset, or none is configured.
        PublicationStoppedError: nothing has settled.
    """
    store = Store.open(kb.store)
    return [
        emit(
            store,
            name=name,
            config=kb.config.datasets[name],
            as_of=as_of,
            unproven=unproven,
            out=kb.root / FOLDER,
        )
        for name in _names(kb, names)
    ]


def release_statuses(kb: KnowledgeBase, names: tuple[str, ...] = ()) -> list[DatasetStatus]:
    """The status of the newest release of each dataset that was emitted."""
    store = Store.open(kb.store)
    found = []
    for name in _names(kb, names):
        releases = list_releases(kb.root / FOLDER / name)
        if releases:
            found.append(dataset_status(store, releases[-1]))
    return found


def _names(kb: KnowledgeBase, names: tuple[str, ...]) -> tuple[str, ...]:
    configured = tuple(kb.config.datasets)
    unknown = [name for name in names if name not in configured]
    if unknown or not configured:
        raise NotFoundError(
            "No such dataset",
            obj=", ".join(unknown) or "none is configured",
            todo=f"headwater.yaml names: {', '.join(configured) or 'none; add a datasets section'}",
        )
    return names or configured
