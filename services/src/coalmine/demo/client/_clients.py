"""Asking a gateway, and telling "no answer came" from "the answer was bad".

    Exception
      NoAnswer         the connection broke or was refused: nobody answered, the caller may resend
      RequestFailed    an answer came and it is not a prediction, or none came in time: final

A gateway that has just been restarted answers 503 until it has read its routes. That is no answer
of the service either, but only then: a 503 without a connection broken shortly before is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.demo.client._wire import (
    GRPC_METHOD,
    Windows,
    WireError,
    grpc_answer,
    grpc_request,
    http_path,
    v1_answer,
    v1_request,
    v2_answer,
    v2_request,
)

__all__ = [
    "Answer",
    "Client",
    "GatewayHealth",
    "GrpcClient",
    "HttpClient",
    "NoAnswer",
    "RequestFailed",
    "Sent",
]

ARM_HEADER = "x-coalmine-arm"
VERSION_HEADER = "x-coalmine-version"
REQUEST_HEADER = "x-request-id"
VEHICLE_HEADER = "x-vehicle-id"

#: Above the gateway's own limit for a whole request, so that the gateway speaks first.
TIMEOUT_S = 40.0

_UNAVAILABLE = 503


class NoAnswer(Exception):
    """Nobody answered; the request may be sent again."""


class RequestFailed(Exception):
    """The request is lost: a bad answer, or none within the time."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: the windows of one upload of one vehicle."""

    request_id: str
    vehicle: str
    windows: Windows

    def headers(self) -> dict[str, str]:
        """The headers (gRPC: metadata) that say whose request this is and which."""
        return {REQUEST_HEADER: self.request_id, VEHICLE_HEADER: self.vehicle}


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction: class indices [windows], and the arm and version that made it."""

    labels: NDArray[np.int64]
    arm: str
    version: str


class GatewayHealth:
    """When a connection to the gateway was last broken, shared by all clients of it."""

    def __init__(self, *, grace_s: float = 15.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._grace = grace_s
        self._clock = clock
        self._broken_at: float | None = None

    def broken(self) -> None:
        """A connection broke or was refused just now."""
        self._broken_at = self._clock.monotonic()

    @property
    def just_restarted(self) -> bool:
        """Whether a connection broke within the grace time."""
        at = self._broken_at
        return at is not None and self._clock.monotonic() - at < self._grace


class Client(Protocol):
    """One protocol's way to ask."""

    @property
    def protocol(self) -> str:
        """`v1`, `v2` or `grpc`."""
        ...

    async def ask(self, sent: Sent) -> Answer:
        """One attempt; raises NoAnswer or RequestFailed."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class HttpClient:
    """V1 or V2 JSON over HTTP/1.1 with kept connections."""

    def __init__(
        self, url: str, *, model: str, protocol: Literal["v1", "v2"], health: GatewayHealth
    ) -> None:
        self._protocol = protocol
        self._path = http_path(model, protocol)
        self._health = health
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(TIMEOUT_S, connect=5.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    @property
    def protocol(self) -> str:
        """`v1` or `v2`."""
        return self._protocol

    async def ask(self, sent: Sent) -> Answer:
        """One attempt; raises NoAnswer or RequestFailed."""
        v1 = self._protocol == "v1"
        body = (
            v1_request(sent.windows) if v1 else v2_request(sent.windows, request_id=sent.request_id)
        )
        headers = {"content-type": "application/json", **sent.headers()}
        try:
            response = await self._http.post(self._path, content=body, headers=headers)
        except httpx.ConnectTimeout as error:
            self._health.broken()
            raise NoAnswer(repr(error)) from error
        except httpx.TimeoutException as error:
            raise RequestFailed(f"no answer within {TIMEOUT_S:.0f} s") from error
        except httpx.TransportError as error:
            self._health.broken()
            raise NoAnswer(repr(error)) from error
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            labels = v1_answer(response.content) if v1 else v2_answer(response.content)
        except WireError as error:
            raise RequestFailed(str(error)) from error
        return _answer(sent, labels, response.headers)

    def _refusal(self, response: httpx.Response) -> Exception:
        text = f"{response.status_code}: {response.text[:200]}"
        unanswered = response.status_code == _UNAVAILABLE and ARM_HEADER not in response.headers
        if unanswered and self._health.just_restarted:
            return NoAnswer(text)
        return RequestFailed(text)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class GrpcClient:
    """V2 over gRPC with raw contents, on one HTTP/2 connection."""

    protocol = "grpc"

    def __init__(self, address: str, *, model: str, health: GatewayHealth) -> None:
        import grpc.aio  # a tenth of a second that a reader of reports need not wait for

        self._grpc = grpc
        self._model = model
        self._health = health
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.enable_http_proxy", 0),
                # Without these a gateway that was away a moment is left alone for 20 s.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 1000),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._call = self._channel.unary_unary(GRPC_METHOD)

    async def ask(self, sent: Sent) -> Answer:
        """One attempt; raises NoAnswer or RequestFailed."""
        body = grpc_request(sent.windows, model=self._model, request_id=sent.request_id)
        call = self._call(body, timeout=TIMEOUT_S, metadata=tuple(sent.headers().items()))
        try:
            content = await call
            metadata = dict(await call.initial_metadata())
        except self._grpc.aio.AioRpcError as error:
            raise self._refusal(error) from error
        try:
            labels = grpc_answer(content)
        except WireError as error:
            raise RequestFailed(str(error)) from error
        return _answer(sent, labels, metadata)

    def _refusal(self, error: Any) -> Exception:
        text = f"{error.code().name}: {error.details()}"
        # CANCELLED is what a gateway that is being stopped leaves of a request under way.
        codes = self._grpc.StatusCode
        if error.code() not in (codes.UNAVAILABLE, codes.CANCELLED):
            return RequestFailed(text)
        metadata = {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}
        if not metadata:  # whoever answers, sends headers
            self._health.broken()
            return NoAnswer(text)
        unanswered = ARM_HEADER not in metadata
        return NoAnswer(text) if unanswered and self._health.just_restarted else RequestFailed(text)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._channel.close()


def _answer(sent: Sent, labels: NDArray[np.int64], headers: Any) -> Answer:
    expected = len(next(iter(sent.windows.values())))
    if len(labels) != expected:
        raise RequestFailed(f"{len(labels)} predictions for {expected} windows")
    if headers.get(REQUEST_HEADER) != sent.request_id:
        raise RequestFailed(f"answered as request {headers.get(REQUEST_HEADER)!r}")
    return Answer(
        labels, headers.get(ARM_HEADER, "unknown"), headers.get(VERSION_HEADER, "unknown")
    )
