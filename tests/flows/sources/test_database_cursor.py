"""A cursor never passes over a row that a transaction commits late; real servers, real transactions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from database_servers import (
    change,
    execute,
    keys_of,
    mysql_connection,
    postgres_server,
    postgres_writer,
    read_keys,
    run_mysql,
    source,
    sqlite_file,
)
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError, HeadwaterError
from headwater.flows.sources.ceilings import Ceiling, floor, next_marks
from headwater.flows.sources.conformance import pull_all
from headwater.flows.sources.database import DatabaseSource
from headwater.flows.sources.engines import open_session
from headwater.flows.sources.engines.session import InFlight
from headwater.flows.sources.protocol import PullRequest
from headwater.flows.sources.watermarks import Mark, Watermark, read_watermark, write_watermark

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def notes(postgres: Any) -> Iterator[str]:
    """A table of notes with a sequence, a time and a local time; yields the URI."""
    postgres.psql("""
        DROP TABLE IF EXISTS notes;
        CREATE TABLE notes (id serial PRIMARY KEY, body text, at timestamptz DEFAULT now(),
          local timestamp DEFAULT now());
        INSERT INTO notes (body, at, local) SELECT 'old ' || i, now() - interval '1 hour',
          now() - interval '1 hour' FROM generate_series(1, 3) i;""")
    yield postgres.get_uri()


def notes_by(uri: str, cursor: str, **options: Any) -> DatabaseSource:
    """The source over the notes."""
    return source(Path(), dsn=uri, table="notes", text="body", cursor=cursor, **options)


def after(watermark: str | None) -> PullRequest:
    """The request of the next pull."""
    return PullRequest(watermark=watermark)


@pytest.mark.parametrize("cursor", ["id", "at", "local"])
def test_a_row_committed_late_is_not_lost(notes: str, cursor: str) -> None:
    """A row whose number and time were taken before the ceiling is read once it shows."""
    db = notes_by(notes, cursor)
    mark = pull_all(db)[1].watermark
    with postgres_writer(notes) as late, postgres_writer(notes) as quick:
        execute(late, "INSERT INTO notes (body) VALUES ('late')")
        execute(quick, "INSERT INTO notes (body) VALUES ('quick')")
        quick.commit()
        batches, end = pull_all(db, after(mark))
        texts = [t for b in batches for t in b.column("text").to_pylist()]
        assert "quick" in texts
        assert "late" not in texts
        late.commit()
    assert "4" in read_keys(db, after(end.watermark)), end.note


@pytest.mark.parametrize("cursor", ["id", "at", "local"])
def test_a_row_that_was_open_at_the_first_pull_is_not_lost(notes: str, cursor: str) -> None:
    """Also the very first pull is cautious: there is no earlier mark to fall back to."""
    db = notes_by(notes, cursor)
    with postgres_writer(notes) as late:
        execute(late, "INSERT INTO notes (body) VALUES ('late')")
        with postgres_writer(notes) as quick:
            execute(quick, "INSERT INTO notes (body) VALUES ('quick')")
            quick.commit()
        end = pull_all(db)[1]
        late.commit()
    assert "4" in read_keys(db, after(end.watermark)), end.note


@pytest.mark.parametrize("cursor", ["id", "at", "local"])
def test_a_transaction_without_a_write_yet_counts(notes: str, cursor: str) -> None:
    """A transaction that only began takes its time from its beginning when it writes later."""
    db = notes_by(notes, cursor)
    mark = pull_all(db)[1].watermark
    with postgres_writer(notes) as late:
        execute(late, "SELECT now()")
        with postgres_writer(notes) as quick:
            execute(quick, "SELECT pg_sleep(1.2)")
            execute(
                quick,
                "INSERT INTO notes (body, at, local) VALUES ('quick', clock_timestamp(),"
                " clock_timestamp())",
            )
            quick.commit()
        end = pull_all(db, after(mark))[1]
        execute(late, "INSERT INTO notes (body) VALUES ('late')")
        late.commit()
    found = read_keys(db, after(end.watermark))
    assert "5" in found, end.note


@pytest.mark.parametrize("cursor", ["id", "local"])
def test_a_transaction_that_outlives_pulls_is_waited_for(notes: str, cursor: str) -> None:
    """However many pulls a transaction outlives, its row is read once it shows."""
    db = notes_by(notes, cursor)
    mark = pull_all(db)[1].watermark
    with postgres_writer(notes) as late:
        execute(late, "INSERT INTO notes (body) VALUES ('late')")
        for turn in range(12):
            with postgres_writer(notes) as quick:
                execute(quick, f"INSERT INTO notes (body) VALUES ('quick {turn}')")
                quick.commit()
            mark = pull_all(db, after(mark))[1].watermark
        late.commit()
    assert "4" in read_keys(db, after(mark))


def test_on_a_quiet_server_only_the_newest_row_is_read_again(notes: str) -> None:
    """Caution costs nothing where nobody else is connected."""
    db = notes_by(notes, "id")
    assert read_keys(db, after(pull_all(db)[1].watermark)) == ["3"]


def test_rows_at_the_ceiling_or_above_it_are_read_already(notes: str) -> None:
    """An open transaction holds back the cursor and not what others have committed."""
    db = notes_by(notes, "at")
    mark = pull_all(db)[1].watermark
    with postgres_writer(notes) as late, postgres_writer(notes) as quick:
        execute(late, "INSERT INTO notes (body) VALUES ('late')")
        execute(quick, "INSERT INTO notes (body) VALUES ('quick')")
        quick.commit()
        batches, end = pull_all(db, after(mark))
    assert "quick" in [t for b in batches for t in b.column("text").to_pylist()]
    assert "1 open transaction" in end.note


def test_a_time_in_the_future_does_not_carry_the_cursor_away(notes: str, postgres: Any) -> None:
    """One row dated next year must not hide those of today."""
    postgres.psql("INSERT INTO notes (body, at) VALUES ('dated', now() + interval '1 year');")
    db = notes_by(notes, "at")
    mark = pull_all(db)[1].watermark
    postgres.psql("INSERT INTO notes (body) VALUES ('today');")
    assert "5" in read_keys(db, after(mark))


def test_an_infinite_time_is_no_ceiling(notes: str, postgres: Any) -> None:
    """`infinity` is a time to PostgreSQL; the cursor stays in the calendar."""
    postgres.psql("INSERT INTO notes (body, at) VALUES ('for ever', 'infinity');")
    db = notes_by(notes, "at", cursor_lag="1m")
    mark = pull_all(db)[1].watermark
    postgres.psql("INSERT INTO notes (body) VALUES ('today');")
    assert "5" in read_keys(db, after(mark))


def test_a_role_that_may_not_see_others_never_moves_on_blindly(notes: str, postgres: Any) -> None:
    """Where the start of open transactions is hidden, the cursor stays, and the note says why."""
    postgres.psql("""
        DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT SELECT ON notes TO reader;""")
    uri = notes.replace("//postgres:@", "//reader@")
    db = notes_by(uri, "id")
    with postgres_writer(notes) as late, postgres_writer(notes) as quick:
        execute(late, "INSERT INTO notes (body) VALUES ('late')")
        execute(quick, "INSERT INTO notes (body) VALUES ('quick')")
        quick.commit()
        end = pull_all(db)[1]
        assert "grant pg_read_all_stats" in end.note
        late.commit()
    assert "4" in read_keys(db, after(end.watermark))
    with postgres_writer(notes) as late:
        execute(late, "SELECT 1")
        lagging = pull_all(notes_by(uri, "id", cursor_lag=2))[1]
        assert "grant" not in lagging.note
        assert "the next from 5" in lagging.note


@pytest.mark.parametrize("cursor", ["id", "at"])
def test_a_prepared_transaction_holds_the_cursor_back(prepared: Any, cursor: str) -> None:
    """What is prepared and not committed belongs to no session, and still counts."""
    prepared.psql("""
        DROP TABLE IF EXISTS notes;
        CREATE TABLE notes (id serial PRIMARY KEY, body text, at timestamptz DEFAULT now());
        INSERT INTO notes (body) VALUES ('old');
        BEGIN; INSERT INTO notes (body) VALUES ('late'); PREPARE TRANSACTION 'late';""")
    prepared.psql("SELECT pg_sleep(1.2); INSERT INTO notes (body) VALUES ('quick');")
    db = notes_by(prepared.get_uri(), cursor)
    end = pull_all(db)[1]
    prepared.psql("COMMIT PREPARED 'late';")
    assert "2" in read_keys(db, after(end.watermark)), end.note


@pytest.fixture(scope="module")
def prepared() -> Iterator[Any]:
    """A server on which transactions may be prepared."""
    with postgres_server("max_prepared_transactions = 2") as server:
        yield server


def test_the_ceiling_is_taken_in_the_order_that_loses_nothing(notes: str, postgres: Any) -> None:
    """What commits between looking at open transactions and the snapshot is in the snapshot."""
    with open_session(notes, Path(), statement_timeout=timedelta(minutes=1)) as session:
        with postgres_writer(notes) as late:
            execute(late, "INSERT INTO notes (body) VALUES ('late')")
            seen = session.in_flight()
            late.commit()
        session.begin()
        count = next(session.batches("SELECT count(*) FROM notes WHERE body = 'late'"))[0][0]
        assert seen is not None
        assert (seen.count, seen.hidden, count.as_py()) == (1, 0, 1)
        postgres.psql("INSERT INTO notes (body) VALUES ('late');")
        again = next(session.batches("SELECT count(*) FROM notes WHERE body = 'late'"))[0][0]
        assert again.as_py() == 1, "the snapshot does not move"


def test_on_mariadb_a_count_as_lag_finds_what_was_late(mariadb: str) -> None:
    """MariaDB does not say who is open: the lag has to be as long as transactions are."""
    run_mysql(
        mariadb,
        "DROP TABLE IF EXISTS notes",
        "CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, body TEXT)",
        "INSERT INTO notes (body) VALUES ('a'), ('b'), ('c')",
    )
    db = source(Path(), dsn=mariadb, table="notes", cursor="id", cursor_lag=5)
    late = mysql_connection(mariadb)
    with late.cursor() as cursor:
        cursor.execute("INSERT INTO notes (body) VALUES ('late')")
    run_mysql(mariadb, "INSERT INTO notes (body) VALUES ('quick')")
    end = pull_all(db)[1]
    late.commit()
    late.close()
    assert "4" in read_keys(db, after(end.watermark))
    bare = source(Path(), dsn=mariadb, table="notes", cursor="id")
    assert "set 'cursor_lag'" in pull_all(bare)[1].note


def test_a_count_as_lag_works_on_numbers_only(tmp_path: Path) -> None:
    """A lag has the unit of its cursor, and says so."""
    path = sqlite_file(tmp_path)
    mark = pull_all(source(tmp_path, cursor="id", cursor_lag=2))[1].watermark
    change(path, "INSERT INTO articles VALUES (4, 'en', 'four', 1, NULL)")
    assert keys_of(source(tmp_path, cursor="id", cursor_lag=2), after(mark)) == ["1", "2", "3", "4"]
    timed = pull_all(source(tmp_path, cursor="at", cursor_lag=2))[1].watermark
    with pytest.raises(ConfigError, match="cursor_lag"):
        pull_all(source(tmp_path, cursor="at", cursor_lag=2), after(timed))


# --- the decision alone ---------------------------------------------------------------------------


def at(minute: int) -> datetime:
    """A moment after noon."""
    return NOON + timedelta(minutes=minute)


def test_a_number_stops_at_the_newest_mark_older_than_everybody() -> None:
    """The mark of a pull counts once nobody is open who began before it."""
    marks = (Mark(10, at(0)), Mark(20, at(5)), Mark(30, at(9)))
    seen = Ceiling(40, at(12), InFlight(at(6), 1))
    assert next_marks(marks, seen, lag=False) == (
        Mark(20, at(5)),
        Mark(30, at(9)),
        Mark(40, at(12)),
    )
    quiet = Ceiling(40, at(12), InFlight())
    assert next_marks(marks, quiet, lag=False) == (Mark(40, at(12)),)


def test_a_time_stops_at_the_oldest_start() -> None:
    """A time is compared with the starts themselves, and keeps off the present by a second."""
    seen = Ceiling("2024-01-01 12:20:00+00", at(12), InFlight(at(6), 2), clock=True)
    assert next_marks((), seen, lag=False)[0].value == "2024-01-01 12:06:00+00:00"
    quiet = Ceiling("2024-01-01 12:20:00+00", at(12), InFlight(), clock=True)
    assert next_marks((), quiet, lag=False)[0].value == "2024-01-01 12:11:59+00:00"


def test_a_database_that_says_nothing_leaves_it_to_the_lag() -> None:
    """The highest value is the ceiling where nothing better is known."""
    assert next_marks((Mark(3),), Ceiling(9), lag=False) == (Mark(9),)
    assert next_marks((Mark(3),), Ceiling(None), lag=False) == ()


@given(
    st.lists(st.tuples(st.sampled_from(["open", "commit", "pull"]), st.integers(0, 5)), max_size=60)
)
def test_no_order_of_events_loses_a_number(events: list[tuple[str, int]]) -> None:
    """Whenever transactions take numbers, commit and pulls happen, every row is read in the end."""
    clock, number = 0, 0
    running: dict[int, tuple[int, int]] = {}
    committed: set[int] = set()
    read: set[int] = set()
    marks: tuple[Mark, ...] = ()

    def pull() -> None:
        nonlocal marks
        start = marks[0].value if marks else None
        begun = [began for began, _ in running.values()]
        oldest = at(min(begun)) if begun else None
        ceiling = Ceiling(max(committed, default=None), at(clock), InFlight(oldest, len(begun)))
        read.update(n for n in committed if start is None or n >= start)
        marks = next_marks(marks, ceiling, lag=False)

    for what, which in events:
        clock += 1
        if what == "open" and which not in running:
            number += 1
            running[which] = (clock, number)
        elif what == "commit" and which in running:
            committed.add(running.pop(which)[1])
        elif what == "pull":
            pull()
    committed.update(n for _, n in running.values())
    running.clear()
    clock += 1
    pull()
    assert read == committed


def test_watermarks_keep_values_of_every_type_and_no_secret(postgres: Any) -> None:
    """A watermark reads back as it was, and holds nothing of the URL."""
    marks = (Mark(None), Mark(1, NOON), Mark("x"), Mark(NOON), Mark(NOON.date()), Mark(1.5))
    kept = Watermark("cursor", "abc", (("id", "int4"),), marks)
    assert read_watermark(write_watermark(kept)) == kept
    assert read_watermark('{"strategy": "cursor"}') is None
    with pytest.raises(HeadwaterError, match="cannot be kept"):
        write_watermark(Watermark("cursor", "abc", (), (Mark(b"x"),)))
    db = notes_by(postgres.get_uri().replace("postgres:@", "postgres:geheim@"), "at")
    postgres.psql("CREATE TABLE IF NOT EXISTS notes (id int, body text, at timestamptz);")
    assert "geheim" not in json.dumps(pull_all(db)[1].watermark)


def test_a_lag_is_taken_off_in_the_shape_of_the_value() -> None:
    """Dates stay dates, numbers numbers, and a text of digits is no date."""
    hour = timedelta(hours=1)
    assert floor(Mark("2024-01-02"), timedelta(days=1), where="x") == "2024-01-01"
    assert floor(Mark("120"), 20, where="x") == "100"
    assert floor(Mark(NOON), hour, where="x") == NOON - hour
    assert floor(Mark("2024-01-02T03:00:00.5Z"), hour, where="x") == "2024-01-02T02:00:00"
    for value, lag in (("20240102", hour), ("soon", hour), ("soon", 3), (5, hour), (NOON, 3)):
        with pytest.raises(ConfigError, match="cursor_lag"):
            floor(Mark(value), lag, where="x")
