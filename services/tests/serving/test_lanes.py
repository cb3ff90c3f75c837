"""Batches in fixed buffers: the right rows, nobody else's, and never written to again.

Lanes are made for a GPU, and the same code runs on the CPU: what is tested here is all of it but
the copies to the device (tests/gpu does that where there is one).
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from coalmine.protocol import Signature, TensorSpec
from coalmine.serving._lanes import GraphLane, HostLane, Lanes, Plan, plan_for

MAX_ROWS = 8
KINDS: Any = [HostLane, GraphLane]
WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


def network(rows: Any) -> bytes:
    """Two inputs, two outputs; each row's answer depends on that row alone."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["y"]),
            helper.make_node("Neg", ["k"], ["negated"]),
        ],
        "g",
        [info("x", TensorProto.FLOAT, [rows, 4]), info("k", TensorProto.INT64, [rows])],
        [info("y", TensorProto.FLOAT, [rows, 3]), info("negated", TensorProto.INT64, [rows])],
        [numpy_helper.from_array(WEIGHTS, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def signature(rows: int = -1) -> Signature:
    return Signature(
        (TensorSpec("x", "FP32", (rows, 4)), TensorSpec("k", "INT64", (rows,))),
        (TensorSpec("y", "FP32", (rows, 3)), TensorSpec("negated", "INT64", (rows,))),
    )


def session(rows: Any = "n") -> Any:
    return ort.InferenceSession(network(rows), providers=["CPUExecutionProvider"])


def plan(rows: int = -1) -> Plan:
    made = plan_for(signature(rows), max_rows=MAX_ROWS, device=None)
    assert made is not None
    return made


def lanes(kind: Any, count: int = 2) -> Lanes:
    return Lanes([kind(session(), plan()) for _ in range(count)], plan())


def batch(rows: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(rows, 4)).astype(np.float32),
        "k": random.integers(-9, 9, size=rows),
    }


def check(tensors: dict[str, Any], answer: dict[str, Any]) -> None:
    np.testing.assert_allclose(answer["y"], tensors["x"] @ WEIGHTS, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(answer["negated"], -tensors["k"])


@pytest.mark.parametrize(
    ("most", "buckets"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (33, (1, 2, 4, 8, 16, 32, 33))],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(
    most: int, buckets: tuple[int, ...]
) -> None:
    made = plan_for(signature(), max_rows=most, device=None)
    assert made is not None
    assert made.buckets == buckets
    assert [made.bucket(rows) for rows in buckets] == list(buckets)
    assert made.bucket(most + 1) == most


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((), (TensorSpec("y", "FP32", (-1,)),)),
        ((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),)),
        ((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, -1)),)),
        ((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("mean", "FP32", (4,)),)),
        ((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1,)),)),
        ((TensorSpec("x", "FP32", (-1, 4)), TensorSpec("s", "FP32", ())), ()),
    ],
)
def test_a_network_that_has_no_plan(inputs: Any, outputs: Any) -> None:
    assert plan_for(Signature(inputs, outputs), max_rows=8, device=None) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 8, 9, 16, 21])
def test_each_row_gets_its_own_answer(kind: Any, rows: int) -> None:
    made = lanes(kind)
    tensors = batch(rows)
    answer = made.run(tensors)
    assert answer["y"].shape == (rows, 3)
    assert answer["y"].dtype == np.float32
    check(tensors, answer)
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_first_dimension(kind: Any) -> None:
    made = Lanes([kind(session(5), plan(5))], plan(5))
    for seed in range(3):
        tensors = batch(5, seed)
        check(tensors, made.run(tensors))
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_never_written_to_again(kind: Any) -> None:
    made = lanes(kind, count=1)
    tensors = [batch(rows, seed) for seed, rows in enumerate([3, 8, 1, 8, 3, 2])]
    answers = [made.run(one) for one in tensors]
    for one, answer in zip(tensors, answers, strict=True):
        check(one, answer)
        for array in answer.values():
            array[...] = 0  # nor does writing to an answer reach the lane
    for one in tensors:
        check(one, made.run(one))
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_many_threads_share_two_lanes(kind: Any) -> None:
    made = lanes(kind)
    start = threading.Barrier(6)

    def caller(number: int) -> None:
        start.wait()
        for step in range(50):
            tensors = batch(1 + (number * 7 + step) % 11, number * 1000 + step)
            check(tensors, made.run(tensors))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(caller, range(6)))
    made.close()


def test_padding_is_a_row_of_the_batch() -> None:
    # 1/0 in a padded row would be a trap for networks that look at what they are given.
    seen: list[Any] = []
    lane = HostLane(session(), plan())
    inputs = lane._buffers.inputs["x"]
    run = lane._run
    lane._run = lambda bucket: (seen.append(inputs[:bucket].copy()), run(bucket))[1]  # type: ignore[method-assign]
    tensors = batch(5)
    lane.run(tensors)
    assert seen[0].shape == (8, 4)
    np.testing.assert_array_equal(seen[0][:5], tensors["x"])
    np.testing.assert_array_equal(seen[0][5:], np.repeat(tensors["x"][4:5], 3, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_that_failed_serves_the_next_batch(kind: Any) -> None:
    made = lanes(kind, count=1)
    with pytest.raises(ValueError, match="broadcast"):
        made.run({"x": np.zeros((2, 7), np.float32), "k": np.zeros(2, np.int64)})
    tensors = batch(2)
    check(tensors, made.run(tensors))
    made.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_any_sequence_of_sizes(sizes: list[int]) -> None:
    made = lanes(HostLane)
    kept = [(tensors := batch(rows, seed), made.run(tensors)) for seed, rows in enumerate(sizes)]
    for tensors, answer in kept:
        check(tensors, answer)


DTYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype(kind: Any, datatype: str, tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    proto = DTYPES[datatype]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [info("x", proto, ["n", 2])],
        [info("y", proto, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    opened = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    spec = TensorSpec("x", datatype, (-1, 2))
    made = plan_for(
        Signature((spec,), (TensorSpec("y", datatype, (-1, 2)),)), max_rows=4, device=None
    )
    assert made is not None
    values = np.random.default_rng(1).integers(0, 2, size=(3, 2)).astype(spec.dtype)
    lane = kind(opened, made)
    answer = lane.run({"x": values})["y"]
    assert answer.dtype == spec.dtype
    np.testing.assert_array_equal(answer, values)
    lane.close()
