"""BentoML: a service class as its documents show it; configured by the environment.

BENCH_MODEL is the ONNX file, BENCH_BATCHABLE joins the requests of all connections.
"""

from __future__ import annotations

import os

import bentoml
import numpy as np
from numpy.typing import NDArray
from session import INPUT, open_session

BATCHABLE = "BENCH_BATCHABLE" in os.environ
TUNED = "BENCH_TUNED" in os.environ
QUIET = {"logging": {"access": {"enabled": False}}, "metrics": {"enabled": False}}


@bentoml.service(workers=1, traffic={"timeout": 60}, **(QUIET if TUNED else {}))
class Bench:
    """One ONNX file."""

    def __init__(self) -> None:
        self._session = open_session(os.environ["BENCH_MODEL"])

    @bentoml.api(batchable=BATCHABLE, max_batch_size=1024, max_latency_ms=10_000)
    def predict(self, input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows in, rows out."""
        (result,) = self._session.run(None, {INPUT: input.astype(np.float32, copy=False)})
        answer: NDArray[np.float32] = result
        return answer
