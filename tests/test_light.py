"""Searching stays light: what a process imports to answer a question, and to show its help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh

# Only a refresh needs these.
PIPELINE = {
    "adbc_driver_manager",
    "great_expectations",
    "httpx2",
    "lxml",
    "pandas",
    "prefect",
    "pypdfium2",
    "sentence_transformers",
    "sqlalchemy",
    "torch",
    "transformers",
}
# Only `headwater serve` needs these.
SERVICE = {"fastapi", "prometheus_client", "starlette", "uvicorn"}
# Needed by searching processes that do more than search, or slow to import and done without.
HEAVY = {"duckdb", "pydantic", "rich", "yaml"}

_LIST = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported(code: str, *arguments: str) -> set[str]:
    """The packages that a fresh process holds after running `code`."""
    command = [sys.executable, "-c", code + _LIST, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_retrieval_is_light() -> None:
    """`import headwater.retrieval` brings neither the pipeline nor what a search can do without."""
    found = imported("import headwater.retrieval\n")
    assert "headwater" in found
    assert not found & (PIPELINE | HEAVY)
    assert not found & {"openvino", "hnswlib", "tokenizers"}


def test_searching_is_light(tmp_path: Path) -> None:
    """Opening a store and searching it imports nothing that only a refresh needs."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "pumps.md").write_text("Pumps move water uphill.\n")
    (tmp_path / "docs" / "gates.md").write_text("Gates hold water back.\n")
    (tmp_path / "headwater.yaml").write_text(
        "name: light\nsources: {docs: {kind: documents, root: docs}}\n"
    )
    report = refresh(load(tmp_path), encoding=twin_encoding)
    assert report.published
    code = (
        "import sys\n"
        "from headwater.retrieval import Retriever\n"
        "hits = Retriever.open(sys.argv[1]).search('what moves water uphill', k=1)\n"
        "assert [hit.key for hit in hits] == ['pumps.md'], hits\n"
    )
    found = imported(code, str(tmp_path))
    assert not found & (PIPELINE | HEAVY)


def test_importing_storage_is_light() -> None:
    """`import headwater.storage.store` brings neither the pipeline nor DuckDB."""
    assert not imported("import headwater.storage.store\n") & (PIPELINE | HEAVY)


def test_importing_the_command_line_is_light() -> None:
    """`import headwater.cli` brings click and nothing that only a command needs."""
    found = imported("import headwater.cli\n")
    assert "click" in found
    assert not found & (PIPELINE | HEAVY | {"numpy", "pyarrow", "openvino"})


def test_showing_help_is_light() -> None:
    """`headwater --help` imports no more than the command line itself."""
    code = (
        "import contextlib, io\n"
        "from headwater.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    assert main(['--help']) == 0\n"
        "assert 'refresh' in out.getvalue()\n"
    )
    light = PIPELINE | HEAVY | SERVICE
    assert not imported(code) & (light | {"numpy", "pyarrow", "openvino"})


def test_serving_imports_nothing_that_only_a_refresh_needs() -> None:
    """The application brings the web framework, and neither the pipeline nor DuckDB."""
    found = imported("import headwater.serving.app, headwater.serving.server\n")
    assert found >= SERVICE - {"uvicorn"}
    assert not found & (PIPELINE | {"duckdb"})


def test_searching_needs_no_web_framework() -> None:
    """`import headwater.retrieval` and the command line leave it to `headwater serve`."""
    assert not imported("import headwater.cli, headwater.retrieval\n") & SERVICE
