"""Which segments are kept, and which are merged into a new one: a pure plan over row counts.

Small segments are merged as a binary counter adds: a new segment absorbs those that are not larger.
So a row is copied about log n times in its life, and an update costs what it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater.config import IndexConfig

MAX_GRAPHS = 6


@dataclass(frozen=True)
class SegmentFacts:
    """What the plan needs to know of a segment.

    Attributes:
        rows: all of them.
        dead: those that are not live in the snapshot being built.
        has_graph: whether it is searched by graph or by scan.
    """

    rows: int
    dead: int
    has_graph: bool

    @property
    def live(self) -> int:
        """Rows that a search may return."""
        return self.rows - self.dead


@dataclass(frozen=True)
class CompactionPlan:
    """What becomes of the parent's segments. A segment in neither list holds no live row.

    Attributes:
        kept: positions that stay as they are.
        merged: positions whose live rows go, with the new rows, into one new segment.
        new_rows: live rows of that segment; 0 when there is none.
        graph: whether it gets a graph.
    """

    kept: tuple[int, ...]
    merged: tuple[int, ...]
    new_rows: int
    graph: bool


def plan_compaction(
    segments: Sequence[SegmentFacts], *, new_rows: int, config: IndexConfig
) -> CompactionPlan:
    """Decide which segments survive an update.

    Args:
        segments: of the parent, with the deaths of this update counted.
        new_rows: texts that no segment holds.
        config: the limits.

    Returns:
        the plan. With no new rows and no segment that is too dead, all living segments are kept.
    """
    living = [i for i, s in enumerate(segments) if s.live]
    merged = {i for i in living if segments[i].dead > config.max_dead_share * segments[i].rows}
    size = new_rows + sum(segments[i].live for i in merged)
    if not size:
        return CompactionPlan(tuple(living), (), 0, graph=False)

    def by_size(has_graph: bool) -> list[int]:
        rest = (i for i in living if i not in merged and segments[i].has_graph is has_graph)
        return sorted(rest, key=lambda i: (segments[i].live, i))

    flat = by_size(False)
    crowded = size + sum(segments[i].live for i in flat) >= config.graph_from
    while flat and (
        crowded or segments[flat[0]].live <= size or len(flat) >= config.max_flat_segments
    ):
        size += segments[flat[0]].live
        merged.add(flat.pop(0))
    if size >= config.graph_from:
        graphs = by_size(True)
        while graphs and (segments[graphs[0]].live <= size or len(graphs) >= MAX_GRAPHS):
            size += segments[graphs[0]].live
            merged.add(graphs.pop(0))
    kept = tuple(i for i in living if i not in merged)
    return CompactionPlan(kept, tuple(sorted(merged)), size, graph=size >= config.graph_from)
