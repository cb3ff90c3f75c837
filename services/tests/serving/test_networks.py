"""Networks of every kind that ONNX Runtime takes, served: shapes, and weights in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from coalmine.protocol import ProtocolError
from coalmine.serving import ModelLoadError
from coalmine.serving._onnx import OnnxModel

from .networks import FLOAT, graph, infer, save


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


def test_what_only_the_network_can_refuse_is_the_clients_mistake(
    start: Any, tmp_path: Path
) -> None:
    table = numpy_helper.from_array(np.array([10, 20, 30], np.float32), "table")
    save(
        tmp_path / "embedding.onnx",
        graph(
            [("Gather", ["table", "id"], ["y"])],
            [("id", TensorProto.INT64, ["n"])],
            [("y", FLOAT, ["n"])],
            [table],
        ),
    )
    save(
        tmp_path / "sum.onnx",
        graph(
            [("Add", ["a", "b"], ["y"])],
            [("a", FLOAT, ["n", "width"]), ("b", FLOAT, ["n", "width"])],
            [("y", FLOAT, ["n", "width"])],
        ),
    )
    served = start(tmp_path)

    def ask(name: str, **arrays: np.ndarray[Any, Any]) -> httpx.Response:
        kinds = {"i": "INT64", "f": "FP32"}
        inputs = [
            {
                "name": key,
                "datatype": kinds[array.dtype.kind],
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
            for key, array in arrays.items()
        ]
        return httpx.post(f"{served.url}/v2/models/{name}/infer", json={"inputs": inputs})

    assert ask("embedding", id=np.array([0, 2])).json()["outputs"][0]["data"] == [10.0, 30.0]
    refused = ask("embedding", id=np.array([0, 7]))
    assert refused.status_code == 400
    assert "refuses this input: Gather: indices element out of" in refused.json()["error"]
    refused = ask("sum", a=np.ones((1, 2)), b=np.ones((1, 3)))
    assert refused.status_code == 400
    assert "sizes 2 and 3 for 'width'" in refused.json()["error"]
    wide = ask("sum", a=np.ones((1, 1)), b=np.ones((1, 3)))  # which the network can take
    assert wide.json()["outputs"][0]["shape"] == [1, 3]
    assert "Traceback" not in served.text()


def test_a_failure_of_the_network_is_its_own(tmp_path: Path) -> None:
    sizes = numpy_helper.from_array(np.array([2, 3], np.int64), "sizes")
    network = OnnxModel(
        save(
            tmp_path / "square.onnx",
            graph(
                [("Reshape", ["x", "sizes"], ["y"])],
                [("x", FLOAT, ["n"])],
                [("y", FLOAT, [2, 3])],
                [sizes],
            ),
        )
    )
    assert network.run({"x": np.ones(6, np.float32)})["y"].shape == (2, 3)
    with pytest.raises(Exception, match="Reshape") as caught:
        network.run({"x": np.ones(5, np.float32)})
    assert not isinstance(caught.value, ProtocolError)


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
