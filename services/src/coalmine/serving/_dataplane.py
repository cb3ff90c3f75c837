"""The core of the server, the same for every protocol: admit, infer, record, count.

The edges (`_http`, `_grpc`) translate bytes and status codes, and know nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.protocol import InferenceCall, Tensors, TensorSpec
from coalmine.records import InferenceRecord, RecordEmitter
from coalmine.serving._errors import (
    ModelFailedError,
    OverloadedError,
    TooManyRequestsError,
    UnknownModelError,
)
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._servable import Servable
from coalmine.serving._status import http_status

__all__ = ["Dataplane", "Limits"]

_log = logging.getLogger("coalmine.serving")
_QUIET = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What the edges take before they shed."""

    max_body: int
    """Bytes of one request."""

    max_concurrency: int
    """Requests at once."""


class Dataplane:
    """One arm: its servable, its records, its metrics, and who is being served now."""

    def __init__(
        self,
        servable: Servable,
        *,
        arm: Arm,
        limits: Limits,
        metrics: ServerMetrics,
        emitter: RecordEmitter | None,
        clock: Clock,
    ) -> None:
        self.servable = servable
        self.arm = arm
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self._emitter = emitter
        self._inflight = 0
        self._draining = False
        metrics.watch_load(
            inflight=lambda: self._inflight, queued_rows=lambda: servable.queued_rows
        )
        if emitter is not None:
            metrics.watch_records(emitter.stats)

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent here. They are answered even if not."""
        return not self._draining

    def serve(self, name: str, revision: str | None) -> None:
        """UnknownModelError unless this is the model, and the version, that is served here."""
        served = self.servable
        if name != served.name:
            raise UnknownModelError(f"unknown model {name!r:.100}; served here: {served.name}")
        if revision and revision != served.version:
            raise UnknownModelError(
                f"unknown version {revision!r:.100} of {name}; served here: {served.version}"
            )

    def server_metadata(self) -> dict[str, Any]:
        """The protocol's description of this server."""
        extensions = ["binary_tensor_data"]
        return {"name": "coalmine", "version": version("coalmine"), "extensions": extensions}

    def model_metadata(self) -> dict[str, Any]:
        """The protocol's description of the model: what clients send and get."""
        served = self.servable
        return {
            "name": served.name,
            "versions": [served.version],
            "platform": served.platform,
            "inputs": [_described(spec) for spec in served.signature.inputs],
            "outputs": [_described(spec) for spec in served.signature.outputs],
        }

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold one of the places for requests; TooManyRequestsError if all are taken."""
        if self._inflight >= self.limits.max_concurrency:
            raise TooManyRequestsError(f"{self._inflight} requests are being answered already")
        self._inflight += 1
        try:
            yield
        finally:
            self._inflight -= 1

    async def infer(
        self,
        call: InferenceCall,
        *,
        protocol: Literal["v1", "v2", "grpc"],
        request_id: str,
        arrived: float,
        encode: Callable[[Tensors], bytes],
    ) -> bytes:
        """Answer a call; the record is kept before the caller can send the answer.

        `arrived` is a reading of the monotonic clock. `encode` writes the response: it is part of
        the latency, and of what can fail.
        """
        time = self.clock.time() - (self.clock.monotonic() - arrived)
        try:
            outcome = await self.servable.infer(call)
            body = encode(outcome.computed.outputs)
        except ModelFailedError as error:
            self._keep(
                InferenceRecord(
                    request_id,
                    time,
                    protocol,
                    self._microseconds(arrived),
                    {},
                    None,
                    http_status(error),
                    error=str(error),
                )
            )
            raise
        self.metrics.batched(outcome.batch_rows, outcome.queue_seconds)
        if call.rows:
            self._keep(
                InferenceRecord(
                    request_id,
                    time,
                    protocol,
                    self._microseconds(arrived),
                    outcome.computed.features,
                    outcome.computed.predictions,
                    200,
                    int(outcome.queue_seconds * 1e6),
                    outcome.batch_rows,
                )
            )
        return body

    def count(self, protocol: str, error: Exception | None, arrived: float) -> None:
        """Count an answered request; `error` is why it was refused, if it was."""
        if isinstance(error, OverloadedError):
            self.metrics.shed(error.reason)
        status = 200 if error is None else http_status(error)
        self.metrics.answered(protocol, status, self.clock.monotonic() - arrived)

    async def start(self) -> None:
        """Start shipping records."""
        if self._emitter is not None:
            await self._emitter.start()
        _log.info(
            "%s version %s (%s) is ready", self.servable.name, self.servable.version, self.arm
        )

    async def drain(self, timeout: float) -> None:
        """Say not ready, and wait until nothing has been in flight for a moment, or `timeout`."""
        self._draining = True
        give_up = self.clock.monotonic() + timeout
        quiet_since = self.clock.monotonic()
        while (now := self.clock.monotonic()) < give_up:
            if self._inflight:
                quiet_since = now
            elif now - quiet_since >= _QUIET:
                return
            await asyncio.sleep(0.01)
        _log.warning("%d requests are still in flight after %s s", self._inflight, timeout)

    async def close(self) -> None:
        """Stop the model, ship the last records, and keep what cannot be shipped on disk."""
        self.servable.close()
        if self._emitter is not None:
            await self._emitter.close(timeout=1.0)

    def _keep(self, record: InferenceRecord) -> None:
        if self._emitter is not None:
            self._emitter.emit(record)

    def _microseconds(self, since: float) -> int:
        return int((self.clock.monotonic() - since) * 1e6)


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
