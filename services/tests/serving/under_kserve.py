"""What needs KServe itself in the process; run by `test_transform_upstream`."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException

from coalmine.protocol import Signature, TensorSpec, to_raw
from coalmine.serving._transformer_options import PredictorOptions

from .test_transform_upstream import Identity, upstream
from .upstream import GOOD, Upstream

__all__ = ["upstream"]


async def test_under_kserves_server_too(upstream: tuple[Upstream, int]) -> None:
    """KServe reads the request: what it makes of one is what its model is given."""
    from kserve import InferInput, InferRequest

    from coalmine.serving import KServeTransformer

    app, port = upstream
    transformer = KServeTransformer(
        "toy", Identity(), predictor=PredictorOptions(host=f"127.0.0.1:{port}")
    )
    transformer.load()

    async def asked(rows: int, **parameters: int) -> Any:
        tensor = InferInput("features", [rows, 4], "FP32", data=[1.0] * 4 * rows)
        request = InferRequest("toy", [tensor], parameters=parameters)
        return await transformer.predict(request, {"x-request-id": "r1", "b3": "caf\xe9"})

    try:
        app.answers = [(200, {}, GOOD)]
        answer = await asked(2, timeout=700_000)
        assert answer.outputs[0].data == [0, 1]
        assert 300_000 < app.bodies[-1]["parameters"]["timeout"] <= 700_000
        assert app.seen[-1]["x-request-id"] == "r1"
        assert "b3" not in app.seen[-1], "no header that gRPC could not carry"
        assert (await asked(0)).outputs[0].shape == [0], "and the predictor is not asked"
        app.answers = [(429, {"retry-after": "7"}, {"error": "busy"})]
        with pytest.raises(HTTPException, match="busy") as refused:
            await asked(2)
        assert refused.value.headers == {"retry-after": "7"}
        app.answers, app.delay = [(200, {}, GOOD)], 3.0
        with pytest.raises(HTTPException, match="did not answer") as late:
            await asked(2, timeout=100_000)
        assert late.value.status_code == 504
    finally:
        app.delay = 0.0
        await transformer.close()


def test_kserve_leaves_bytes_that_are_no_text_as_they_came() -> None:
    """As its server reads a request; 500, and the bytes in the message, is what it says to them."""
    from kserve import InferRequest

    from coalmine.serving import KServeTransformer
    from coalmine.serving._kserve_payload import call_of

    transformer = KServeTransformer("toy", Identity())
    restored = pickle.loads(pickle.dumps(transformer))
    assert restored.name == "toy", "as a worker has it"
    files = np.array([b"\x89PNG\xff\x00", b"plain"], dtype=np.object_)
    for found in (files, files[1:]):
        raw = to_raw(found)
        tensor = {"name": "image", "datatype": "BYTES", "shape": [len(found)]}
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor]}).encode()
        request = InferRequest.from_bytes(head + raw, len(head), "toy")
        call = call_of(request, Signature((TensorSpec("image", "BYTES", (-1,)),), ()))
        assert call.tensors["image"].tolist() == found.tolist()
