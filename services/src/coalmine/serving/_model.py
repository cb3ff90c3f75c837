"""What a servable runs: a function of arrays, with the signature that it keeps to."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coalmine.protocol import Signature, Tensors

__all__ = ["Laned", "Runnable"]


class Runnable(Protocol):
    """A loaded model, of whatever kind."""

    @property
    def signature(self) -> Signature:
        """The model's own inputs and outputs, before and after any transformer."""
        ...

    @property
    def platform(self) -> str:
        """The protocol's name for what runs it: `onnxruntime_onnx`, `mlflow_pyfunc`, `python`."""
        ...

    @property
    def providers(self) -> list[str]:
        """What it runs on, best first, as ONNX Runtime names its execution providers."""
        ...

    @property
    def batchable(self) -> bool:
        """Whether the rows of several requests may share one `run`."""
        ...

    def run(self, tensors: Tensors) -> Tensors:
        """The outputs, for inputs that fit `signature`; from several threads at once.

        ProtocolError for what is the client's mistake; anything else is the model's failure.
        """
        ...

    def close(self) -> None:
        """Release what it holds; `run` is not called again."""
        ...


@runtime_checkable
class Laned(Protocol):
    """A runnable that says how it wants its batches; others get one at a time, as they come."""

    @property
    def runners(self) -> int:
        """Batches that may be computed at once."""
        ...

    @property
    def max_batch_rows(self) -> int | None:
        """Rows of the largest batch worth forming; None: no limit of its own."""
        ...
