from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.config import IndexConfig
from headwater.retrieval.compaction import MAX_GRAPHS, SegmentFacts, plan_compaction

CONFIG = IndexConfig(graph_from=100, max_flat_segments=4, max_dead_share=0.2)


@st.composite
def facts(draw):
    """Any segment, from untouched to fully dead."""
    rows = draw(st.integers(1, 400))
    return SegmentFacts(rows, draw(st.integers(0, rows)), has_graph=rows >= CONFIG.graph_from)


@given(st.lists(facts(), max_size=12), st.integers(0, 500))
def test_every_live_row_ends_in_exactly_one_segment(segments, new_rows):
    """Kept and merged segments never overlap, and only fully dead ones are dropped."""
    plan = plan_compaction(segments, new_rows=new_rows, config=CONFIG)
    assert not set(plan.kept) & set(plan.merged)
    named = {*plan.kept, *plan.merged}
    assert named == {i for i, s in enumerate(segments) if s.live}
    kept = sum(segments[i].live for i in plan.kept)
    assert kept + plan.new_rows == sum(s.live for s in segments) + new_rows


@given(st.lists(facts(), max_size=12), st.integers(0, 500))
def test_no_kept_segment_is_too_dead(segments, new_rows):
    """A segment with more dead rows than allowed is rewritten."""
    plan = plan_compaction(segments, new_rows=new_rows, config=CONFIG)
    assert all(segments[i].dead <= 0.2 * segments[i].rows for i in plan.kept)


@given(st.lists(facts(), max_size=12), st.integers(1, 500))
def test_after_an_update_the_limits_hold(segments, new_rows):
    """Few flat segments, few graphs, and never so many flat rows that a graph would be faster."""
    plan = plan_compaction(segments, new_rows=new_rows, config=CONFIG)
    flat = [segments[i].live for i in plan.kept if not segments[i].has_graph]
    graphs = [i for i in plan.kept if segments[i].has_graph]
    if plan.graph:
        assert not flat
        assert len(graphs) + 1 <= MAX_GRAPHS
    else:
        assert len(flat) + 1 <= CONFIG.max_flat_segments
        assert sum(flat) + plan.new_rows < CONFIG.graph_from


@given(st.lists(facts(), max_size=12))
def test_nothing_new_and_nothing_too_dead_keeps_all(segments):
    """Without new texts, only what is too dead is touched."""
    plan = plan_compaction(segments, new_rows=0, config=CONFIG)
    alive = {i for i, s in enumerate(segments) if s.live}
    if all(s.dead <= 0.2 * s.rows for s in segments if s.live):
        assert plan.merged == () and set(plan.kept) == alive and plan.new_rows == 0


def test_a_graph_comes_exactly_at_its_threshold():
    """One row below the threshold there is no graph; at the threshold there is."""
    assert not plan_compaction([], new_rows=99, config=CONFIG).graph
    assert plan_compaction([], new_rows=100, config=CONFIG).graph
    flat = [SegmentFacts(60, 0, has_graph=False), SegmentFacts(30, 0, has_graph=False)]
    plan = plan_compaction(flat, new_rows=10, config=CONFIG)
    assert plan.graph and plan.merged == (0, 1)


@dataclass
class _Growth:
    copied: int = 0
    built: int = 0
    most: int = 0


def _grow(updates: list[int]) -> _Growth:
    segments: list[SegmentFacts] = []
    growth = _Growth()
    for new_rows in updates:
        plan = plan_compaction(segments, new_rows=new_rows, config=CONFIG)
        segments = [segments[i] for i in plan.kept]
        if plan.new_rows:
            segments.append(SegmentFacts(plan.new_rows, 0, plan.graph))
            growth.copied += plan.new_rows
            growth.built += plan.new_rows if plan.graph else 0
        growth.most = max(growth.most, len(segments))
    return growth


@given(st.lists(st.integers(1, 40), min_size=50, max_size=400))
@settings(max_examples=40, deadline=None)
def test_the_work_of_many_updates_is_bounded_per_row(updates):
    """A row is copied a small number of times, however its index grew, and is never alone for long."""
    growth = _grow(updates)
    total = sum(updates)
    assert growth.most <= CONFIG.max_flat_segments + MAX_GRAPHS
    # log2(8000 / 100) merges of graphs, and the few of the flat area.
    assert growth.built <= 10 * total
    assert growth.copied <= 20 * total


def test_a_base_is_not_rebuilt_for_a_small_change():
    """A hundred one-row updates beside a large graph leave the graph as it is."""
    segments = [SegmentFacts(100_000, 0, has_graph=True)]
    for _ in range(99):
        plan = plan_compaction(segments, new_rows=1, config=CONFIG)
        assert 0 in plan.kept
        segments = [segments[i] for i in plan.kept]
        segments.append(SegmentFacts(plan.new_rows, 0, plan.graph))
