"""What every source that speaks HTTP has: how it proves who it is, and how far it may go."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from headwater.config.fields import Duration, Model
from headwater.config.source_options import SourceOptions

_NEEDS = {
    "bearer": ("token",),
    "basic": ("user", "password"),
    "header": ("name", "value"),
    "query": ("name", "value"),
}


class HttpAuth(Model):
    """Credentials; they are sent to the configured origin and to no other."""

    style: Literal["bearer", "basic", "header", "query"]
    token: str | None = Field(None, description="of 'bearer': ${NAME}")
    user: str | None = Field(None, description="of 'basic'")
    password: str | None = Field(None, description="of 'basic': ${NAME}")
    name: str | None = Field(None, description="of the header or the query parameter")
    value: str | None = Field(None, description="of the header or the query parameter: ${NAME}")

    @model_validator(mode="after")
    def _complete(self) -> HttpAuth:
        given = {n for n in ("token", "user", "password", "name", "value") if getattr(self, n)}
        needed = set(_NEEDS[self.style])
        if given != needed:
            raise ValueError(f"'{self.style}' takes exactly {' and '.join(_NEEDS[self.style])}")
        return self


def _networks(value: Any) -> Any:
    """Yes, no, or networks such as `10.0.0.0/8`, each in its one spelling."""
    if isinstance(value, bool):
        return value
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        raise ValueError("expected true, false, or networks such as 10.0.0.0/8")
    try:
        return tuple(str(ipaddress.ip_network(str(one), strict=False)) for one in listed)
    except ValueError as error:
        raise ValueError(f"expected networks such as 10.0.0.0/8: {error}") from None


Networks = Annotated[
    bool | tuple[str, ...],
    BeforeValidator(_networks),
    WithJsonSchema(
        {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]}
    ),
]


class HttpOptions(SourceOptions):
    """How a server is spoken to."""

    headers: dict[str, str] = Field({}, description="sent to the configured origin only")
    token: str | None = Field(None, description="bearer token: ${NAME}; short for 'auth'")
    auth: HttpAuth | None = Field(None, description="another way to prove who asks")
    rate: float | None = Field(None, gt=0, le=10_000, description="requests per second at most")
    timeout: Duration = Field(timedelta(seconds=30), description="per read")
    deadline: Duration = Field(timedelta(minutes=10), description="for the whole pull")
    max_bytes: int = Field(500_000_000, gt=0, description="decoded, for one reading of everything")
    allow_private: Networks = Field(
        False, description="connect to addresses that are not public: true, or [10.0.0.0/8, …]"
    )

    @model_validator(mode="after")
    def _one_proof(self) -> HttpOptions:
        if self.token is not None and self.auth is not None:
            raise ValueError("'token' is short for 'auth' with style bearer: give one of them")
        return self
