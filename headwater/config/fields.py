"""What every part of the configuration is made of: frozen models, durations, lists of texts."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def parse_duration(value: object) -> timedelta:
    """Read `15m`, `1d`, `1h 30m` (units s, m, h, d, w) as a positive duration.

    Raises:
        ValueError: the text is no duration.
    """
    if isinstance(value, timedelta):
        return value
    text = str(value).strip().lower()
    parts = list(_DURATION.finditer(text))
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError("expected a duration such as 30s, 15m, 6h, 1d or 2w")
    seconds = sum(float(part["number"]) * _UNITS[part["unit"]] for part in parts)
    if seconds <= 0:
        raise ValueError("expected a duration above zero")
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError("expected a duration of less than a million years") from None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back: `1d`, `1h30m`."""
    left = int(value.total_seconds())
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?\s*[smhdw]\s*)+$"}),
]


def listed(value: Any) -> Any:
    """One text as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


_TEXT_OR_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Texts = Annotated[tuple[str, ...], BeforeValidator(listed), WithJsonSchema(_TEXT_OR_TEXTS)]
"""A list of texts; one text stands for a list of one."""


Severity = Literal["critical", "warning"]


class Model(BaseModel):
    """A part of the configuration: frozen, and no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)
