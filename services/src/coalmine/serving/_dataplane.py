"""The core of the server, the same for every protocol: admit, infer, record, count.

The edges (`_http`, `_grpc`) translate bytes and status codes, and know nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.protocol import InferenceCall, TensorSpec
from coalmine.records import CALLER_UNKNOWN
from coalmine.records import Protocol as ProtocolName
from coalmine.serving._asgi import Arriving, Headers
from coalmine.serving._callers import CallerBlocks
from coalmine.serving._deadline import header_timeout
from coalmine.serving._delivery import Request, record_failure
from coalmine.serving._errors import ModelFailedError, OverloadedError, TooManyRequestsError
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._model_metrics import model_families
from coalmine.serving._recording import Recording
from coalmine.serving._repository import Repository
from coalmine.serving._servable import Servable
from coalmine.serving._sheds import Sheds
from coalmine.serving._spans import current_span
from coalmine.serving._status import http_status

__all__ = ["Dataplane", "Limits"]

_log = logging.getLogger("coalmine.serving")
_QUIET = 0.1
#: The client left; we failed; the predictor answered nonsense; the time was over.
_RECORDED = (499, 500, 502, 504)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the edges take before they shed."""

    max_body: int
    """Bytes of one request."""

    max_concurrency: int
    """Requests at once."""

    request_timeout: float = math.inf
    """Seconds that a request may take."""

    max_arriving: float = math.inf
    """Bytes of bodies that have not come as a whole yet, together."""


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
        callers: CallerBlocks | None = None,
    ) -> None:
        self.repository = repository
        self.arm = arm
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.caller = (callers or CallerBlocks(None, salt="")).of
        self.arriving = Arriving(most=limits.max_arriving)
        self._sheds = Sheds(clock)
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
        extensions = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
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

    def admit(self) -> None:
        """Take one of the places for requests; TooManyRequestsError if all are taken."""
        if self._inflight >= self.limits.max_concurrency:
            raise TooManyRequestsError(f"{self._inflight} requests are being answered already")
        self._inflight += 1

    def release(self) -> None:
        """Give back a place that was taken."""
        self._inflight -= 1

    def deadline(self, began: float, headers: Mapping[bytes, bytes], call: InferenceCall) -> float:
        """Until when a request that began then is worth running, on the monotonic clock."""
        left = min(header_timeout(headers), call.timeout, self.limits.request_timeout)
        return began + left

    async def infer(self, servable: Servable, request: Request) -> Any:
        """The request's reply; the record is kept before the caller can send it."""
        if (span := current_span.get()) is None:
            await servable.answer(request)
        else:
            span.submitted(servable.name, request.rows)
            span.computed(request, await servable.answer(request))
        return request.reply

    def count(
        self,
        servable: Servable | None,
        protocol: ProtocolName,
        error: BaseException,
        arrived: float,
        *,
        identifier: str | None = None,
        caller: int = CALLER_UNKNOWN,
    ) -> None:
        """Count a request that is refused because of the error, or left by its client.

        With an `identifier` it is recorded, if it is one that an arm is to be judged by: shed, out
        of time, or left. (What the model failed on is recorded with its batch.)
        """
        servable = servable or self.repository.only
        metrics = self._nobody if servable is None else servable.metrics
        if isinstance(error, OverloadedError):
            metrics.shed(error.reason)
        status = http_status(error)
        metrics.answered(protocol, status, self.clock.monotonic() - arrived)
        if not identifier or servable is None or servable.emitter is None:
            return
        if isinstance(error, OverloadedError) and status != 504:
            self._sheds.add(
                identifier,
                protocol,
                error,
                arrived=arrived,
                emitter=servable.emitter,
                caller=caller,
            )
        elif status in _RECORDED and not isinstance(error, ModelFailedError):
            record_failure(
                identifier,
                protocol,
                error,
                arrived=arrived,
                emitter=servable.emitter,
                clock=self.clock,
                caller=caller,
            )

    async def start(self) -> None:
        """Start shipping records."""
        await self._recording.start()

    async def drain(self, timeout: float) -> None:
        """Say not ready, and wait until nothing has been in flight for a moment, or `timeout`."""
        self._draining = True
        give_up = self.clock.monotonic() + timeout
        quiet_since = self.clock.monotonic()
        answered = self.metrics.requests
        while (now := self.clock.monotonic()) < give_up:
            # A quick model answers within a turn of the loop: then there is never one in flight.
            before, answered = answered, self.metrics.requests
            if self._inflight or answered != before:
                quiet_since = now
            elif now - quiet_since >= _QUIET:
                return
            await asyncio.sleep(0.01)
        _log.warning("%d requests are still in flight after %s s", self._inflight, timeout)

    async def close(self) -> None:
        """Stop the model, ship the last records, and keep what cannot be shipped on disk."""
        self.repository.close()
        self._sheds.flush()
        await self._recording.close()


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
