"""The run log remembers what a refresh without changes must not forget."""

from datetime import UTC, datetime, timedelta

from headwater.storage.manifest import format_time
from headwater.storage.runlog import RunLog, SourceRun

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def entry(number: int, outcome: str, **more) -> SourceRun:
    when = format_time(T0 + timedelta(hours=number))
    return SourceRun(f"run-{number:03d}", "docs", outcome, when, **more)


def test_only_a_verification_moves_the_last_verified_time(tmp_path):
    """Failures, partial extracts and held runs are no observations."""
    log = RunLog(tmp_path)
    for number, outcome in enumerate(["verified", "failed", "partial", "held", "stopped"]):
        log.append(entry(number, outcome))
    assert log.last_verified(["docs"]) == {"docs": T0}
    assert log.last(["docs"])["docs"].outcome == "stopped"
    assert log.verifications("docs") == [T0]


def test_what_was_verified_later_was_not_known_then(tmp_path):
    """As-of a time, later verifications do not count."""
    log = RunLog(tmp_path)
    for number in range(4):
        log.append(entry(number, "verified"))
    known = log.last_verified(["docs"], known_by=T0 + timedelta(hours=1, minutes=30))
    assert known == {"docs": T0 + timedelta(hours=1)}


def test_an_entry_stays_below_a_kilobyte(tmp_path):
    """However long an error message is, a run costs at most about 1 kB per source."""
    log = RunLog(tmp_path)
    log.append(entry(1, "failed", note="x" * 100_000))
    assert (tmp_path / "runs" / "run-001.jsonl").stat().st_size <= 1024


def test_a_torn_line_is_passed_over(tmp_path):
    """A run that died while writing its line hides none of the earlier ones."""
    log = RunLog(tmp_path)
    log.append(entry(1, "verified"))
    (tmp_path / "runs" / "run-002.jsonl").write_text('{"run_id": "run-002", "sou')
    assert log.last(["docs", "other"]) == {"docs": entry(1, "verified")}
