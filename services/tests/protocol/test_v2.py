"""V2 over REST: JSON, the binary extension, both mixed, and what is wrong with a request."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coalmine.protocol import (
    DATATYPES,
    ProtocolError,
    Signature,
    TensorSpec,
    decode_v2,
    encode_v2,
    from_raw,
    to_raw,
)

# The machine may be busy: how long an example takes says nothing.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1,)), TensorSpec("label", "INT64", (-1,))),
)
X = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
N = {"name": "n", "datatype": "INT64", "shape": [2], "data": [7, 8]}


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


SHARED = {"shared_memory_region": "r", "shared_memory_byte_size": 16}


def _two_binary(*sizes: int) -> bytes:
    bare = [{k: v for k, v in each.items() if k != "data"} for each in (X, N)]
    sized = zip(bare, sizes, strict=True)
    return request(*({**each, "parameters": {"binary_data_size": size}} for each, size in sized))


def test_flat_and_nested_data_are_the_same() -> None:
    flat = decode_v2(request(X, N, id="a"), SIGNATURE)
    nested = decode_v2(request({**X, "data": [[1, 2], [3, 4]]}, N), SIGNATURE)
    assert flat.id == "a"
    assert flat.rows == nested.rows == 2
    assert flat.tensors["x"].tolist() == nested.tensors["x"].tolist() == [[1, 2], [3, 4]]


def test_binary_tensors_mix_with_json_and_are_not_copied() -> None:
    raw = np.array([[1, 2], [3, 4]], np.float32).tobytes()
    described = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    head = request({**described, "parameters": {"binary_data_size": len(raw)}}, N)
    head += b" " * (-len(head) % 8)  # aligned, as nothing is copied only then
    call = decode_v2(head + raw, SIGNATURE, json_length=len(head))
    assert call.tensors["x"].tolist() == [[1, 2], [3, 4]]
    assert not call.tensors["x"].flags.owndata


@pytest.mark.parametrize("offset", range(4))
def test_misaligned_binary_tensors_are_usable(offset: int) -> None:
    raw = np.array([[1, 2]], np.float32).tobytes()
    head = request(
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        {**N, "shape": [1], "data": [1]},
    )
    head += b" " * offset
    call = decode_v2(head + raw, SIGNATURE, json_length=len(head))
    assert call.tensors["x"].flags.aligned
    assert call.tensors["x"].tolist() == [[1, 2]]


def test_outputs_are_those_asked_for_in_that_order() -> None:
    call = decode_v2(request(X, N, outputs=[{"name": "label"}, {"name": "y"}]), SIGNATURE)
    assert call.outputs == ("label", "y")
    reply = encode_v2(
        call,
        {"y": np.array([0.5, 1.5], np.float32), "label": np.array([1, 2])},
        model_name="m",
        model_version="3",
        request_id="r",
    )
    assert reply.json_length is None
    assert json.loads(reply.body) == {
        "model_name": "m",
        "model_version": "3",
        "id": "r",
        "outputs": [
            {"name": "label", "shape": [2], "datatype": "INT64", "data": [1, 2]},
            {"name": "y", "shape": [2], "datatype": "FP32", "data": [0.5, 1.5]},
        ],
    }


def test_binary_outputs_follow_the_json() -> None:
    wanted = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "label"}]
    call = decode_v2(request(X, N, outputs=wanted), SIGNATURE)
    outputs = {"y": np.array([0.5], np.float32), "label": np.array([1])}
    reply = encode_v2(call, outputs, model_name="m", model_version=None, request_id="r")
    assert reply.json_length is not None
    head = json.loads(reply.body[: reply.json_length])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert "data" not in head["outputs"][0]
    assert reply.body[reply.json_length :] == struct.pack("<f", 0.5)


def test_a_mixed_answer_has_its_own_values() -> None:
    """What is the same in all answers of a kind is remembered: not what JSON holds of them."""
    wanted = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "label"}]
    call = decode_v2(request(X, N, outputs=wanted), SIGNATURE)
    for value in (1, 2):
        outputs = {"y": np.array([0.5], np.float32), "label": np.array([value])}
        reply = encode_v2(call, outputs, model_name="m", model_version="1", request_id="r")
        head = json.loads(reply.body[: reply.json_length])
        assert head["outputs"][1]["data"] == [value]


def test_the_time_a_client_gives_is_in_microseconds() -> None:
    for said, seconds in (
        ({"timeout": 1_500_000}, 1.5),
        ({"timeout": 0}, math.inf),
        ({}, math.inf),
    ):
        assert decode_v2(request(X, N, parameters=said), SIGNATURE).timeout == seconds


def test_a_number_that_would_be_infinite_is_refused_beside_a_missing_one_too() -> None:
    with pytest.raises(ProtocolError, match="a value does not fit into FP32"):
        decode_v2(request({**X, "data": [1, 2, 1e300, None]}, N), SIGNATURE)


def test_any_byte_but_zero_is_true() -> None:
    spec = TensorSpec("flag", "BOOL", (-1,))
    assert to_raw(from_raw(b"\x00\x01\x02\xff", spec, [4])) == b"\x00\x01\x01\x01"


def test_an_unknown_name_is_not_echoed_whole() -> None:
    for content in (
        request({**X, "name": "z" * 5000}, N),
        request(X, N, outputs=[{"name": "z" * 5000}]),
    ):
        with pytest.raises(ProtocolError, match="unknown") as caught:
            decode_v2(content, SIGNATURE)
        assert len(str(caught.value)) < 200


def test_an_array_of_another_kind_is_no_tensor_of_the_signature() -> None:
    tensors = {"x": np.zeros((2, 2)), "n": np.zeros(2, np.int64)}
    with pytest.raises(ProtocolError, match="'x': float64 is not FP32"):
        SIGNATURE.check(tensors)


def test_binary_by_default_can_be_undone_for_one_output() -> None:
    more = {"parameters": {"binary_data_output": True}}
    assert decode_v2(request(X, N, **more), SIGNATURE).binary == {"y", "label"}
    wanted = [{"name": "y", "parameters": {"binary_data": False}}, {"name": "label"}]
    assert decode_v2(request(X, N, outputs=wanted, **more), SIGNATURE).binary == {"label"}


@pytest.mark.parametrize(
    ("content", "json_length", "complaint"),
    [
        (b"nonsense", None, "not JSON"),
        (request(X, N), 10_000, "cannot have 10000 bytes"),
        (request(X, N), -1, "cannot have -1 bytes"),
        (request(X, N) + b"123", len(request(X, N)), "3 bytes follow"),
        (request(), None, "missing input: x, n"),
        (request(X), None, "missing input: n"),
        (b"{}", None, "`inputs` must be"),
        (b'{"inputs": [3]}', None, "`inputs` must be"),
        (request(X, N, id=3), None, "`id`"),
        (request(X, X, N), None, "more than once"),
        (request({**X, "name": "z"}, N), None, "unknown input 'z'"),
        (request({**X, "name": ["z"]}, N), None, "unknown input"),
        (request({**X, "datatype": "FP64"}, N), None, "'FP64' is not FP32"),
        (request({**X, "shape": [2, 3]}, N), None, "not of shape [2, 3]"),
        (request({**X, "shape": [4]}, N), None, "does not fit"),
        (request({**X, "shape": [-1, 2]}, N), None, "`shape` must be"),
        (request({**X, "shape": [10**18, 10**18]}, N), None, "not of shape"),
        (request({**X, "shape": [True, 2]}, N), None, "`shape` must be"),
        (request({**X, "data": "1234"}, N), None, "`data` must be a list"),
        (request({k: X[k] for k in ("name", "datatype", "shape")}, N), None, "`data` must be"),
        (request({**X, "data": [[1, 2, 3, 4]]}, N), None, "not of shape"),
        (request({**X, "parameters": {"binary_data_size": 99}}, N), None, "does not fit the body"),
        (request({**X, "parameters": {"binary_data_size": -1}}, N), None, "does not fit the body"),
        (request({**X, "parameters": {"binary_data_size": "0"}}, N), None, "does not fit the body"),
        (request({**X, "parameters": {"binary_data_size": False}}, N), None, "does not fit the"),
        (request({**X, "parameters": {"binary_data_size": 0}}, N), None, "both data and"),
        (_two_binary(16, 17) + bytes(32), len(_two_binary(16, 17)), "17 does not fit the body"),
        (request({**X, "parameters": 3}, N), None, "`parameters`"),
        (request(X, {**N, "shape": [1], "data": [7]}), None, "disagree on the batch"),
        (request(X, {**N, "data": [7, 2**63]}), None, "does not fit into INT64"),
        (request(X, N, outputs=[{"name": "z"}]), None, "unknown output 'z'"),
        (request(X, N, outputs=[{"name": "y"}, {"name": "y"}]), None, "more than once"),
        (request(X, N, outputs=3), None, "`outputs` must be"),
        (request({**X, "parameters": SHARED}, N), None, "'shared_memory_region' is not supported"),
        (request(X, N, outputs=[{"name": "y", "parameters": {"classification": 3}}]), None,
         "'classification' is not supported: the values come as they are"),
        (request(X, N, parameters={"sequence_id": 1}), None, "'sequence_id' is not supported"),
        (request(X, N, parameters={"timeout": False}), None, "`timeout` must be"),
        (request(X, N, parameters={"timeout": 0.0}), None, "`timeout` must be"),
    ],
)  # fmt: skip
def test_mistakes_are_named(content: bytes, json_length: int | None, complaint: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_v2(content, SIGNATURE, json_length=json_length)
    assert complaint in str(caught.value)


_NUMERIC = sorted(set(DATATYPES) - {"BYTES"})


@UNHURRIED
@given(st.data(), st.sampled_from(_NUMERIC))
def test_raw_bytes_round_trip(data: st.DataObject, datatype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    array = data.draw(hnp.arrays(DATATYPES[datatype], shape))
    spec = TensorSpec("t", datatype, (-1,) * len(shape))
    back = from_raw(to_raw(array), spec, list(shape))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@UNHURRIED
@given(st.lists(st.binary(max_size=20), max_size=6))
def test_text_round_trips_raw(values: list[bytes]) -> None:
    array = np.array(values, dtype=np.object_)
    back = from_raw(to_raw(array), TensorSpec("t", "BYTES", (-1,)), [len(values)])
    assert back.tolist() == values


@UNHURRIED
@given(st.binary(max_size=64), st.integers(0, 5))
def test_any_bytes_as_text_are_taken_or_refused(raw: bytes, count: int) -> None:
    try:
        array = from_raw(raw, TensorSpec("t", "BYTES", (-1,)), [count])
    except ProtocolError:
        return
    assert array.shape == (count,)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
_KEYS = st.sampled_from(["inputs", "outputs", "id", "parameters", "instances"])
_INPUT = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "n", 3]), "datatype": st.sampled_from(["FP32", "INT64", None])},
    optional={"shape": _JSON, "data": _JSON, "parameters": _JSON},
)


@UNHURRIED
@given(
    st.dictionaries(_KEYS, _JSON, max_size=3)
    | st.fixed_dictionaries({"inputs": st.lists(_INPUT, max_size=3)}),
    st.binary(max_size=16),
    st.none() | st.integers(0, 200),
)
def test_any_json_is_taken_or_refused(
    content: dict[str, Any], tail: bytes, json_length: int | None
) -> None:
    with contextlib.suppress(ProtocolError):
        decode_v2(json.dumps(content).encode() + tail, SIGNATURE, json_length=json_length)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
@pytest.mark.parametrize(
    "shape", [[0, 2**62], [0, 2**63], [2**62, 0], [2**63, 0], [2**40, 0], [4097, 0]]
)
@pytest.mark.parametrize("binary", [False, True])
def test_a_tensor_without_values_cannot_claim_to_be_large(
    datatype: str, shape: list[int], *, binary: bool
) -> None:
    free = Signature((TensorSpec("x", datatype, (-1, -1)),), ())
    fixed = Signature((TensorSpec("x", datatype, (-1, 2)),), ())
    values: dict[str, Any] = {"data": []}
    if binary:
        values = {"parameters": {"binary_data_size": 0}}
    body = request({"name": "x", "datatype": datatype, "shape": shape, **values})
    for signature in (free, fixed):
        with pytest.raises(ProtocolError, match="shape"):
            decode_v2(body, signature, json_length=len(body) if binary else None)


@pytest.mark.parametrize("shape", [[0, 5], [0, 2**31], [7, 0], [4096, 0], [0, 0]])
def test_a_tensor_may_have_no_values(shape: list[int]) -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, -1)),), ())
    body = request({"name": "x", "datatype": "FP32", "shape": shape, "data": []})
    call = decode_v2(body, signature)
    assert call.rows == shape[0]
    assert list(call.tensors["x"].shape) == shape
