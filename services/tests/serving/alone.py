"""Transformers for tests of one that runs alone, requests to them, and waiting for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

MODULE = """
import numpy as np
from coalmine.protocol import TensorSpec

class Halved:
    inputs = (TensorSpec("double", "FP32", (-1, 4)),)
    outputs = (TensorSpec("name", "BYTES", (-1,)),)
    names = np.array([b"normal", b"fault", b"unknown"], dtype=object)

    def preprocess(self, tensors):
        values = tensors["double"]
        if (values == 13).any():
            raise ValueError("double: thirteen is not a telemetry value")
        if (values == 666).any():
            raise RuntimeError("secret detail")
        return {"features": values / 2}

    def postprocess(self, tensors):
        return {"name": self.names[tensors["label"]]}

class Unfit(Halved):
    model_inputs = (TensorSpec("features", "FP32", (-1, 9)),)

class Failing(Halved):
    def preprocess(self, tensors):
        raise KeyError("features")

class Faulty:
    # What preprocess does wrong is said by the first value, postprocess by the number of rows.
    inputs = (TensorSpec("x", "FP32", (-1, 4)),)
    outputs = (TensorSpec("best", "FP32", (-1,)),)

    def example(self, rows):
        return {"x": np.zeros((rows, 4), np.float32)}

    def preprocess(self, tensors):
        x = tensors["x"]
        case = x[0, 0]
        if case == 1:
            x = x.astype(np.float64)
        elif case == 2:
            x = x[:-1]
        elif case == 3:
            return {"feature": x}
        elif case == 4:
            x = x.tolist()
        elif case == 5:
            return None
        elif case == 6:
            x = x * np.float32(3e38) * np.float32(9)
        elif case == 7:
            raise ValueError
        elif case == 8:
            raise SystemExit("secret")
        elif case == 9:
            x = x.astype(">f4")
        elif case == 10:
            x[0, 0] = 0
        return {"features": x, "unasked": x}

    def postprocess(self, tensors):
        shares = tensors["probabilities"]
        shares *= 2
        best = shares.max(axis=1)
        if len(best) == 3:
            best = best.astype(np.float64)
        elif len(best) == 4:
            best = best[:-1]
        elif len(best) == 5:
            return {"worst": best}
        elif len(best) == 6:
            raise ValueError("secret")
        return {"best": best, "unasked": shares}

class Declared(Halved):
    model_inputs = (TensorSpec("features", "FP32", (-1, 4)),)
    model_outputs = (TensorSpec("label", "INT64", (-1,)),)
"""
NAMES = ["normal", "fault", "unknown"]
ROWS = [[0.2, -0.4, 0.6, 0.8], [2.0, 4.0, -6.0, 0.0]]


def v2(rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    described = {"name": "double", "datatype": "FP32", "shape": list(np.shape(rows))}
    return {"inputs": [{**described, "data": rows}], **more}


def get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=5)
    except httpx.TransportError:
        return None


def until(
    ask: Callable[[], httpx.Response | None], *, status: int, holding: str = ""
) -> httpx.Response:
    found: list[httpx.Response] = []

    def there() -> bool:
        answer = ask()
        if answer is not None:
            found.append(answer)
        return answer is not None and answer.status_code == status and holding in answer.text

    until_true(there)
    return found[-1]


def until_true(there: Callable[[], bool]) -> None:
    for _ in range(600):
        if there():
            return
        threading.Event().wait(0.05)
    raise AssertionError("not in 30 s")
