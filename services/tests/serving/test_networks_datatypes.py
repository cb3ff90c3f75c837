"""Every datatype that ONNX Runtime takes, there and back over every protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto

from coalmine.protocol.protobuf import message_class

from .networks import graph, infer, save

I64, U64 = np.iinfo(np.int64), np.iinfo(np.uint64)
KINDS: dict[str, tuple[int, Any]] = {
    "BOOL": (TensorProto.BOOL, np.array([[True, False], [False, True]])),
    "UINT8": (TensorProto.UINT8, np.array([[0, 255], [1, 2]], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([[0, 65535], [1, 2]], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([[0, 2**32 - 1], [1, 2]], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([[0, U64.max], [2**53 + 1, 2]], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([[-128, 127], [1, 2]], np.int8)),
    "INT16": (TensorProto.INT16, np.array([[-32768, 32767], [1, 2]], np.int16)),
    "INT32": (TensorProto.INT32, np.array([[-(2**31), 2**31 - 1], [1, 2]], np.int32)),
    "INT64": (TensorProto.INT64, np.array([[I64.min, I64.max], [-(2**53) - 1, 2]], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([[0.5, -65504], [6e-8, 2]], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([[0.1, -3e38], [1e-45, 2]], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([[0.1, -1.7e308], [5e-324, 2]], np.float64)),
    "BYTES": (TensorProto.STRING, np.array([["ä€😀", ""], ["\0nul", "x" * 70000]], np.object_)),
}


@pytest.fixture(scope="module")
def echo(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One server with an input and an output of every datatype, each handed through."""
    names = {datatype.lower(): proto for datatype, (proto, _) in KINDS.items()}
    path = save(
        tmp_path_factory.mktemp("kinds") / "kinds.onnx",
        graph(
            [("Identity", [name], [f"{name}_out"]) for name in names],
            [(name, proto, ["n", 2]) for name, proto in names.items()],
            [(f"{name}_out", proto, ["n", 2]) for name, proto in names.items()],
        ),
    )
    return start(path)


def decoded(array: Any) -> Any:
    if array.dtype != np.object_:
        return array
    return np.array([text.decode() for text in array.ravel()], np.object_).reshape(array.shape)


def check(name: str, array: Any) -> None:
    expected = KINDS[name][1]
    assert array.shape == expected.shape
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(decoded(array), expected)


@pytest.mark.parametrize(
    ("client", "binary"), [(triton_http, True), (triton_http, False), (triton_grpc, None)]
)
def test_every_datatype_there_and_back(echo: Any, client: Any, binary: bool | None) -> None:
    """Binary tensors, JSON, and gRPC; in JSON halves have no place in this client."""
    how = {} if binary is None else {"binary_data": binary}
    skipped = {"FP16"} if binary is False else set()
    with client.InferenceServerClient(f"127.0.0.1:{echo.port}") as triton:
        tensors, outputs = [], []
        for datatype, (_, array) in KINDS.items():
            tensors.append(client.InferInput(f"{datatype.lower()}", array.shape, datatype))
            tensors[-1].set_data_from_numpy(array, **({} if datatype in skipped else how))
            outputs.append(client.InferRequestedOutput(f"{datatype.lower()}_out", **how))
        result = triton.infer("kinds", tensors, outputs=outputs)
    for datatype in KINDS:
        array = result.as_numpy(f"{datatype.lower()}_out")
        if datatype == "BYTES" and binary is False:
            array = np.array(
                [t.encode() if isinstance(t, str) else t for t in array.ravel()], np.object_
            ).reshape(array.shape)
        check(datatype, array)


def test_every_datatype_in_plain_json(echo: Any) -> None:
    inputs = [
        {"name": name.lower(), "datatype": name, "shape": [2, 2], "data": array.tolist()}
        for name, (_, array) in KINDS.items()
    ]
    answer = httpx.post(f"{echo.url}/v2/models/kinds/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    for tensor in answer.json()["outputs"]:
        name = tensor["datatype"]
        dtype = KINDS[name][1].dtype
        array = np.array(tensor["data"], dtype).reshape(tensor["shape"])
        np.testing.assert_array_equal(array, KINDS[name][1])


CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "INT8": "int_contents",
    "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def typed(served: Any, kinds: list[str]) -> Any:
    """A request with typed contents, as gRPC without numpy sends it."""
    request = message_class("ModelInferRequest")(model_name=served)
    for kind in kinds:
        tensor = request.inputs.add(name=kind.lower(), datatype=kind, shape=[2, 2])
        if kind in CONTENTS:  # halves have no typed contents in the protocol
            values = KINDS[kind][1].ravel().tolist()
            getattr(tensor.contents, CONTENTS[kind]).extend(
                [value.encode() for value in values] if kind == "BYTES" else values
            )
    return request


def call(port: int, request: Any) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class("ModelInferResponse").FromString,
        )(request)


def test_typed_contents_there_and_back(start: Any, tmp_path: Path) -> None:
    path = save(
        tmp_path / "typed.onnx",
        graph(
            [("Identity", [kind.lower()], [f"{kind.lower()}_out"]) for kind in CONTENTS],
            [(kind.lower(), KINDS[kind][0], ["n", 2]) for kind in CONTENTS],
            [(f"{kind.lower()}_out", KINDS[kind][0], ["n", 2]) for kind in CONTENTS],
        ),
    )
    response = call(start(path).port, typed("typed", list(CONTENTS)))
    assert not response.raw_output_contents
    for tensor in response.outputs:
        values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
        expected = KINDS[tensor.datatype][1]
        if tensor.datatype == "BYTES":
            values = [value.decode() for value in values]
        np.testing.assert_array_equal(np.array(values, expected.dtype).reshape(2, 2), expected)


def test_halves_need_raw_contents(echo: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(echo.port, typed("kinds", list(KINDS)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "fp16" in caught.value.details()
    assert "raw" in caught.value.details()


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_empty_batches_of_any_datatype(echo: Any, rows: int) -> None:
    inputs = [
        (name.lower(), name, np.repeat(array[:1], rows, axis=0))
        for name, (_, array) in KINDS.items()
    ]
    for name, answer in infer(echo, "kinds", *inputs).items():
        assert answer.shape == (rows, 2), name
