"""Golden queries: what a knowledge base must find, written by its owner in `golden.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from headwater.config import Texts
from headwater.errors import ConfigError
from headwater.yaml_files import explain, line_of, read_yaml

GOLDEN_NAME = "golden.yaml"


class GoldenQuery(BaseModel):
    """One query, and what must be among its hits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: Annotated[str, Field(min_length=1, pattern=r"\S")]
    expect: Annotated[Texts, Field(min_length=1)] = Field(
        description="documents, one of which must be found: a key, or source/key"
    )
    k: int = Field(5, ge=1, le=100, description="within so many hits")
    source: str | None = Field(None, description="search only this source")
    line: int = Field(0, exclude=True, description="where it stands; not for the file")


_QUERIES = TypeAdapter(tuple[GoldenQuery, ...])


def load_golden(root: Path, *, sources: Iterable[str]) -> tuple[GoldenQuery, ...]:
    """The golden queries of the knowledge base in `root`; none without a `golden.yaml`.

    Args:
        root: its folder.
        sources: the names of its sources.

    Raises:
        ConfigError: the file cannot be read or is wrong; the message names the line.
    """
    known = sorted(sources)
    path = root / GOLDEN_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(
            "The golden queries cannot be read", obj=str(path), todo=str(error.strerror or error)
        ) from None
    found = parse_golden(data, name=str(path))
    for golden in found:
        if golden.source is not None and golden.source not in known:
            raise ConfigError(
                "The golden queries are wrong",
                obj=f"{path}:{golden.line}: no source is called {golden.source!r}",
                todo=f"headwater.yaml names: {', '.join(known)}",
            )
    return found


def parse_golden(data: bytes, *, name: str = GOLDEN_NAME) -> tuple[GoldenQuery, ...]:
    """Read the bytes of a `golden.yaml`.

    Raises:
        ConfigError: naming `name`, the line, the key and what was expected.
    """
    values, node = read_yaml(data, name=name)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise ConfigError(
            "The golden queries are wrong",
            obj=f"{name}:1: not a list",
            todo="expected '- query: …' with 'expect: [key]'",
        )
    for position, value in enumerate(values):
        if isinstance(value, dict):
            if "line" in value:
                where = f"{name}:{line_of(node, (position, 'line'))}"
                raise ConfigError(
                    "The golden queries are wrong", obj=f"{where}: line", todo="unknown key"
                )
            value["line"] = line_of(node, (position,))
    try:
        return _QUERIES.validate_python(values)
    except ValidationError as error:
        told = explain(error, node, name=name, models=[GoldenQuery])
        raise ConfigError("The golden queries are wrong", obj=name, todo=told) from None
