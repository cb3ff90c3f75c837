"""The one table from errors to the status codes of HTTP and gRPC."""

from __future__ import annotations

import asyncio

from coalmine.protocol import ProtocolError
from coalmine.serving._errors import (
    BodyTooLargeError,
    DeadlineError,
    EncodingError,
    ModelFailedError,
    ModelLoadError,
    ModelNotReadyError,
    OverloadedError,
    PredictorAnswerError,
    QueueFullError,
    ServingError,
    TooManyRequestsError,
    UnknownModelError,
)

__all__ = ["grpc_status", "http_status", "public_message"]

#: Error class to (HTTP, gRPC); a subclass that is not listed has its base's.
_CODES: dict[type[BaseException], tuple[int, int]] = {
    ProtocolError: (400, 3),  # INVALID_ARGUMENT
    UnknownModelError: (404, 5),  # NOT_FOUND
    ModelLoadError: (400, 9),  # FAILED_PRECONDITION: the one asked for cannot be served
    ModelNotReadyError: (503, 14),  # UNAVAILABLE
    BodyTooLargeError: (413, 8),  # RESOURCE_EXHAUSTED
    EncodingError: (415, 12),  # UNIMPLEMENTED
    TooManyRequestsError: (429, 8),  # RESOURCE_EXHAUSTED
    QueueFullError: (503, 14),  # UNAVAILABLE
    DeadlineError: (504, 4),  # DEADLINE_EXCEEDED
    OverloadedError: (503, 14),
    ModelFailedError: (500, 13),  # INTERNAL
    asyncio.CancelledError: (499, 1),  # CANCELLED, which nobody is there to hear
    PredictorAnswerError: (502, 13),
    BaseException: (500, 13),
}


def http_status(error: BaseException) -> int:
    """The HTTP status of an error.

    >>> http_status(TooManyRequestsError()), http_status(KeyError())
    (429, 500)
    """
    return _codes(error)[0]


def grpc_status(error: BaseException) -> int:
    """The gRPC status code of an error."""
    return _codes(error)[1]


def public_message(error: BaseException) -> str:
    """What the client is told: our own words, never those of an unexpected exception."""
    if isinstance(error, ProtocolError | ServingError):
        return str(error)
    if isinstance(error, asyncio.CancelledError):
        return "client closed"
    return "the server failed on this request"


def _codes(error: BaseException) -> tuple[int, int]:
    return next(_CODES[base] for base in type(error).__mro__ if base in _CODES)
