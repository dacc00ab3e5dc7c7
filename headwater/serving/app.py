"""The application: endpoints behind a door, with one table for all that can fail."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from headwater import __version__
from headwater.errors import BusyError, HeadwaterError
from headwater.serving.door import Door
from headwater.serving.endpoints import Endpoints
from headwater.serving.gate import Gate
from headwater.serving.keys import Keyring
from headwater.serving.knowledge import Knowledge
from headwater.serving.metrics import Metrics
from headwater.serving.problems import Problem, invalid, of_http, problem_of

log = logging.getLogger(__name__)

_WATCHERS = 2
_WATCHED = 16
_MODELS = 16


def create_app(
    knowledge: Knowledge, *, insecure: bool = False, ready: Callable[[], None] = lambda: None
) -> FastAPI:
    """The ASGI application that serves a knowledge base; it closes it when it shuts down.

    Args:
        knowledge: what to serve; its configuration has the keys and the limits.
        insecure: answer to any host name although no key is configured.
        ready: called when requests can be answered.
    """
    config = knowledge.kb.config.serving
    timeout_s = config.timeout.total_seconds()
    threads = min(32, (os.cpu_count() or 1) + 4)
    work = Gate("work", threads=threads, limit=config.max_concurrent, timeout_s=timeout_s)
    watch = Gate("watch", threads=_WATCHERS, limit=_WATCHED, timeout_s=timeout_s)
    answering = knowledge.kb.config.answers.deadline.total_seconds() + timeout_s
    models = Gate("models", threads=_MODELS, limit=config.max_concurrent, timeout_s=answering)
    metrics = Metrics(knowledge.state)
    keyring = Keyring(config.api_keys)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ready()
        yield
        work.close()
        watch.close()
        models.close()
        knowledge.close()

    app = FastAPI(
        title=f"headwater: {knowledge.kb.config.name}",
        version=__version__,
        description="Searches one knowledge base, and answers from it, now or as of any snapshot.",
        # Their pages would load scripts from somewhere else.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=_described_keys() if keyring else [],
    )
    endpoints = Endpoints(knowledge, metrics, work=work, watch=watch, models=models)
    app.include_router(endpoints.router())
    _answer_problems(app, knowledge, metrics)
    app.add_middleware(
        Door,
        keyring=keyring,
        metrics=metrics,
        max_body_bytes=config.max_body_bytes,
        timeout_s=timeout_s,
        own_names_only=not keyring and not insecure,
    )
    return app


def _described_keys() -> list[Any]:
    """For the OpenAPI document alone: the door has looked at the key before."""
    return [
        Depends(HTTPBearer(auto_error=False)),
        Depends(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]


def _answer_problems(app: FastAPI, knowledge: Knowledge, metrics: Metrics) -> None:
    root = knowledge.kb.root
    folders = tuple(f"{path}{os.sep}" for path in {root.resolve(), root.absolute()})

    def reply(problem: Problem) -> Response:
        metrics.problem(problem.error)
        return Response(
            problem.body(),
            status_code=problem.status,
            headers=problem.headers,
            media_type="application/json",
        )

    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, HeadwaterError)
        problem = problem_of(error, hide=folders)
        if problem.status >= 500 and not isinstance(error, BusyError):
            log.warning("answered %d: %s", problem.status, error)
        return reply(problem)

    async def wrong(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply(invalid(list(error.errors())))

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return reply(of_http(error.status_code, str(error.detail)))

    app.add_exception_handler(HeadwaterError, known)
    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(HTTPException, refused)
