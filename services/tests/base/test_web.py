"""What the services answer alike: every mistake as `{"error": ...}`, never a traceback."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from coalmine.web import SpanQuery, answer_errors


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    answer_errors(app)

    @app.get("/v1/span")
    def span(span: SpanQuery, limit: int = 1) -> dict[str, Any]:
        return {"since": str(span.since), "until": str(span.until), "limit": limit}

    @app.get("/v1/full")
    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    @app.get("/v1/disk")
    def disk() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    @app.get("/v1/bug")
    def bug() -> None:
        raise KeyError("a secret")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/v1/nothing", 404, "GET /v1/nothing: Not Found"),
        ("POST", "/v1/span", 405, "POST /v1/span: Method Not Allowed"),
        ("GET", "/v1/span?limit=many", 400, "limit: "),
        ("GET", "/v1/span?since=nan", 400, "since: 'nan' is not a time in seconds since the epoch"),
        ("GET", "/v1/span?until=2026-11-22T07:00", 400, "until: '2026-11-22T07:00' is not a time"),
        ("GET", "/v1/span?since=2&until=1", 400, "since=2 is after until=1"),
        ("GET", "/v1/full", 503, "database or disk is full"),
        ("GET", "/v1/disk", 503, "No space left on device"),
        ("GET", "/v1/bug", 500, "internal error: KeyError"),
    ],
)
async def test_a_mistake_is_told_in_one_form(
    client: httpx.AsyncClient, method: str, path: str, status: int, told: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(told)
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) is (status == 503)
    assert ("allow" in answer.headers) is (status == 405)


async def test_a_range_without_ends_is_all_time(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/span", params={"since": "-1e300"})
    assert answer.json() == {"since": "-1e+300", "until": "inf", "limit": 1}
