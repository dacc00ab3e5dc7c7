"""What several commands share: where the knowledge base is, how to print, how to read a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from headwater.config import KnowledgeBase
    from headwater.storage.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def kb_option(function: F) -> F:
    """Add `--kb DIR`."""
    return click.option(
        "--kb",
        "kb_path",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(),
        envvar="HEADWATER_KB",
        show_default="the current folder",
        help="The knowledge base.",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(
        function
    )


class Time(click.ParamType[datetime]):
    """A time: RFC 3339 or a date; UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read the text, or fail as a usage error."""
        from headwater.storage.manifest import parse_time

        if isinstance(value, datetime):
            return value
        try:
            return parse_time(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is no time such as 2026-11-22 or 2026-11-22T10:00:00Z", param, ctx
            )


class Duration(click.ParamType[timedelta]):
    """A duration such as 15m, 6h or 30d."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """Read the text, or fail as a usage error."""
        from headwater.config import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def open_kb(path: Path) -> KnowledgeBase:
    """The knowledge base in `path`."""
    from headwater import config

    return config.load(path)


def open_store(path: Path) -> Store:
    """The store of the knowledge base in `path`; its configuration is not needed to read it.

    Raises:
        NotFoundError: there is none; where the folder is no knowledge base, the message says so.
    """
    from headwater.errors import NotFoundError
    from headwater.storage.store import Store

    if not (path / "store").exists() and not (path / "headwater.yaml").exists():
        raise NotFoundError(
            "This folder is no knowledge base",
            obj=str(path.absolute()),
            todo="name another with --kb, or run 'headwater init DIR' and 'headwater refresh'",
        )
    return Store.open(path / "store")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress display on stderr for terminals; nothing for pipes, JSON and logs."""
    from headwater.flows.refresh import silent

    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            task = tasks.get(stage)
            if task is None:
                task = tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(task, completed=done, total=total or None)

        yield show
