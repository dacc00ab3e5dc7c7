"""Tables as files: the suffix decides the format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from headwater.errors import StorageUnavailableError

if TYPE_CHECKING:
    import pyarrow as pa


def _parquet(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path)


def _arrow(table: pa.Table, path: Path) -> None:
    import pyarrow as pa

    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def _json_lines(table: pa.Table, path: Path) -> None:
    from headwater.cli.render import table_rows

    with path.open("w", encoding="utf-8") as file:
        for row in table_rows(table):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


WRITERS: Final[dict[str, Callable[[pa.Table, Path], None]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl": _json_lines,
}
"""Suffix -> what writes it."""


class TablePath(click.ParamType[Path]):
    """A file whose suffix names a format of `WRITERS`."""

    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        """Check the suffix and the folder, or fail as a usage error."""
        path = Path(value)
        if path.suffix not in WRITERS:
            self.fail(f"{path.name!r} does not end with {', '.join(WRITERS)}", param, ctx)
        if path.is_dir() or not path.parent.is_dir():
            what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
            self.fail(f"'{path}' {what}", param, ctx)
        return path


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table in the format of the file's suffix; whoever reads sees all of it or none.

    Args:
        table: what to write.
        path: the file; it is replaced.

    Raises:
        StorageUnavailableError: the disk is full or forbidden.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        WRITERS[path.suffix](table, draft)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageUnavailableError.of(error, path) from error
