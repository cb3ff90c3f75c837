"""What the first size of a tensor means: the batch, something else, or nothing in common."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from coalmine.protocol import InferenceCall, SignatureError
from coalmine.serving import ServeOptions
from coalmine.serving._onnx import OnnxModel
from coalmine.serving._servable import Servable

from .networks import FLOAT, graph, infer, save

FIRST = numpy_helper.from_array(np.array([0], np.int64), "first")
SECOND = numpy_helper.from_array(np.array([1], np.int64), "second")


def sums_up() -> Any:
    """Each element and all before it: the first size is a time."""
    axis = numpy_helper.from_array(np.array(0, np.int64), "axis")
    return graph([("CumSum", ["x", "axis"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])],
                 [axis])  # fmt: skip


def remembers() -> Any:
    """A recurrent network, whose first size is the time, as PyTorch has it."""
    rng = np.random.default_rng(0)
    return graph(
        [
            ("RNN", ["x", "w", "r"], ["all", ""], {"hidden_size": 3}),
            ("Squeeze", ["all", "second"], ["y"]),
        ],
        [("x", FLOAT, ["time", 1, 2])],
        [("y", FLOAT, ["time", 1, 3])],
        [
            numpy_helper.from_array(rng.normal(size=(1, 3, 2)).astype(np.float32), "w"),
            numpy_helper.from_array(rng.normal(size=(1, 3, 3)).astype(np.float32), "r"),
            SECOND,
        ],
    )


def every_pair() -> Any:
    """Two inputs whose first sizes have nothing to do with each other."""
    return graph(
        [
            ("Unsqueeze", ["a", "second"], ["column"]),
            ("Unsqueeze", ["b", "first"], ["line"]),
            ("Mul", ["column", "line"], ["y"]),
        ],
        [("a", FLOAT, ["n"]), ("b", FLOAT, ["m"])],
        [("y", FLOAT, ["n", "m"])],
        [FIRST, SECOND],
    )


def call(**arrays: np.ndarray[Any, Any]) -> InferenceCall:
    rows = min(len(array) for array in arrays.values())
    return InferenceCall(arrays, rows, ("y",))


@pytest.mark.parametrize("network", [sums_up, remembers, every_pair])
async def test_callers_at_once_do_not_change_each_others_answers(
    network: Any, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.onnx", network())
    alone, servable = OnnxModel(path), Servable.load(ServeOptions(model=str(path)))
    rng = np.random.default_rng(1)
    calls = []
    for _ in range(8):
        shapes = {spec.name: (2, *spec.shape[1:]) for spec in alone.signature.inputs}
        calls.append(call(**{n: rng.normal(size=s).astype("f4") for n, s in shapes.items()}))
    outcomes = await asyncio.gather(*(servable.infer(each) for each in calls))
    for each, outcome in zip(calls, outcomes, strict=True):
        wanted = alone.run(each.tensors)["y"]
        np.testing.assert_allclose(outcome.computed.outputs["y"], wanted, rtol=1e-5)
    assert servable.batch_rows == 0
    servable.close()


def test_rows_of_their_own_are_joined(tmp_path: Path) -> None:
    # Rounding, random numbers, and what no sample of ours fits: all are taken for batches.
    by = numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(3, 3), "by")
    table = numpy_helper.from_array(np.ones((2, 2), np.float32), "table")
    sizes = [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])]
    seven = numpy_helper.from_array(np.array([7], np.int64), "seven")
    whole = [("x", TensorProto.INT64, ["n"])], [("y", FLOAT, ["n", 2])]
    for network in (
        graph([("MatMul", ["x", "by"], ["z"]), ("Softmax", ["z"], ["y"])], *sizes, [by]),
        graph([("RandomNormalLike", ["x"], ["z"]), ("Add", ["x", "z"], ["y"])], *sizes),
        graph([("Sub", ["x", "seven"], ["z"]), ("Gather", ["table", "z"], ["y"])], *whole,
              [table, seven]),
        graph([("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
               ("DequantizeLinear", ["q", "scale", "zero"], ["y"])], *sizes),
    ):  # fmt: skip
        assert OnnxModel(save(tmp_path / "m.onnx", network)).batchable


def test_first_sizes_that_have_nothing_in_common(start: Any, tmp_path: Path) -> None:
    save(tmp_path / "pairs.onnx", every_pair())
    save(  # an image with its height and width, as detectors have them
        tmp_path / "image.onnx",
        graph(
            [("ReduceMax", ["image"], ["most"], {"keepdims": 0}), ("Mul", ["most", "size"], ["y"])],
            [("image", FLOAT, [1, 3, 2]), ("size", FLOAT, [2])],
            [("y", FLOAT, [2])],
        ),
    )
    save(  # a batch, and something that belongs to all of it
        tmp_path / "scaled.onnx",
        graph(
            [("Mul", ["x", "by"], ["y"])],
            [("x", FLOAT, ["n", 2]), ("by", FLOAT, [2])],
            [("y", FLOAT, ["n", 2])],
        ),
    )
    served = start(tmp_path)
    two, three = np.array([1, 2], np.float32), np.array([3, 4, 5], np.float32)
    (y,) = infer(served, "pairs", ("a", "FP32", two), ("b", "FP32", three)).values()
    np.testing.assert_array_equal(y, np.outer(two, three))
    image = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    (y,) = infer(served, "image", ("image", "FP32", image), ("size", "FP32", two)).values()
    np.testing.assert_array_equal(y, 5 * two)
    for rows in (0, 1, 3):
        x = np.ones((rows, 2), np.float32)
        (y,) = infer(served, "scaled", ("x", "FP32", x), ("by", "FP32", two)).values()
        np.testing.assert_array_equal(y, x * two)
    columns = {"inputs": {"x": [[1, 2]], "by": [1, 2]}}
    answer = httpx.post(f"{served.url}/v1/models/scaled:predict", json=columns)
    assert answer.json() == {"outputs": {"y": [[1.0, 4.0]]}}


def test_first_sizes_that_only_the_network_can_compare(tmp_path: Path) -> None:
    network = OnnxModel(
        save(
            tmp_path / "m.onnx",
            graph(
                [("Add", ["a", "b"], ["z"]), ("Softmax", ["z"], ["y"], {"axis": 0})],
                [("a", FLOAT, [None]), ("b", FLOAT, [None])],
                [("y", FLOAT, [None])],
            ),
        )
    )
    with pytest.raises(SignatureError, match="'a' has 2, 'b' has 3"):
        network.run({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})


async def test_no_rows_have_the_sizes_that_the_network_gives_them(tmp_path: Path) -> None:
    for nodes, output, shape, wanted in (
        ([("Neg", ["x"], ["y"])], ["n", "k"], (0, 5), (0, 5)),
        ([("Transpose", ["x"], ["y"])], ["k", "n"], (0, 5), (5, 0)),
        ([("ReduceSum", ["x"], ["y"], {"keepdims": 0})], [], (0, 5), ()),
    ):
        path = save(
            tmp_path / "m.onnx", graph(nodes, [("x", FLOAT, ["n", "k"])], [("y", FLOAT, output)])
        )
        servable = Servable.load(ServeOptions(model=str(path)))
        outcome = await servable.infer(call(x=np.empty(shape, np.float32)))
        assert outcome.computed.outputs["y"].shape == wanted
        with pytest.raises(SignatureError, match="too large for no values"):
            await servable.infer(call(x=np.empty((0, 5000), np.float32)))
        servable.close()


async def test_a_network_that_takes_so_many_rows_and_no_more(tmp_path: Path) -> None:
    # Positions, say, of which it has learned ten; at warm-up it is tried with 64.
    made = graph(
        [
            ("Shape", ["x"], ["n"]),
            ("Slice", ["table", "first", "n"], ["some"]),
            ("Add", ["x", "some"], ["y"]),
        ],
        [("x", FLOAT, ["n"])],
        [("y", FLOAT, ["n"])],
        [FIRST, numpy_helper.from_array(np.arange(10, dtype=np.float32), "table")],
    )
    servable = Servable.load(ServeOptions(model=str(save(tmp_path / "m.onnx", made))))
    outcome = await servable.infer(call(x=np.zeros(3, np.float32)))
    assert outcome.computed.outputs["y"].tolist() == [0, 1, 2]
    servable.close()


def test_v1_of_outputs_without_rows_in_common(start: Any, tmp_path: Path) -> None:
    path = save(
        tmp_path / "both.onnx",
        helper.make_graph(
            [
                helper.make_node("Mul", ["x", "by"], ["y"]),
                helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
            ],
            "g",
            [
                helper.make_tensor_value_info("x", TensorProto.INT64, ["n"]),
                helper.make_tensor_value_info("by", TensorProto.INT64, []),
            ],
            [
                helper.make_tensor_value_info("y", TensorProto.INT64, ["n"]),
                helper.make_tensor_value_info("total", TensorProto.INT64, []),
            ],
        ),
    )
    url = f"{start(path).url}/v1/models/both:predict"
    answer = httpx.post(url, json={"inputs": {"x": [1, 2], "by": 3}})
    assert answer.json() == {"outputs": {"y": [3, 6], "total": 9}}
    answer = httpx.post(url, json={"instances": [{"x": 2, "by": 3}]})
    assert answer.json() == {"predictions": [{"y": 6, "total": 6}]}
    answer = httpx.post(url, json={"instances": [{"x": 1, "by": 3}, {"x": 2, "by": 3}]})
    assert answer.status_code == 400
    assert "'by' is one value for all rows" in answer.json()["error"]
