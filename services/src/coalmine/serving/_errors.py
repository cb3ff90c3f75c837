"""What can go wrong while serving; none of these knows HTTP or gRPC, `_status` maps them.

    ServingError
    ├── StartupError            the server cannot start; the message says what to change
    │   └── ModelLoadError      ... because of the model or its transformer
    ├── UnknownModelError       no model of this name or version here
    ├── ModelNotReadyError      a model that is known, but not loaded
    ├── ModelFailedError        the model raised; its message stays in our log
    │   └── WrongOutputError    ... or returned something else than it declares
    ├── BodyTooLargeError       more bytes than the server takes
    ├── EncodingError           a compressed body
    ├── PredictorAnswerError    a transformer's predictor answered what cannot be used
    └── OverloadedError         not now; `retry_after` seconds later, perhaps
        ├── TooManyRequestsError        too many at once
        ├── QueueFullError              too many rows wait for the model
        ├── DeadlineError               the request's time was over first
        └── PredictorUnavailableError   a transformer's predictor is not there

A client's mistake is a `coalmine.protocol.ProtocolError`.
"""

from __future__ import annotations

__all__ = [
    "BodyTooLargeError",
    "DeadlineError",
    "EncodingError",
    "ModelFailedError",
    "ModelLoadError",
    "ModelNotReadyError",
    "OverloadedError",
    "PredictorAnswerError",
    "PredictorUnavailableError",
    "QueueFullError",
    "ServingError",
    "StartupError",
    "TooManyRequestsError",
    "UnknownModelError",
    "WrongOutputError",
]


class ServingError(Exception):
    """The root of the tree; the message is meant for the client."""


class StartupError(ServingError):
    """The server cannot start."""


class ModelLoadError(StartupError):
    """The model or its transformer cannot be served."""


class UnknownModelError(ServingError):
    """No model of this name or version is here."""


class ModelNotReadyError(ServingError):
    """The model is known, and not loaded; the message says why."""


class ModelFailedError(ServingError):
    """The model raised."""


class WrongOutputError(ModelFailedError):
    """The model returned something else than it declares."""


class BodyTooLargeError(ServingError):
    """More bytes than the server takes."""


class EncodingError(ServingError):
    """A body in an encoding the server does not read."""


class PredictorAnswerError(ServingError):
    """A transformer's predictor answered what cannot be used."""


class OverloadedError(ServingError):
    """The server has too much to do; nothing was computed."""

    #: Label of the metric that counts what was shed.
    reason = "overloaded"
    #: Seconds after which a client should try again.
    retry_after = 1


class TooManyRequestsError(OverloadedError):
    """Too many requests at once."""

    reason = "concurrency"


class QueueFullError(OverloadedError):
    """Too many rows wait for the model."""

    reason = "queue"


class DeadlineError(OverloadedError):
    """The request's time was over before the model had answered it."""

    reason = "deadline"


class PredictorUnavailableError(OverloadedError):
    """A transformer's predictor is not there, or not ready."""

    reason = "predictor"
