"""SQL sees the tables of a snapshot, and nothing else of the world."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.errors import ConfigError, CorruptObjectError, NotFoundError
from headwater.storage.changes import content_hash
from headwater.storage.sql import run_sql


@pytest.fixture
def store(chain):
    """Two sources, three snapshots, one document removed and one renamed."""
    chain.publish({"docs": {"a": "one", "b": "two", "c": "three"}, "more": {"a": ("four", "IV")}})
    chain.publish({"docs": {"a": "one, edited", "b": "two"}})
    chain.publish({"docs": {"a": "one, edited", "moved": "two"}})
    return chain.store


def rows(store, sql, **options):
    return [tuple(row.values()) for row in run_sql(store, sql, **options).to_pylist()]


def test_the_tables_of_the_current_snapshot_and_of_any_earlier_one(store):
    """The live documents with their texts, now and then."""
    sql = "select source, key, text from documents order by all"
    assert rows(store, sql) == [
        ("docs", "a", "one, edited"),
        ("docs", "moved", "two"),
        ("more", "a", "four"),
    ]
    assert rows(store, sql, as_of="1") == [
        ("docs", "a", "one"),
        ("docs", "b", "two"),
        ("docs", "c", "three"),
        ("more", "a", "four"),
    ]
    with pytest.raises(NotFoundError):
        rows(store, sql, as_of="9")


def test_every_table_answers(store):
    """History, chunks, the chain and the sources, and what a caller adds."""
    assert rows(store, "select count(*) from versions") == [(6,)]
    assert rows(store, "select key, op from closures order by all") == [
        ("a", "changed"),
        ("b", "renamed"),
        ("c", "removed"),
    ]
    assert rows(store, "select text from chunks where source = 'more'") == [("four",)]
    assert rows(store, "select seq, cause from snapshots order by seq desc limit 1") == [
        (3, "refresh")
    ]
    assert rows(store, "select count(*) from snapshots", as_of="2") == [(2,)]
    assert rows(store, "select name, kind from sources order by 1") == [
        ("docs", "memory"),
        ("more", "memory"),
    ]
    more = {"extra": pa.table({"n": [1, 2]})}
    assert rows(store, "select sum(n) from extra", more=more) == [(3,)]


def test_hashes_are_hex_and_tables_join_on_them(store):
    """A hash can be copied from one query into another."""
    name = content_hash("four").hex()
    sql = f"select d.key from documents d join chunks c using (content_hash) where content_hash = '{name}'"
    assert rows(store, sql) == [("a",)]
    assert rows(store, "select version_id from versions where source = 'more'")[0][0]


def test_a_result_keeps_its_order(store):
    """What a query sorts arrives sorted."""
    found = rows(store, "select unnest(range(50000)) as n order by n desc")
    assert found == [(n,) for n in range(49999, -1, -1)]


def test_an_empty_table_is_there(chain):
    """A store whose sources held nothing has all tables, without rows."""
    chain.publish({"docs": {}})
    for name in ("documents", "chunks", "versions", "closures"):
        assert rows(chain.store, f"select count(*) from {name}") == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "with d as (select 1 as n) select n from d",
        "from documents",
        "values (1), (2)",
        "explain select 1",
        "explain analyze select count(*) from documents",
        "describe documents",
        "describe select 1",
        "summarize documents",
        "show tables",
        "select 1; ",
        "-- a remark\nselect 1",
    ],
)
def test_every_way_to_ask_is_allowed(store, sql):
    """Questions of any kind."""
    assert rows(store, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "select 1; select 2",
        "select 1; drop view documents",
        "create table t as select 1",
        "insert into documents values (1)",
        "update documents set text = ''",
        "delete from documents",
        "drop view documents",
        "copy documents to 'x.csv'",
        "copy (select 1) to '/dev/stdout'",
        "export database 'x'",
        "attach 'x.db'",
        "attach ':memory:' as other",
        "install httpfs",
        "load httpfs",
        "set enable_external_access=true",
        "reset lock_configuration",
        "set memory_limit='90GB'",
        "pragma enable_external_access=true",
        "pragma database_list",
        "call pragma_version()",
        "create secret s (type s3)",
        "create macro f() as 1",
        "prepare p as select 1",
        "begin",
        "checkpoint",
        "vacuum",
        "use memory",
    ],
)
def test_everything_else_is_refused_before_it_runs(store, sql):
    """What is no single question does not reach the engine."""
    with pytest.raises(ConfigError, match="Exactly one question") as caught:
        run_sql(store, sql)
    assert caught.value.exit_code == 2 and "SELECT" in caught.value.todo


OUTSIDE = [
    "from read_csv('/etc/passwd')",
    "from read_text('/etc/passwd')",
    "from read_blob('/etc/passwd')",
    "from read_json('/proc/self/environ')",
    "from sniff_csv('/etc/passwd')",
    "from glob('/etc/*')",
    "from glob('*')",
    "from read_parquet('{other}')",
    "from '{other}'",
    "from parquet_metadata('{other}')",
    "from parquet_schema('{own}')",
    "from read_parquet('{own}')",
    "from read_parquet('http://127.0.0.1:9/x.parquet')",
    "from read_csv('https://example.org/x.csv')",
    "from read_parquet('s3://bucket/x.parquet')",
    "from read_duckdb('x.db')",
    "from duckdb_extensions()",
    "from query('from read_csv(''/etc/passwd'')')",
    "with x as (copy (select 1) to '{target}') select 1",
    "with x as (copy (select 1) to '{own}' (format parquet)) from x",
    "explain analyze copy (select 1) to '{target}'",
]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_no_question_leaves_the_sandbox(store, tmp_path, sql):
    """No file, the store's own included, no network, no extension, by any name."""
    other, target = tmp_path / "other.parquet", tmp_path / "written.csv"
    pq.write_table(pa.table({"a": [1]}), other)
    own = store.objects.path(store.current().versions[0])
    before = own.read_bytes()
    with pytest.raises(ConfigError) as caught:
        run_sql(store, sql.format(other=other, own=own, target=target))
    assert "disabled" in caught.value.obj and "no files" in caught.value.todo
    assert not target.exists() and own.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "select getenv('HOME')",
        "from secret_of_the_process",
        "from '/etc/passwd'",
        "with x as (insert into documents values (1) returning 1) from x",
        "with x as (delete from versions returning 1) from x",
        "from enable_logging()",
        "from pandas_scan(1)",
        "from arrow_scan(1, 2, 3)",
        "select nonsense from documents",
        "selec 1",
        "select cast('x' as integer)",
    ],
)
def test_what_cannot_be_answered_is_said_in_duckdbs_words(store, sql):
    """No environment, no variables of the process, no writing; mistakes are explained."""
    secret_of_the_process = pa.table({"a": [1]})
    assert secret_of_the_process.num_rows
    with pytest.raises(ConfigError, match="cannot be answered") as caught:
        run_sql(store, sql)
    assert "Error" in caught.value.obj


