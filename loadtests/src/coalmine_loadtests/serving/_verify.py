"""Every answer is compared with ONNX Runtime's in this process before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._client import Client
from coalmine_loadtests.serving._errors import WrongAnswerError
from coalmine_loadtests.serving._models import INPUT, MODELS, OUTPUT, FloatArray, random_rows
from coalmine_loadtests.serving._wire import Request, Wire

__all__ = ["Reference", "Verifier", "open_session"]

#: Single precision, summed in another order where a server batches.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
_TRIED = 8
_TRIED_IMAGES = 3


def open_session(model: Path) -> Any:
    """A session with one thread, as every server is given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Reference:
    """What the model really answers."""

    def __init__(self, model: Path) -> None:
        self._session = open_session(model)

    def run(self, rows: FloatArray) -> FloatArray:
        """The model's one output for `rows`."""
        (output,) = self._session.run(None, {INPUT: rows})
        answer: FloatArray = output
        return answer


class Verifier:
    """The requests of one cell, and the answers they must get."""

    def __init__(self, cell: Cell, wire: Wire, reference: Reference, *, seed: int = 0) -> None:
        self._cell, self._wire = cell, wire
        rng = np.random.default_rng([seed, cell.rows])
        model = MODELS[cell.model]
        tried = _TRIED if len(model.row) == 1 else _TRIED_IMAGES
        rows = [random_rows(model, cell.rows, rng) for _ in range(tried)]
        self.requests: list[Request] = [wire.request(cell, each) for each in rows]
        self._expected = [reference.run(each) for each in rows]

    @property
    def request(self) -> Request:
        """The one that the load repeats."""
        return self.requests[0]

    def verify(self, client: Client, *, tried: int | None = None) -> int:
        """Ask the first `tried`, or all, once; the bytes of the answer to `request`.

        Raises `WrongAnswerError`.
        """
        return [self.check(client, index) for index in range(tried or len(self.requests))][0]

    def check(self, client: Client, index: int) -> int:
        """Ask one request and compare; the bytes of the answer."""
        headers, body = client.ask(self.requests[index % len(self.requests)])
        found = self._wire.answer(self._cell, headers, body)
        wanted = self._expected[index % len(self.requests)]
        if not np.allclose(found, wanted, rtol=_RELATIVE, atol=_ABSOLUTE):
            off = float(np.max(np.abs(found - wanted)))
            raise WrongAnswerError(
                f"{self._cell.name}: the answer is off by up to {off:.3g} from ONNX Runtime's "
                f"({found.ravel()[:3]} where it answers {wanted.ravel()[:3]})"
            )
        return len(body)

    def reply(self) -> bytes:
        """A right answer to `request` in V2 JSON, of the size that a server's has."""
        content = {
            "model_name": self._cell.model,
            "model_version": "1",
            "id": "0" * 36,
            "outputs": [
                {
                    "name": OUTPUT,
                    "shape": list(self._expected[0].shape),
                    "datatype": "FP32",
                    "data": self._expected[0].ravel(),
                }
            ],
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
