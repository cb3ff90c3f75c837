"""A predictor on the other side of a network: where it is, what it says, and what its errors mean.

`_transformer_http` and `_transformer_grpc` speak to it; this module is what they have in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from coalmine.protocol import SignatureError, Tensors, TensorSpec
from coalmine.serving._errors import (
    BodyTooLargeError,
    DeadlineError,
    ModelFailedError,
    PredictorAnswerError,
    PredictorUnavailableError,
    TooManyRequestsError,
)

__all__ = [
    "Answer",
    "Described",
    "PredictorClient",
    "again",
    "batch_rows",
    "checked_outputs",
    "failure",
    "seconds",
    "specs_of",
]

Result = TypeVar("Result")
_MOST_WORDS = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Described:
    """What a predictor says of its model; no inputs or outputs if it does not say."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    version: str | None
    binary: bool = False
    """Whether the binary tensor extension may be used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A predictor's answer, and the headers that say which of its versions gave it."""

    outputs: Tensors
    headers: dict[str, str] = field(default_factory=dict)


class PredictorClient(Protocol):
    """A connection, or many, to one model of a predictor; used on one event loop."""

    async def describe(self) -> Described:
        """The model's metadata. PredictorUnavailableError while there is none."""
        ...

    async def infer(
        self, tensors: Tensors, described: Described, *, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """The model's outputs. Any error of `failure`; nothing is sent again."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


async def again(
    attempt: Callable[[float], Awaitable[Result]], *, retries: int, timeout: float
) -> Result:
    """The result of an attempt, which is given the seconds it has.

    Tried again, after pauses that double, when the predictor was not there or said 503: it has not
    computed anything then. Never after a timeout or a connection lost half-way.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return await attempt(deadline - loop.time())
        except PredictorUnavailableError:
            if retries <= 0 or loop.time() + pause >= deadline:
                raise
        retries -= 1
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def failure(status: int, message: str, *, where: str, retry_after: str | None = None) -> Exception:
    """Our error for an HTTP status of the predictor's; its words are the client's to read if the
    client is to do something about them, and else not passed on."""
    message = message[:_MOST_WORDS] or f"the predictor answered {status}"
    if status in (400, 422):
        return SignatureError(message)
    if status == 413:
        return BodyTooLargeError(message)
    if status == 429:
        return _later(TooManyRequestsError(message), retry_after)
    if status == 503:
        return _later(
            PredictorUnavailableError(f"the predictor is not ready: {message}"), retry_after
        )
    if status == 404:
        return PredictorUnavailableError(f"the predictor at {where} does not know the model")
    if status == 504:
        return DeadlineError("the predictor did not answer in time")
    if status >= 500 and status not in (501, 502):
        return ModelFailedError("the model failed on this request")
    return PredictorAnswerError(f"the predictor at {where} answered {status}")


def _later(
    error: TooManyRequestsError | PredictorUnavailableError, seconds: str | None
) -> Exception:
    if seconds is not None and seconds.isdigit() and len(seconds) < 6:
        error.retry_after = int(seconds)
    return error


def seconds(timeout: float) -> str:
    """A span for a message."""
    return f"{timeout:.3g} s"


def specs_of(items: list[tuple[str, str, list[int]]], *, where: str) -> tuple[TensorSpec, ...]:
    """Tensors as metadata describes them; PredictorAnswerError for what is no description."""
    try:
        for name, _, shape in items:
            if not isinstance(name, str) or not all(type(size) is int for size in shape):
                raise ValueError(f"a tensor {name!r:.80} of shape {shape!r:.80}")
        return tuple(TensorSpec(name, kind, tuple(shape)) for name, kind, shape in items)
    except (TypeError, ValueError) as error:
        raise PredictorAnswerError(f"the metadata of the predictor at {where}: {error}") from error


def batch_rows(tensors: Tensors) -> int:
    """Rows of a request: the first dimension of every tensor."""
    return min((len(array) for array in tensors.values() if array.ndim), default=1)


def checked_outputs(outputs: Tensors, described: Described, *, rows: int, where: str) -> Tensors:
    """The outputs that are described; PredictorAnswerError if one is missing or unlike it."""
    for spec in described.outputs:
        array = outputs.get(spec.name)
        if array is None:
            raise PredictorAnswerError(f"the predictor at {where} did not answer {spec.name!r}")
        wanted = (rows, *spec.shape[1:]) if spec.shape[:1] == (-1,) else spec.shape
        if (
            array.dtype != spec.dtype
            or len(array.shape) != len(wanted)
            or any(n not in (-1, have) for n, have in zip(wanted, array.shape, strict=True))
        ):
            raise PredictorAnswerError(
                f"the predictor at {where} answered {spec.name!r} as {array.dtype} of shape "
                f"{list(array.shape)}, not {spec.datatype} of {list(wanted)}"
            )
    return {spec.name: outputs[spec.name] for spec in described.outputs}
