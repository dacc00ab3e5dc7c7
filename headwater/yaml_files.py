"""YAML that people write, read into pydantic models: every error names the file and the line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from headwater.errors import ConfigError

_SECRET: Final = re.compile(r"(?i)key|token|secret|passw|dsn|url|header|auth")
"""Of the names of settings."""


def read_yaml(data: bytes, *, name: str) -> tuple[Any, yaml.Node | None]:
    """The values of a YAML file, and its nodes, which know their lines.

    Raises:
        ConfigError: it is not UTF-8 or not YAML; `name` is the file in the message.
    """
    try:
        text = data.decode("utf-8")
        return yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError("The file is not UTF-8", obj=name, todo=str(error)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError("The file is not valid YAML", obj=where, todo=str(problem)) from None


def explain(
    error: ValidationError,
    node: yaml.Node | None,
    *,
    name: str,
    models: Iterable[type[BaseModel]],
) -> str:
    """What a model found wrong with a file, a line each.

    Args:
        error: what the model said.
        node: of the file.
        name: of the file.
        models: whose fields are suggested for an unknown key.
    """
    known = sorted({field for model in models for field in model.model_fields})
    return "\n     ".join(_explain(item, node, name, known) for item in error.errors())


def line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The 1-based line of the deepest part of `loc` that the file holds."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if match is None:
                return line
            line, node = match[0].start_mark.line + 1, match[1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _explain(item: Any, node: yaml.Node | None, name: str, known: list[str]) -> str:
    loc = tuple(part for part in item["loc"] if part != "[key]")
    key = ".".join(str(part) for part in loc) or "(the whole file)"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        close = get_close_matches(str(loc[-1]), known, n=1)
        message = f"unknown key{f' (did you mean {close[0]!r}?)' if close else ''}"
    elif item["type"] == "missing":
        message = "this key is required"
    given = item.get("input")
    # What stands there may be the key itself, in a line that many will see.
    told = isinstance(given, str | int | float | bool) and not _SECRET.search(key)
    shown = f", got {given!r}" if told else ""
    return f"{name}:{line_of(node, loc)}: {key}: {message}{shown}"
