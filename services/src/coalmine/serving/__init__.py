"""The model server: one ONNX model version behind HTTP (V1, V2) and gRPC, with its records.

`serve(ServeOptions(...))` runs it, `python -m coalmine.serving` from a shell. `create_asgi` is the
application alone, and `Predictor` the same model as a `kserve.Model`, for KServe's stock server.
Importing this package is cheap: what is behind each of those is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coalmine.serving._errors import (
    BodyTooLargeError,
    DeadlineError,
    EncodingError,
    ModelFailedError,
    ModelLoadError,
    ModelNotReadyError,
    OverloadedError,
    PredictorAnswerError,
    PredictorUnavailableError,
    QueueFullError,
    ServingError,
    StartupError,
    TooManyRequestsError,
    UnknownModelError,
    WrongOutputError,
)
from coalmine.serving._options import ServeOptions, ServerKind
from coalmine.serving._serve import serve

if TYPE_CHECKING:
    from coalmine.serving._app import ServingApp, create_asgi
    from coalmine.serving._batch import Computed, Outcome
    from coalmine.serving._batcher import Batcher, BatchLimits
    from coalmine.serving._inline import InlinePolicy
    from coalmine.serving._kserve_transformer import KServeTransformer
    from coalmine.serving._onnx import OnnxModel
    from coalmine.serving._predictor import Predictor
    from coalmine.serving._servable import Servable

__all__ = [
    "BatchLimits",
    "Batcher",
    "BodyTooLargeError",
    "Computed",
    "DeadlineError",
    "EncodingError",
    "InlinePolicy",
    "KServeTransformer",
    "ModelFailedError",
    "ModelLoadError",
    "ModelNotReadyError",
    "OnnxModel",
    "Outcome",
    "OverloadedError",
    "Predictor",
    "PredictorAnswerError",
    "PredictorUnavailableError",
    "QueueFullError",
    "Servable",
    "ServeOptions",
    "ServerKind",
    "ServingApp",
    "ServingError",
    "StartupError",
    "TooManyRequestsError",
    "UnknownModelError",
    "WrongOutputError",
    "create_asgi",
    "serve",
]

#: Names whose modules import numpy, ONNX Runtime, Arrow or KServe.
_HEAVY = {
    "BatchLimits": "_batcher",
    "Batcher": "_batcher",
    "Computed": "_batch",
    "InlinePolicy": "_inline",
    "KServeTransformer": "_kserve_transformer",
    "OnnxModel": "_onnx",
    "Outcome": "_batch",
    "Predictor": "_predictor",
    "Servable": "_servable",
    "ServingApp": "_app",
    "create_asgi": "_app",
}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
