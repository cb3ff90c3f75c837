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
from coalmine.records import InferenceRecord
from coalmine.serving._asgi import Headers
from coalmine.serving._errors import (
    ModelFailedError,
    OverloadedError,
    TooManyRequestsError,
)
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._model_metrics import model_families
from coalmine.serving._recording import Recording
from coalmine.serving._repository import Repository
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
    """One server: its models, its metrics, and who is being served now."""

    def __init__(
        self,
        repository: Repository,
        *,
        arm: Arm,
        limits: Limits,
        metrics: ServerMetrics,
        recording: Recording,
        clock: Clock,
    ) -> None:
        self.repository = repository
        self.arm = arm
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self._recording = recording
        self._inflight = 0
        self._draining = False
        self._nobody = metrics.of_model(model_name="__other__", revision="", arm=arm)
        metrics.watch(lambda: model_families(repository))

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent here. They are answered even if not."""
        return not self._draining and bool(self.repository.serving())

    def serve(self, name: str, revision: str | None) -> Servable:
        """What serves this model; UnknownModelError, ModelNotReadyError.

        Raise its `calls` before an await: a servable that is replaced is closed at zero.
        """
        return self.repository.get(name, revision or None)

    def identity(self, servable: Servable | None) -> Headers:
        """Response headers that say who answers."""
        servable = servable or self.repository.only
        if servable is not None:
            return servable.identity
        return [(b"x-coalmine-arm", self.arm.encode())]

    def server_metadata(self) -> dict[str, Any]:
        """The protocol's description of this server."""
        extensions = ["binary_tensor_data", "model_repository"]
        return {"name": "coalmine", "version": version("coalmine"), "extensions": extensions}

    @staticmethod
    def model_metadata(served: Servable) -> dict[str, Any]:
        """The protocol's description of a model: what clients send and get."""
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
        servable: Servable,
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
        emitter = servable.emitter
        servable.calls += 1
        try:
            outcome = await servable.infer(call)
            body = encode(outcome.computed.outputs)
            servable.metrics.batched(outcome.batch_rows, outcome.queue_seconds)
            if call.rows and emitter is not None:
                emitter.emit(
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
        except ModelFailedError as error:
            if emitter is not None:
                took = self._microseconds(arrived)
                status, text = http_status(error), str(error)
                emitter.emit(
                    InferenceRecord(request_id, time, protocol, took, {}, None, status, error=text)
                )
            raise
        finally:
            servable.calls -= 1

    def count(
        self, servable: Servable | None, protocol: str, error: Exception | None, arrived: float
    ) -> None:
        """Count an answered request; `error` is why it was refused, if it was."""
        servable = servable or self.repository.only
        metrics = self._nobody if servable is None else servable.metrics
        if isinstance(error, OverloadedError):
            metrics.shed(error.reason)
        status = 200 if error is None else http_status(error)
        metrics.answered(protocol, status, self.clock.monotonic() - arrived)

    async def start(self) -> None:
        """Start shipping records."""
        await self._recording.start()

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
        self.repository.close()
        await self._recording.close()

    def _microseconds(self, since: float) -> int:
        return int((self.clock.monotonic() - since) * 1e6)


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
