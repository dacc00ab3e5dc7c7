"""How a backfill's range is cut into windows: pure, and the same windows every time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from headwater.errors import ConfigError
from headwater.flows.sources.protocol import KeyRange, Window

Span = Window | KeyRange
"""One window of a backfill: of source time, or of keys."""

MAX_WINDOWS = 100_000


def plan_windows(start: datetime, end: datetime, width: timedelta | None) -> tuple[Window, ...]:
    """Cut `[start, end)` into half-open windows of `width`, the last one shorter if need be.

    Raises:
        ConfigError: the range is empty, or the width is not above zero or far too small.
    """
    if end <= start:
        raise ConfigError("The range is empty", obj=f"{start} to {end}", todo="--from before --to")
    if width is None:
        return (Window(start, end),)
    if width <= timedelta(0):
        raise ConfigError("A window needs a width above zero", obj=str(width))
    if (end - start) / width > MAX_WINDOWS:
        raise _too_many(str(width))
    windows = []
    while start < end:
        windows.append(Window(start, min(start + width, end)))
        start += width
    return tuple(windows)


def plan_key_windows(
    start: str | None, end: str | None, *, width: int | None = None, cuts: Sequence[str] = ()
) -> tuple[KeyRange, ...]:
    """Cut the keys `[start, end)` into half-open ranges.

    Args:
        start: the first key, or None for all up to `end`.
        end: the key after the last, or None for all from `start`.
        width: keys in a window, where both bounds are whole numbers.
        cuts: where to cut instead: the first key of each window but the first.

    Raises:
        ConfigError: the range is empty, a cut is outside, or the width does not fit the keys.
    """
    whole = KeyRange(start, end)
    shown = f"{start or '(first)'} to {end or '(last)'}"
    if start is not None and end is not None and start not in whole:
        raise ConfigError(
            "The range is empty", obj=shown, todo="the first key comes before the last"
        )
    if width is not None:
        return _numbered(whole, width, shown, cuts)
    ordered = sorted(set(cuts), key=int) if _all_numbers(whole, cuts) else sorted(set(cuts))
    outside = [cut for cut in ordered if cut not in whole or cut == start]
    if outside:
        raise ConfigError(
            "A cut must lie inside the range", obj=", ".join(outside), todo=f"the range is {shown}"
        )
    bounds = [start, *ordered, end]
    return tuple(KeyRange(a, b) for a, b in pairwise(bounds))


def _numbered(whole: KeyRange, width: int, shown: str, cuts: Sequence[str]) -> tuple[KeyRange, ...]:
    if cuts or not whole.numeric or whole.start is None or whole.end is None:
        raise ConfigError(
            "A width in keys needs two bounds that are whole numbers",
            obj=shown,
            todo="say where to cut other keys: --cut KEY, repeated",
        )
    if width <= 0:
        raise ConfigError("A window needs a width above zero", obj=str(width))
    first, last = int(whole.start), int(whole.end)
    if (last - first) / width > MAX_WINDOWS:
        raise _too_many(str(width))
    return tuple(
        KeyRange(str(low), str(min(low + width, last))) for low in range(first, last, width)
    )


def _all_numbers(whole: KeyRange, cuts: Sequence[str]) -> bool:
    return (whole.numeric or whole == KeyRange()) and all(KeyRange(cut).numeric for cut in cuts)


def _too_many(width: str) -> ConfigError:
    return ConfigError(
        f"The range would fall into more than {MAX_WINDOWS:,} windows",
        obj=width,
        todo="choose wider windows",
    )


def label_of(span: Span) -> str:
    """A window for people: its bounds, the second one outside."""
    if isinstance(span, Window):
        return f"{span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M}"
    return f"keys {span.start or '(first)'} to {span.end or '(last)'}"