def test_there_are_no_secrets_to_be_seen(store):
    """The credentials that a user keeps for DuckDB are not loaded."""
    assert rows(store, "from duckdb_secrets()") == []


def test_columns_of_the_same_name_are_all_there(store):
    """Nothing is lost when a result becomes rows of named values."""
    table = run_sql(store, "select 1 as a, 2 as a, 3 as a")
    assert len(set(table.column_names)) == 3
    assert list(table.to_pylist()[0].values()) == [1, 2, 3]


def test_memory_and_time_are_limited(store):
    """A query that wants too much of either ends with a message."""
    with pytest.raises(ConfigError) as caught:
        run_sql(store, "select list(a) from range(1000000000) t(a)")
    assert "Out of Memory" in caught.value.obj
    with pytest.raises(ConfigError, match="longer than"):
        run_sql(store, "select count(*) from range(1000000000000)", timeout_s=0.3)


def test_a_damaged_object_is_refused_and_not_parsed(store):
    """The bytes are checked against the name first."""
    entry = store.current().versions[0]
    path = store.objects.root / entry.name
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-8] + b"\0" * 8)
    with pytest.raises(CorruptObjectError):
        run_sql(type(store)(store.root), "from versions")


def test_ctrl_c_ends_a_query(store):
    """A signal becomes the interrupt that the command line knows, at once."""
    code = (
        # A suite that runs in the background starts its children with this signal ignored.
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom headwater.storage.sql import run_sql\n"
        "from headwater.storage.store import Store\n"
        "store = Store.open(Path(sys.argv[1]))\nrun_sql(store, 'select 1')\n"
        "print('ready', flush=True)\n"
        "try:\n    run_sql(store, 'select count(*) from range(1000000000000)')\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(store.root))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    try:
        # Early or late in the query: the first signal may fall into its preparation.
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert said == "interrupted\n"
