"""What the services answer alike over HTTP: mistakes as `{"error": ...}`, and ranges of time."""

from __future__ import annotations

import logging
import math
import sqlite3
from typing import Annotated, NamedTuple

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

__all__ = ["Span", "SpanQuery", "answer_errors"]

_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """A range of record time [since, until), seconds since the epoch."""

    since: float
    until: float


def answer_errors(app: FastAPI) -> None:
    """Let an app say `{"error": ...}` for unknown routes (404), methods (405), parameters (400),
    a disk or database that is full, busy or gone (503), and what nobody thought of (500)."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{key}: {first['msg']}"}, status_code=400)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        told = str(error.detail)
        if error.status_code in (404, 405):
            told = f"{request.method} {request.url.path}: {told}"
        return JSONResponse({"error": told}, status_code=error.status_code, headers=error.headers)

    async def unavailable(_: Request, error: Exception) -> JSONResponse:
        _log.warning("not answered: %s", error)
        # Without the file's name, which is nothing to a client.
        told = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return JSONResponse({"error": told}, status_code=503, headers={"retry-after": "1"})

    for kind in (sqlite3.Error, OSError):
        app.add_exception_handler(kind, unavailable)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody hears it, and it is no fault to log

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"internal error: {type(error).__name__}"}, status_code=500)


def _span(
    since: Annotated[str | None, Query(description="Seconds since the epoch, included")] = None,
    until: Annotated[str | None, Query(description="Seconds since the epoch, not included")] = None,
) -> Span:
    span = Span(_seconds("since", since, -math.inf), _seconds("until", until, math.inf))
    if span.since > span.until:
        raise HTTPException(400, f"since={since} is after until={until}")
    return span


def _seconds(name: str, text: str | None, unsaid: float) -> float:
    if text is None:
        return unsaid
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise HTTPException(400, f"{name}: {text[:80]!r} is not a time in seconds since the epoch")
    return seconds


#: The parameters `since` and `until` of a route; 400 for what is no time, or ends before it begins.
SpanQuery = Annotated[Span, Depends(_span)]
