"""What the numbers among the options may be, for the command lines and for `serve` alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from coalmine.serving._options import ServeOptions

__all__ = ["BOUNDS", "Bound", "violations"]

_YEAR = 365 * 86400


@dataclass(frozen=True, slots=True)
class Bound:
    """A number from `least` to `most`, whole or in seconds."""

    least: float
    most: float
    whole: bool = True
    above: bool = False
    """Whether `least` itself is too little."""

    @property
    def what(self) -> str:
        """In words, for a message."""
        kind = "a whole number" if self.whole else "a number of seconds"
        if self.above:
            return f"{kind} above {self.least:g}, {self.most:.0f} at most"
        return f"{kind} from {self.least:g} to {self.most:.0f}"

    def holds(self, value: object) -> bool:
        """Whether a value is such a number; a bool or a NaN is none."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return not math.isnan(value) and (
            self.least < value <= self.most if self.above else self.least <= value <= self.most
        )


_PORT = Bound(0, 65535)
_BYTES = Bound(1, 2**50)
_COUNT = Bound(1, 2**31 - 1)
#: Zero has a meaning of its own for these.
_SECONDS = Bound(0, _YEAR, whole=False)
_TIMEOUT = Bound(0, _YEAR, whole=False, above=True)

#: By the name of the option; those of `PredictorOptions` with `predictor_` before them.
BOUNDS: dict[str, Bound] = {
    "port": _PORT,
    "grpc_port": Bound(1, 65535),
    "processes": Bound(1, 1024),
    # Of ONNX Runtime, which takes the machine down with a million.
    "threads": Bound(0, 1024),
    "device": Bound(0, 1023),
    "gpu_memory_limit": Bound(0, 2**50),
    "gpu_batch_rows": Bound(1, 2**20),
    "max_body": _BYTES,
    "max_connections": _COUNT,
    "max_concurrency": _COUNT,
    "max_batch_rows": _COUNT,
    "max_batch_bytes": _BYTES,
    "max_queue_rows": _COUNT,
    "max_queue_bytes": _BYTES,
    "max_spool": _BYTES,
    "receive_timeout": _TIMEOUT,
    "request_timeout": _TIMEOUT,
    "watch": _SECONDS,
    "drain": _SECONDS,
    "hang_timeout": Bound(1, _YEAR, whole=False),
    "predictor_timeout": _TIMEOUT,
    "predictor_retries": Bound(0, 1000),
}


def violations(options: ServeOptions) -> Iterator[str]:
    """Every number that is out of its bounds, in words that name its option."""
    for name, bound in BOUNDS.items():
        holder: object = options
        if name.startswith("predictor_"):
            holder, attribute = options.predictor, name.removeprefix("predictor_")
        else:
            attribute = name
        value = None if holder is None else getattr(holder, attribute)
        if value is not None and not bound.holds(value):
            yield f"--{name.replace('_', '-')}: {value!r} is not {bound.what}"
