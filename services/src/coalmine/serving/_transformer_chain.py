"""A transformer in one process, its predictor in another: one request through both."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.protocol import Signature, SignatureError, Tensors
from coalmine.serving._batch import Steps
from coalmine.serving._errors import (
    ModelFailedError,
    ModelLoadError,
    PredictorUnavailableError,
    WrongOutputError,
)
from coalmine.serving._spans import span_of_step
from coalmine.serving._transform import Transforming, client_signature
from coalmine.serving._transform_steps import TransformSteps, example_of
from coalmine.serving._transformer_options import PredictorOptions
from coalmine.serving._transformer_remote import (
    Answer,
    Described,
    PredictorClient,
    again,
)

__all__ = ["Chain", "Chained", "connect", "forwarded"]

#: Headers that a predictor gets from the client as they are; the request id goes with them.
_FORWARDED = (
    "authorization", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid",
    "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
)  # fmt: skip
_CARRIED = re.compile(r"[\x20-\x7e]*")
#: Seconds of work that the event loop may do for one request without others noticing.
_INLINE = 500e-6
_PROBE_ROWS = 16
_THREADS = 4


def connect(options: PredictorOptions, *, name: str) -> PredictorClient:
    """A client for the protocol that is asked for."""
    if options.protocol == "grpc-v2":
        from coalmine.serving._transformer_grpc import GrpcPredictor

        return GrpcPredictor(options, name=name)
    from coalmine.serving._transformer_http import HttpPredictor

    return HttpPredictor(options, name=name)


def forwarded(headers: Mapping[str, str], *, request_id: str) -> dict[str, str]:
    """The headers of a client's request that its predictor gets; none that gRPC cannot carry."""
    passed = {
        name: value
        for name in _FORWARDED
        if (value := headers.get(name)) is not None and _CARRIED.fullmatch(value)
    }
    return passed | {"x-request-id": request_id}


@dataclass(frozen=True, slots=True)
class Chained:
    """What one request came to, step by step."""

    features: Tensors
    predictions: Tensors
    outputs: Tensors
    headers: dict[str, str]
    """Who answered, in the predictor's words."""

    steps: Steps | None
    """None if nothing was done."""


class Chain:
    """A transformer and a connection to its predictor; made and used on one event loop."""

    def __init__(
        self,
        transformer: Transforming,
        client: PredictorClient,
        described: Described,
        options: PredictorOptions,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._transformer = transformer
        self._client = client
        self._options = options
        self._described = described = _completed(described, transformer, options)
        self.signature = client_signature(
            transformer, Signature(described.inputs, described.outputs)
        )
        self.version = described.version
        self.nothing: Tensors = {
            spec.name: np.empty((0, *(max(n, 0) for n in spec.shape[1:])), dtype=spec.dtype)
            for spec in self.signature.outputs
        }
        """The answer to a request without rows."""

        self._transform = TransformSteps(
            transformer,
            model_inputs=described.inputs,
            outputs=self.signature.outputs,
            non_finite=self.signature.non_finite,
        )
        self._clock = clock
        self._inline_rows = self._inlined()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="transformer")

    @classmethod
    async def open(
        cls, transformer: Transforming, client: PredictorClient, options: PredictorOptions
    ) -> Chain:
        """Ask the predictor what it takes and gives, and compare. PredictorUnavailableError,
        PredictorAnswerError; ModelLoadError if the two do not fit together."""
        return cls(transformer, client, await client.describe(), options)

    async def run(
        self,
        tensors: Tensors,
        *,
        rows: int,
        headers: Mapping[str, str],
        timeout: float | None = None,
    ) -> Chained:
        """Transform, ask the predictor, transform its answer. Many may run at once.

        SignatureError for what cannot be transformed; ModelFailedError if the transformer breaks;
        else the predictor's own errors (`_transformer_remote.failure`). Nothing is asked for
        no rows.
        """
        if rows == 0:
            return Chained({}, self.nothing, self.nothing, {}, None)
        began = self._clock.monotonic()
        with span_of_step("preprocess"):
            features = await self._call(self._transform.preprocess, tensors, rows)
        preprocessed = self._clock.monotonic()
        limit = self._options.timeout
        with span_of_step("predict", elsewhere=True) as trace:

            async def attempt(left: float) -> Answer:
                return await self._client.infer(
                    features, self._described, headers={**headers, **trace}, timeout=left
                )

            answer = await again(
                attempt,
                retries=self._options.retries,
                timeout=limit if timeout is None else min(limit, timeout),
            )
        predicted = self._clock.monotonic()
        with span_of_step("postprocess"):
            outputs = await self._call(self._transform.postprocess, answer.outputs, rows)
        steps = Steps(began, preprocessed, predicted, self._clock.monotonic())
        return Chained(features, answer.outputs, outputs, answer.headers, steps)

    def knows(self, described: Described) -> bool:
        """Whether this is what the predictor said when the chain was made."""
        return _completed(described, self._transformer, self._options) == self._described

    def close(self) -> None:
        """End the threads; the client's connections are its maker's to close."""
        self._pool.shutdown(wait=False)

    async def disconnect(self) -> None:
        """End the threads and close the connections, by who has handed them over."""
        self.close()
        await self._client.close()

    async def _call(self, step: Callable[..., Tensors], tensors: Tensors, rows: int) -> Tensors:
        if rows <= self._inline_rows:
            return step(tensors, rows=rows)
        called = partial(step, tensors, rows=rows)
        return await asyncio.get_running_loop().run_in_executor(self._pool, called)

    def _inlined(self) -> int:
        """Rows up to which preprocessing is so cheap that another thread would cost more.

        ModelLoadError if it fails on the transformer's own example.
        """
        fastest: dict[int, float] = {}
        for rows in (1, _PROBE_ROWS):
            tensors = example_of(self._transformer, self.signature.inputs, rows)
            for _ in range(3):
                start = self._clock.monotonic()
                try:
                    self._transform.preprocess(tensors, rows=rows)
                except WrongOutputError as error:
                    raise ModelLoadError(f"on a sample, {error}") from error
                except ModelFailedError as error:
                    if any(-1 in spec.shape[1:] for spec in self.signature.inputs):
                        return 0  # the sizes we guessed need not fit together
                    raise ModelLoadError(
                        f"the transformer fails on a sample: {error.__cause__!r}"
                    ) from error
                except SignatureError:
                    return 0  # the example is not one; nothing is known of the cost
                took = self._clock.monotonic() - start
                fastest[rows] = min(took, fastest.get(rows, took))
        if fastest[1] >= _INLINE:
            return 0
        per_row = (fastest[_PROBE_ROWS] - fastest[1]) / (_PROBE_ROWS - 1)
        return int(1 + (_INLINE - fastest[1]) / max(per_row, 1e-9))


def _completed(
    described: Described, transformer: Transforming, options: PredictorOptions
) -> Described:
    """The description, with the transformer's own where the predictor says nothing."""
    inputs = described.inputs or getattr(transformer, "model_inputs", None)
    outputs = described.outputs or getattr(transformer, "model_outputs", None)
    if not inputs or not outputs:
        raise PredictorUnavailableError(
            f"the predictor at {options.url} does not say what its model takes and gives; declare "
            "`model_inputs` and `model_outputs` in the transformer"
        )
    return replace(described, inputs=inputs, outputs=outputs)
