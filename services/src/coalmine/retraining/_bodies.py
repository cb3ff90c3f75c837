"""What clients send to the retrainer, read within bounds.

BodyTooLarge    more than anything that is sent here needs
OrderInvalid    a body that is not what the route takes; the message names the key
"""

from __future__ import annotations

from typing import Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

_MAX_BODY = 16 * 1024**2
_BodyT = TypeVar("_BodyT", bound=BaseModel)


class BodyTooLarge(Exception):
    """A body of more bytes than anything that is sent here needs."""


class OrderInvalid(Exception):
    """A body that is not what the route takes."""


class Order(BaseModel):
    """The body of `POST /v1/runs`."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=1000)
    actor: str = Field(min_length=1, max_length=200)
    source: Literal["cli", "http"] = "http"


class Reset(BaseModel):
    """The body of `POST /v1/reset`."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=1000)
    actor: str = Field(min_length=1, max_length=200)


async def read_body(request: Request) -> bytes:
    """The body; `BodyTooLarge` as soon as it is."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > _MAX_BODY:
                raise BodyTooLarge(f"the body is larger than {_MAX_BODY} bytes")
            parts.append(part)
    except ClientDisconnect as error:  # nobody hears the answer; it must not look like our fault
        raise OrderInvalid("the client left before its body had come") from error
    return b"".join(parts)


async def read_as(request: Request, kind: type[_BodyT]) -> _BodyT:
    """The body as a model; `OrderInvalid` names the key that is wrong."""
    try:
        return kind.model_validate_json(await read_body(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:200] or "body"
        raise OrderInvalid(f"{key}: {first['msg']}") from error
