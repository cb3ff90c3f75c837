"""A servable: transformer and network of one model version, ready to answer calls."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.modeldir import ModelCard
from coalmine.protocol import (
    InferenceCall,
    InputRefusedError,
    NonFinite,
    ProtocolError,
    Signature,
    SignatureError,
    Tensors,
)
from coalmine.records import RecordEmitter
from coalmine.serving._asgi import Headers
from coalmine.serving._batch import Batch, Computed, Outcome, Steps
from coalmine.serving._batcher import Batcher, BatchLimits
from coalmine.serving._delivery import Request, deliver
from coalmine.serving._errors import ModelFailedError, ModelLoadError, WrongOutputError
from coalmine.serving._inline import InlineKind, InlinePolicy
from coalmine.serving._metrics import ModelMetrics
from coalmine.serving._model import Laned, Runnable
from coalmine.serving._open import Opened, open_model
from coalmine.serving._options import ServeOptions
from coalmine.serving._transform import Transforming, client_signature, load_transformer
from coalmine.serving._transform_steps import TransformSteps, example_of, rows_of

__all__ = ["Servable"]

_log = logging.getLogger("coalmine.serving")

_PROBES = 5
#: Seconds of one row beyond which a model is never run in place. What a large batch takes is then
#: of no interest, and a network of images would keep hundreds of megabytes for having tried.
_SLOW = 1e-3
#: Of a slow model it is tried what two rows take, unless one row takes as long as this. Near twice
#: the time of one, joining requests would only make the first of them wait for the last.
_TRIED = 50e-3
_NO_GAIN = 0.9
_PROBE_ROWS = 64
_ALL_ROWS = 2**31
#: What the free sizes of a tensor without rows may come to, if the model has to be run for it.
_HOLLOW = 4096


@dataclass(frozen=True)
class _Compute:
    """The whole of a batch's work: preprocess, network, postprocess."""

    model: Runnable
    steps: TransformSteps | None
    clock: Clock

    def __call__(self, tensors: Tensors) -> Computed:
        if self.steps is None:
            predictions = self._predict(tensors)
            return Computed(tensors, predictions, predictions)
        rows = rows_of(tensors)
        began = self.clock.monotonic()
        features = self.steps.preprocess(tensors, rows=rows)
        preprocessed = self.clock.monotonic()
        predictions = self._predict(features)
        predicted = self.clock.monotonic()
        outputs = self.steps.postprocess(predictions, rows=rows)
        steps = Steps(began, preprocessed, predicted, self.clock.monotonic())
        return Computed(features, predictions, outputs, steps)

    def _predict(self, features: Tensors) -> Tensors:
        try:
            return self.model.run(features)
        except (ProtocolError, WrongOutputError):
            raise
        except (Exception, SystemExit) as error:
            _log.exception("the model failed")
            raise ModelFailedError("the model failed on this request") from error


