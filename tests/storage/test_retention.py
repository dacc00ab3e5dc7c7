"""Which snapshots stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import config
from headwater.config import RetentionConfig
from headwater.errors import ConfigError
from headwater.storage.retention import SnapshotPoint, plan_retention

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def points(*ages: timedelta) -> list[SnapshotPoint]:
    """Snapshots of these ages, the oldest first."""
    ordered = sorted(ages, reverse=True)
    return [SnapshotPoint(f"{n:08d}", n, NOW - age) for n, age in enumerate(ordered, 1)]


AGES = st.lists(
    st.integers(0, 400 * 24 * 60).map(lambda minutes: minutes * MINUTE), min_size=1, max_size=60
)
SPANS = st.lists(st.integers(1, 400 * 24), min_size=3, max_size=4).map(sorted)


@st.composite
def configs(draw):
    spans = [hours * HOUR for hours in draw(SPANS)]
    names = ("all_for", "hourly_for", "daily_for", "monthly_for")
    return RetentionConfig(**dict(zip(names, spans, strict=False)))


def test_a_year_of_refreshes_is_thinned_to_hours_days_and_months():
    """A refresh every ten minutes leaves all of a day, then one an hour, a day, a month."""
    every = points(*(n * 10 * MINUTE for n in range(365 * 144)))
    kept = plan_retention(every, now=NOW, config=RetentionConfig()).kept
    ages = [NOW - p.observed_at for p in every if p.name in set(kept)]
    assert sum(age <= DAY for age in ages) == 145
    assert sum(DAY < age <= 7 * DAY for age in ages) == 6 * 24
    assert sum(7 * DAY < age <= 90 * DAY for age in ages) == 83
    assert sum(age > 90 * DAY for age in ages) == 9
    old = [p.observed_at for p in every if p.name in set(kept) and NOW - p.observed_at > 90 * DAY]
    assert all((when + 10 * MINUTE).day == 1 for when in old)


@given(AGES, configs(), st.data())
def test_what_must_stay_stays(ages, retention, data):
    """CURRENT, its parent, what is named, and all that is young stay; nothing is lost or invented."""
    every = points(*ages)
    keep = data.draw(st.sets(st.sampled_from([p.name for p in every])))
    plan = plan_retention(every, now=NOW, config=retention, keep=keep)
    assert sorted((*plan.kept, *plan.expired)) == [p.name for p in every]
    young = {p.name for p in every if NOW - p.observed_at <= retention.all_for}
    assert set(plan.kept) >= keep | young | {p.name for p in every[-2:]}


@given(AGES, configs())
def test_the_newest_of_each_bucket_stays(ages, retention):
    """Every hour, day and month that is young enough and held a snapshot keeps its newest."""
    every = points(*ages)
    kept = set(plan_retention(every, now=NOW, config=retention).kept)
    for limit, size in ((retention.hourly_for, 13), (retention.daily_for, 10)):
        newest = {p.observed_at.isoformat()[:size]: p for p in every}
        assert {p.name for p in newest.values() if NOW - p.observed_at <= limit} <= kept
    newest = {p.observed_at.isoformat()[:7]: p for p in every}
    limit = retention.monthly_for
    assert {p.name for p in newest.values() if not limit or NOW - p.observed_at <= limit} <= kept


@given(AGES, configs(), st.integers(0, 400 * 24))
def test_thinning_again_finds_the_same_and_later_only_less(ages, retention, hours):
    """A second look expires nothing; a later one gives what it would have given at once."""
    every = points(*ages)
    first = plan_retention(every, now=NOW, config=retention)
    left = [p for p in every if p.name in first.kept]
    assert plan_retention(left, now=NOW, config=retention).expired == ()
    later = NOW + hours * HOUR
    at_once = plan_retention(every, now=later, config=retention).kept
    assert plan_retention(left, now=later, config=retention).kept == at_once


@given(AGES, configs())
def test_the_order_of_the_snapshots_does_not_matter(ages, retention):
    """The same snapshots in any order give the same plan."""
    every = points(*ages)
    plan = plan_retention(every, now=NOW, config=retention)
    assert plan_retention(every[::-1], now=NOW, config=retention) == plan


def test_the_configuration_is_checked():
    """Spans must rise, typing errors are explained, and leaving `monthly_for` out means for ever."""
    base = "name: a\nsources: {d: {kind: documents, root: d}}\nretention: "
    found = config.parse((base + "{all_for: 2d, monthly_for: 104w}").encode()).retention
    assert (found.all_for, found.monthly_for) == (2 * DAY, 728 * DAY)
    assert config.parse(base[: base.index("retention")].encode()).retention.monthly_for is None
    for wrong, words in (
        ("{all_for: 8d}", "all_for <= hourly_for"),
        ("{monthly_for: 30d}", "daily_for <= monthly_for"),
        ("{daily: 30d}", "unknown key"),
        ("{grace: 0h}", "above zero"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.parse((base + wrong).encode())
        assert words in str(caught.value)
