"""The client's own codec against the published messages, and against damaged bytes."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from coalmine.demo.client import (
    WireError,
    grpc_answer,
    grpc_request,
    v1_answer,
    v1_request,
    v2_answer,
    v2_request,
)

WINDOWS = {
    "cell_voltage": np.linspace(3, 4, 2 * 300 * 2, dtype=np.float32).reshape(2, 300, 2),
    "soc": np.array([0.25, 0.5], np.float32),
}


def test_grpc_request_is_what_the_published_message_says() -> None:
    body = grpc_request(WINDOWS, model="ev-battery", request_id="é-1")
    message = service_pb2.ModelInferRequest.FromString(body)
    assert (message.model_name, message.id) == ("ev-battery", "é-1")
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [
        ("cell_voltage", "FP32", [2, 300, 2]), ("soc", "FP32", [2]),
    ]  # fmt: skip
    for raw, array in zip(message.raw_input_contents, WINDOWS.values(), strict=True):
        assert np.array_equal(np.frombuffer(raw, np.float32).reshape(array.shape), array)


def test_grpc_answer_finds_the_label_among_other_fields() -> None:
    reply = service_pb2.ModelInferResponse(model_name="m", model_version="3", id="x")
    reply.parameters["took"].int64_param = 7
    for name, array in (("probabilities", np.ones(4, np.float32)), ("label", np.arange(3))):
        reply.outputs.add(name=name, datatype="INT64").shape.append(len(array))
        reply.raw_output_contents.append(array.tobytes())
    assert grpc_answer(reply.SerializeToString()).tolist() == [0, 1, 2]


@given(st.binary(max_size=200))
def test_damaged_answers_are_wire_errors(body: bytes) -> None:
    for read in (grpc_answer, v1_answer, v2_answer):
        try:
            read(body)
        except WireError:
            continue


def test_json_requests_hold_the_same_numbers() -> None:
    v1 = orjson.loads(v1_request(WINDOWS))["instances"]
    assert np.array_equal(
        np.array([instance["cell_voltage"] for instance in v1], np.float32),
        WINDOWS["cell_voltage"],
    )
    assert [instance["soc"] for instance in v1] == [0.25, 0.5]
    v2 = orjson.loads(v2_request(WINDOWS, request_id="r"))
    assert v2["id"] == "r"
    assert v2["inputs"][0]["shape"] == [2, 300, 2]
    assert np.array_equal(
        np.array(v2["inputs"][0]["data"], np.float32), WINDOWS["cell_voltage"].ravel()
    )


@pytest.mark.parametrize("body", [b"[]", b'{"outputs": [{"name": "other"}]}', b"\xff"])
def test_json_answers_without_a_label(body: bytes) -> None:
    with pytest.raises(WireError):
        v2_answer(body)
    with pytest.raises(WireError):
        v1_answer(body)
