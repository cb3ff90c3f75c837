"""Networks of every kind that ONNX Runtime takes, served: datatypes, shapes, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper, numpy_helper

from coalmine.protocol.protobuf import message_class
from coalmine.serving import ModelLoadError
from coalmine.serving._onnx import OnnxModel

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


def save(path: Path, graph: Any, opset: int = 17) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def graph(nodes: Any, inputs: Any, outputs: Any, initializers: Any = ()) -> Any:
    info = helper.make_tensor_value_info
    return helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "g",
        [info(*each) for each in inputs],
        [info(*each) for each in outputs],
        list(initializers),
    )


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


def infer(served: Any, name: str, *inputs: tuple[str, str, Any]) -> dict[str, Any]:
    """Answers by name, over binary HTTP and over gRPC, which must agree."""
    answers = []
    for client in (triton_http, triton_grpc):
        with client.InferenceServerClient(f"127.0.0.1:{served.port}") as triton:
            tensors = []
            for tensor, datatype, array in inputs:
                tensors.append(client.InferInput(tensor, list(array.shape), datatype))
                tensors[-1].set_data_from_numpy(array)
            result = triton.infer(name, tensors)
            response = result.get_response()
            found = response["outputs"] if isinstance(response, dict) else response.outputs
            names = [o["name"] if isinstance(o, dict) else o.name for o in found]
            answers.append({each: result.as_numpy(each) for each in names})
    assert answers[0].keys() == answers[1].keys()
    for each in answers[0]:
        np.testing.assert_array_equal(answers[0][each], answers[1][each])
    return answers[0]


FLOAT = TensorProto.FLOAT


def test_scalars_in_and_out(start: Any, tmp_path: Path) -> None:
    path = save(
        tmp_path / "scalars.onnx",
        graph(
            [("Mul", ["a", "b"], ["c"])], [("a", FLOAT, []), ("b", FLOAT, [])], [("c", FLOAT, [])]
        ),
    )
    served = start(path)
    two, three = np.array(2, np.float32), np.array(3, np.float32)
    (answer,) = infer(served, "scalars", ("a", "FP32", two), ("b", "FP32", three)).values()
    assert answer.shape == ()
    assert answer == 6
    body = {
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": [], "data": [value]}
            for name, value in (("a", 2.0), ("b", 3.0))
        ]
    }
    output = httpx.post(f"{served.url}/v2/models/scalars/infer", json=body).json()["outputs"][0]
    assert (output["shape"], output["data"]) == ([], [6.0])


def test_a_batch_with_a_scalar_beside_it(start: Any, tmp_path: Path) -> None:
    path = save(
        tmp_path / "scaled.onnx",
        graph(
            [("Mul", ["x", "by"], ["y"])],
            [("x", FLOAT, ["n", 2]), ("by", FLOAT, [])],
            [("y", FLOAT, ["n", 2])],
        ),
    )
    served = start(path)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    (y,) = infer(
        served, "scaled", ("x", "FP32", x), ("by", "FP32", np.array(5, np.float32))
    ).values()
    np.testing.assert_array_equal(y, x * 5)


def test_an_output_without_the_batch(start: Any, tmp_path: Path) -> None:
    # Two callers at once must not be averaged together.
    path = save(
        tmp_path / "mean.onnx",
        graph(
            [("ReduceMean", ["x"], ["mean"], {"keepdims": 0})],
            [("x", FLOAT, ["n", 2])],
            [("mean", FLOAT, [])],
        ),
    )
    served = start(path)
    x = np.array([[1, 2], [3, 6]], np.float32)
    (mean,) = infer(served, "mean", ("x", "FP32", x)).values()
    assert mean == 3


def test_callers_of_a_network_that_sums_up_its_batch_are_kept_apart(tmp_path: Path) -> None:
    # Two rows of two callers give two numbers: dealt out, each caller would get half a mean.
    path = save(
        tmp_path / "means.onnx",
        graph(
            [("ReduceMean", ["x"], ["means"], {"axes": [0], "keepdims": 0})],
            [("x", FLOAT, ["n", 2])],
            [("means", FLOAT, [2])],
        ),
    )
    assert not OnnxModel(path).batchable


def test_a_fixed_first_dimension(start: Any, tmp_path: Path) -> None:
    path = save(
        tmp_path / "fixed.onnx",
        graph([("Neg", ["x"], ["y"])], [("x", FLOAT, [3, 2])], [("y", FLOAT, [3, 2])]),
    )
    served = start(path)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    (y,) = infer(served, "fixed", ("x", "FP32", x)).values()
    np.testing.assert_array_equal(y, -x)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}
    assert httpx.post(f"{served.url}/v2/models/fixed/infer", json=body).status_code == 400


def test_free_inner_dimensions(start: Any, tmp_path: Path) -> None:
    path = save(
        tmp_path / "wide.onnx",
        graph(
            [("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 0})],
            [("x", FLOAT, ["n", "width"])],
            [("y", FLOAT, ["n"])],
            [numpy_helper.from_array(np.array([1], np.int64), "axes")],
        ),
    )
    served = start(path)
    for shape in ((2, 3), (1, 100), (4, 0), (0, 5)):
        x = np.ones(shape, np.float32)
        (y,) = infer(served, "wide", ("x", "FP32", x)).values()
        np.testing.assert_array_equal(y, x.sum(axis=1))


def test_no_inputs_at_all(start: Any, tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.array([1.5, 2.5], np.float32), "value")
    path = save(
        tmp_path / "constant.onnx",
        graph([("Constant", [], ["y"], {"value": value})], [], [("y", FLOAT, [2])]),
    )
    served = start(path)
    (y,) = infer(served, "constant").values()
    assert y.tolist() == [1.5, 2.5]
    answer = httpx.post(f"{served.url}/v2/models/constant/infer", json={"inputs": []})
    assert answer.json()["outputs"][0]["data"] == [1.5, 2.5]


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_empty_batches_of_any_datatype(echo: Any, rows: int) -> None:
    inputs = [
        (name.lower(), name, np.repeat(array[:1], rows, axis=0))
        for name, (_, array) in KINDS.items()
    ]
    for name, answer in infer(echo, "kinds", *inputs).items():
        assert answer.shape == (rows, 2), name


def test_initializers_that_could_be_inputs_are_not_asked_for(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.array([2, 3], np.float32), "w")
    path = save(
        tmp_path / "m.onnx",
        graph(
            [("Mul", ["x", "w"], ["y"])],
            [("x", FLOAT, ["n", 2]), ("w", FLOAT, [2])],
            [("y", FLOAT, ["n", 2])],
            [weight],
        ),
    )
    model = OnnxModel(path)
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    assert model.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 3]]


def test_optional_inputs_are_left_out(tmp_path: Path) -> None:
    maybe = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["n", 2]))
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["y"]),
            helper.make_node("OptionalHasElement", ["maybe"], ["given"]),
        ],
        "g",
        [info("x", FLOAT, ["n", 2]), helper.make_value_info("maybe", maybe)],
        [info("y", FLOAT, ["n", 2]), info("given", TensorProto.BOOL, [])],
    )
    model = OnnxModel(save(tmp_path / "m.onnx", made, opset=18))
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    answer = model.run({"x": np.ones((1, 2), np.float32)})
    assert answer["y"].tolist() == [[-1, -1]]
    assert not answer["given"]


def test_weights_in_a_file_of_their_own(start: Any, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    made = graph(
        [("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", 4])],
        [("y", FLOAT, ["n", 500])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    assert (tmp_path / "model.onnx.data").stat().st_size >= weights.nbytes
    served = start(tmp_path, "--name", "big")
    x = np.ones((1, 4), np.float32)
    (y,) = infer(served, "big", ("x", "FP32", x)).values()
    np.testing.assert_allclose(y, x @ weights, rtol=1e-5)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.onnx\.data"):
        OnnxModel(path)


@pytest.mark.parametrize(
    ("nodes", "inputs", "output", "hint"),
    [
        (
            [("SequenceConstruct", ["x", "x"], ["s"])],
            [("x", FLOAT, [2])],
            helper.make_tensor_sequence_value_info("s", FLOAT, [2]),
            "zipmap=False",
        ),
        (
            [("Cast", ["x"], ["s"], {"to": TensorProto.BFLOAT16})],
            [("x", FLOAT, [2])],
            helper.make_tensor_value_info("s", TensorProto.BFLOAT16, [2]),
            "a Cast in the network",
        ),
    ],
)
def test_what_cannot_be_served_is_said_at_the_start(
    tmp_path: Path, nodes: Any, inputs: Any, output: Any, hint: str
) -> None:
    made = graph(nodes, inputs, [])
    made.output.append(output)
    with pytest.raises(ModelLoadError, match=f"'s' is a .*cannot be served.*{hint}"):
        OnnxModel(save(tmp_path / "m.onnx", made))