class Servable:
    """One model version of one arm. Made by `load`; `infer` is its only use.

    A server adds what surrounds it there (`host`): its metrics, its records, who it is.
    """

    arm: Arm
    metrics: ModelMetrics
    emitter: RecordEmitter | None
    #: Response headers that say who answers: arm and version.
    identity: Headers
    #: Calls that have begun and are not answered yet; a replaced servable is closed at zero.
    calls: int = 0
    _hosted: bool = False

    def __init__(
        self,
        *,
        name: str,
        version: str,
        model: Runnable,
        card: ModelCard,
        transformer: Transforming | None,
        limits: BatchLimits,
        inline: InlineKind = "auto",
        non_finite: NonFinite = "missing",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.version = version
        self.card = card
        self.platform = model.platform
        self.providers = model.providers
        self._model = model
        seen = model.signature
        if transformer is not None:
            seen = client_signature(transformer, model.signature)
        self.signature = Signature(seen.inputs, seen.outputs, non_finite, seen.batched)
        self._clock = clock
        self._empty = {
            spec.name: np.empty((0, *(max(n, 0) for n in spec.shape[1:])), dtype=spec.dtype)
            for spec in self.signature.outputs
        }
        #: Whether the signature tells what the answer to no rows looks like.
        self._empty_is_known = transformer is not None or all(
            spec.shape[:1] == (-1,) and -1 not in spec.shape[1:] for spec in seen.outputs
        )
        steps = None
        if transformer is not None:
            steps = TransformSteps(
                transformer,
                model_inputs=model.signature.inputs,
                outputs=seen.outputs,
                non_finite=non_finite,
                row_by_row=model.batchable,
            )
        self._transformer = transformer
        self._compute = _Compute(model, steps, clock)
        specs = (*seen.inputs, *model.signature.inputs)
        laned = model if isinstance(model, Laned) else None
        if laned and laned.max_batch_rows:
            limits = replace(limits, batch_rows=min(limits.batch_rows, laned.max_batch_rows))
        if steps is not None:  # what clients send says little of what the network gets
            most = max(1, limits.batch_bytes // max(steps.row_bytes, 1))
            limits = replace(limits, batch_rows=min(limits.batch_rows, most))
        batchable = model.batchable and all(spec.shape[:1] == (-1,) for spec in specs)
        measured = self._measure()
        on_gpu = laned is not None and laned.max_batch_rows is not None
        self._batcher = Batcher(
            self._compute,
            batchable=batchable,
            apart=batchable and not on_gpu and not self._gains(measured),
            uniform=not any(-1 in spec.shape[1:] for spec in seen.inputs),
            inline=_inline(inline, measured),
            limits=limits,
            finish=self._finish,
            runners=laned.runners if laned else 1,
            clock=clock,
        )

    @classmethod
    def load(cls, options: ServeOptions, *, clock: Clock = SYSTEM_CLOCK) -> Servable:
        """Load and warm up what the options name; ModelLoadError says what is wrong with it."""
        return cls.of(open_model(options), options, clock=clock)

    @classmethod
    def of(cls, opened: Opened, options: ServeOptions, *, clock: Clock = SYSTEM_CLOCK) -> Servable:
        """Warm up a model that is loaded."""
        transformer = None
        if options.transformer:
            artefact = options.artefact or opened.artefact
            transformer = load_transformer(options.transformer, artefact=artefact)
        return cls(
            name=opened.card.name,
            version=opened.version,
            model=opened.model,
            card=opened.card,
            transformer=transformer,
            limits=BatchLimits(
                batch_rows=options.max_batch_rows,
                batch_bytes=options.max_batch_bytes,
                queue_rows=options.max_queue_rows,
                queue_bytes=options.max_queue_bytes,
            ),
            inline=options.inline,
            non_finite=options.non_finite,
            clock=clock,
        )

    def host(self, *, arm: Arm, metrics: ModelMetrics, emitter: RecordEmitter | None) -> None:
        """Make it a server's: `Dataplane` needs this."""
        self._hosted = True
        self.arm = arm
        self.metrics = metrics
        self.emitter = emitter
        self.identity = [
            (b"x-coalmine-arm", arm.encode()),
            (b"x-coalmine-version", self.version.encode()),
        ]

    @property
    def batch_rows(self) -> int:
        """Rows of the largest batch that requests are joined into; 0 if each runs alone."""
        return self._batcher.batch_rows

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the model."""
        return self._batcher.queued_rows

    async def infer(self, call: InferenceCall) -> Outcome:
        """Answer a call. ModelFailedError, OverloadedError, or a transformer's SignatureError."""
        if not call.rows and self._is_answered(call.tensors):
            return Outcome(Computed({}, self._empty, self._empty), 0.0, 0)
        deadline = self._clock.monotonic() + call.timeout
        return await self._batcher.submit(call.tensors, call.rows, deadline=deadline)

    async def answer(self, request: Request) -> Batch | None:
        """Answer a request of the server that is host: written (`reply`), counted and recorded.

        The batch it was run in; None for a request without rows, which is not run.
        Raises what `infer` raises, and what the request's `encode` does.
        """
        if not request.rows and self._is_answered(request.tensors):
            self._answer_nothing(request)
            return None
        batch: Batch = await self._batcher.run(request)
        return batch

    def begin(self, request: Request) -> None:
        """Answer a request that somebody waits for already (`future`), who must `leave` it.

        Raises what `answer` raises before the request waits for the model.
        """
        if not request.rows and self._is_answered(request.tensors):
            self._answer_nothing(request)
            request.future.set_result(None)
        else:
            self._batcher.enqueue(request)

    def leave(self, request: Request) -> None:
        """Nobody waits for a request any more that was begun, answered or not."""
        self._batcher.leave(request)

    def _is_answered(self, nothing: Tensors) -> bool:
        """Whether tensors of no rows need not be run; SignatureError if they cannot be."""
        if self._empty_is_known:
            return True
        for name, array in nothing.items():
            spec = self.signature.input(name)
            free = [size or 1 for size, n in zip(array.shape, spec.shape, strict=True) if n == -1]
            if prod(free) > _HOLLOW:  # which costs nothing to send, and the model much
                raise SignatureError(
                    f"input {name!r}: shape {list(array.shape)} is too large for no values"
                )
        return False

    def _answer_nothing(self, request: Request) -> None:
        request.reply = request.encode(self._empty)
        took = self._clock.monotonic() - request.arrived
        self.metrics.answered(request.protocol, 200, took)

    def _finish(self, batch: Batch) -> None:
        if not self._hosted:
            batch.settle()
            return
        try:
            deliver(batch, metrics=self.metrics, emitter=self.emitter, clock=self._clock)
        except Exception as error:  # a fault of ours must not let anybody wait for ever
            _log.exception("a batch could not be answered")
            batch.fail(error)

    @property
    def is_idle(self) -> bool:
        """Whether it may be closed: no call is on its way, and nothing runs for one that left."""
        return self.calls == 0 and self._batcher.is_idle

    def close(self) -> None:
        """Stop the runners, then release the model."""
        self._batcher.close()
        self._model.close()

    def _measure(self) -> tuple[float, float] | None:
        """Run the model before anyone waits for it: seconds of one row, and of each further one.

        None if a sample says nothing.
        """
        fastest: dict[int, float] = {}
        for rows in (1, _PROBE_ROWS):
            sample = self._example(rows)
            for probe in range(_PROBES):
                if probe > 1 and fastest[rows] > _SLOW:
                    break
                try:
                    took = self._timed(sample)
                except WrongOutputError as error:
                    raise ModelLoadError(f"on a sample, {error}") from error
                except (ModelFailedError, InputRefusedError) as error:
                    if rows > 1:  # it has a largest batch, which nobody has told us
                        return fastest[1], fastest[1]
                    if any(-1 in spec.shape[1:] for spec in self.signature.inputs):
                        return None  # the sizes we guessed need not fit together
                    raise ModelLoadError(
                        f"the model fails on a sample: {error.__cause__}"
                    ) from error
                except SignatureError:
                    return None  # a transformer that needs real data, an image say
                fastest[rows] = min(took, fastest.get(rows, took))
            if fastest[rows] > _SLOW:
                return fastest[1], fastest[rows] / rows
        return fastest[1], (fastest[_PROBE_ROWS] - fastest[1]) / (_PROBE_ROWS - 1)

    def _gains(self, measured: tuple[float, float] | None) -> bool:
        """Whether rows are cheaper together, as far as it is known."""
        one = measured[0] if measured else 0.0
        if not _SLOW < one < _TRIED:
            return True
        sample = self._example(2)
        try:
            two = min([self._timed(sample) for _ in range(_PROBES)])
        except (ModelFailedError, ProtocolError, WrongOutputError):
            return False
        return two < _NO_GAIN * 2 * one

    def _timed(self, tensors: Tensors) -> float:
        start = self._clock.monotonic()
        self._compute(tensors)
        return self._clock.monotonic() - start

    def _example(self, rows: int) -> Tensors:
        return example_of(self._transformer, self.signature.inputs, rows)


def _inline(kind: InlineKind, measured: tuple[float, float] | None) -> InlinePolicy:
    """Whether to run the model in place."""
    if kind == "always":
        return InlinePolicy(_ALL_ROWS)
    if kind == "never" or measured is None:
        return InlinePolicy(0)
    return InlinePolicy.measured(*measured)
