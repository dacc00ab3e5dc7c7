"""Backfills: a source's past, window by window, through the same refresh as everything else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from headwater.config import KnowledgeBase
from headwater.errors import ConfigError
from headwater.flows.encoding import EncodingOpener, open_encoding
from headwater.flows.refresh import Progress, RefreshOptions, refresh, silent
from headwater.flows.report import RefreshReport
from headwater.flows.sources.protocol import Window


def plan_windows(start: datetime, end: datetime, width: timedelta | None) -> tuple[Window, ...]:
    """Cut `[start, end)` into half-open windows of `width`, the last one shorter if need be.

    Raises:
        ConfigError: the range is empty, or the width is not above zero.
    """
    if end <= start:
        raise ConfigError("The range is empty", obj=f"{start} to {end}", todo="--from before --to")
    if width is None:
        return (Window(start, end),)
    if width <= timedelta(0):
        raise ConfigError("A window needs a width above zero", obj=str(width))
    windows = []
    while start < end:
        windows.append(Window(start, min(start + width, end)))
        start += width
    return tuple(windows)


def backfill(
    kb: KnowledgeBase,
    source: str,
    windows: tuple[Window, ...],
    *,
    encoding: EncodingOpener = open_encoding,
    progress: Progress = silent,
    dry_run: bool = False,
) -> Iterator[tuple[Window, RefreshReport]]:
    """Refresh `source` one window at a time; each that finds something publishes a snapshot.

    A window that was done before costs its pull and writes nothing, so a backfill that was killed
    is simply started again. Deletions are never inferred from a window.

    Raises:
        HeadwaterError: as `refresh`; the windows already done stay published.
    """
    for number, window in enumerate(windows):
        progress("backfill", number, len(windows))
        options = RefreshOptions(sources=(source,), window=window, cause="backfill")
        report = refresh(kb, options, encoding=encoding, progress=progress, dry_run=dry_run)
        yield window, report
    progress("backfill", len(windows), len(windows))
