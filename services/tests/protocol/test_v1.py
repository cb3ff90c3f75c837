"""V1: instances in, predictions out; the client's mistakes by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from coalmine.protocol import (
    NonFinite,
    ProtocolError,
    Signature,
    SignatureError,
    TensorSpec,
    decode_v1,
    encode_v1,
    predictions,
)

ONE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "INT64", (-1,)),))
TWO = Signature(
    (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "INT8", (-1, 2))),
    (TensorSpec("y", "FP32", (-1,)),),
)
TEXT = Signature((TensorSpec("t", "BYTES", (-1,)),), ())


def body(instances: object) -> bytes:
    return json.dumps({"instances": instances}).encode()


def test_one_input_takes_nested_lists() -> None:
    call = decode_v1(body([[1, 2.5], [3, 4]]), ONE)
    assert call.rows == 2
    assert call.outputs == ("y",)
    assert call.tensors["x"].dtype == np.float32
    assert call.tensors["x"].tolist() == [[1.0, 2.5], [3.0, 4.0]]


def test_several_inputs_take_objects() -> None:
    call = decode_v1(body([{"b": [1, 2], "a": 0.5}, {"a": 1, "b": [3, 4]}]), TWO)
    assert call.tensors["a"].tolist() == [0.5, 1.0]
    assert call.tensors["b"].dtype == np.int8
    assert call.tensors["b"].tolist() == [[1, 2], [3, 4]]


def test_one_input_may_be_named_too() -> None:
    assert decode_v1(body([{"x": [1, 2]}]), ONE).tensors["x"].tolist() == [[1.0, 2.0]]


def test_null_is_a_missing_number() -> None:
    (row,) = decode_v1(body([[None, 1]]), ONE).tensors["x"].tolist()
    assert math.isnan(row[0])
    assert row[1] == 1.0


def test_no_instances_are_an_empty_batch() -> None:
    call = decode_v1(body([]), ONE)
    assert call.rows == 0
    assert call.tensors["x"].shape == (0, 2)


def test_text_stays_bytes_and_costs_what_was_sent() -> None:
    long = "x" * 100_000
    call = decode_v1(body([long, *["a"] * 10_000]), TEXT)
    assert call.tensors["t"][0] == long.encode()
    assert call.rows == 10_001


def test_whole_numbers_may_carry_a_point() -> None:
    assert decode_v1(body([{"a": 1, "b": [1.0, 2.0]}]), TWO).tensors["b"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("content", "signature", "complaint"),
    [
        (b"", ONE, "not JSON"),
        (b"[1]", ONE, "must be a JSON object"),
        (b'{"instances": 3}', ONE, "`instances`"),
        (b"{}", ONE, "`instances`"),
        (b'{"instances": [[1, NaN]]}', ONE, "not JSON"),
        (b'{"instances": [[1, 1e999]]}', ONE, "not JSON"),
        (body([[1, 2, 3]]), ONE, "shape [1, 3] does not fit [-1, 2]"),
        (body([1, 2]), ONE, "shape [2] does not fit [-1, 2]"),
        (body([[1, 2], [3]]), ONE, "ragged"),
        (body([[1, 2], 3]), ONE, "ragged"),
        (body([[1, "2"]]), ONE, "cannot hold a string"),
        (body([[1, True]]), ONE, "cannot hold a boolean"),
        (body([[1, {}]]), ONE, "cannot hold an object"),
        (body([[1, 1e300]]), ONE, "does not fit into FP32"),
        (body([{"x": [1, 2]}, [3, 4]]), ONE, "must be an object"),
        (body([{"x": [1, 2], "z": 1}]), ONE, "unknown input 'z'"),
        (body([{"a": 1}]), TWO, "lacks the input: b"),
        (body([{"a": 1, "b": [1, 300]}]), TWO, "does not fit into INT8"),
        (body([{"a": 1, "b": [1, 2.5]}]), TWO, "cannot hold a fraction"),
        (body([{"a": 1, "b": [1, None]}]), TWO, "cannot hold null"),
        (body([1]), TEXT, "cannot hold a number"),
        (body([{"b64": "YQ=="}, {"b64": "?"}]), TEXT, "`b64` is not base64"),
        (body([{"b64": "YQ=="}, {"b65": "YQ=="}]), TEXT, "cannot hold an object"),
        (body([{"b64": "YQ=="}, {"b64": "YQ==", "c": 1}]), TEXT, "cannot hold an object"),
        (body([{"a": 1, "b": [2**64, 1.0]}]), TWO, "too large to be exact"),
        (b'{"instances": [], "inputs": []}', ONE, "either `instances` or `inputs`"),
        (b'{"inputs": "x"}', ONE, "`inputs` must be a list"),
        (b'{"inputs": {"a": [1]}}', TWO, "missing input: b"),
        (b'{"inputs": {"a": [1], "b": [[1, 2]], "c": [1]}}', TWO, "unknown input 'c'"),
        (b'{"inputs": {"a": 1, "b": [[1, 2]]}}', TWO, "a value per row"),
        (b'{"inputs": {"a": [1, 2], "b": [[1, 2]]}}', TWO, "disagree on the batch"),
    ],
)
def test_mistakes_are_named(content: bytes, signature: Signature, complaint: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_v1(content, signature)
    assert complaint in str(caught.value)


def test_nesting_is_bounded() -> None:
    with pytest.raises(ProtocolError):
        decode_v1(b'{"instances": ' + b"[" * 1000 + b"]" * 1000 + b"}", ONE)


def test_one_output_gives_values_and_several_give_objects() -> None:
    label = np.array([1, 0])
    share = np.array([[0.1, 0.9], [0.7, np.nan]], np.float32)
    assert encode_v1({"label": label}, ("label",)) == b'{"predictions":[1,0]}'
    both = json.loads(encode_v1({"label": label, "p": share}, ("label", "p")))
    assert both == {"predictions": [{"label": 1, "p": [0.1, 0.9]}, {"label": 0, "p": [0.7, None]}]}


def test_text_outputs() -> None:
    text = np.array([[b"a", "b"]], dtype=np.object_)
    assert encode_v1({"t": text}, ("t",)) == b'{"predictions":[["a","b"]]}'
    assert predictions({"t": text}, ("t",)) == [["a", "b"]]


def test_outputs_of_any_layout_and_a_single_text() -> None:
    numbers = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert encode_v1({"y": numbers.T}, ("y",)) == b'{"predictions":[[0.0,2.0],[1.0,3.0]]}'
    assert encode_v1({"y": numbers[:, 1]}, ("y",)) == b'{"predictions":[1.0,3.0]}'
    assert encode_v1({"y": np.array(b"a", object)}, ("y",)) == b'{"predictions":["a"]}'
    assert encode_v1({"y": np.float32(0.5)}, ("y",)) == b'{"predictions":[0.5]}'


def test_bytes_that_are_not_text_are_base64() -> None:
    call = decode_v1(body([{"b64": "/9j/"}, "text", {"b64": ""}]), TEXT)
    assert call.tensors["t"].tolist() == [b"\xff\xd8\xff", b"text", b""]
    named = decode_v1(body([{"t": {"b64": "/9j/"}}, {"t": "text"}]), TEXT)
    assert named.tensors["t"].tolist() == [b"\xff\xd8\xff", b"text"]
    output = np.array([b"\xff\xd8\xff", b"text"], dtype=np.object_)
    answer = encode_v1({"t": output}, ("t",))
    assert answer == b'{"predictions":[{"b64":"/9j/"},"text"]}'


def test_columns_are_answered_in_columns() -> None:
    call = decode_v1(b'{"inputs": {"b": [[1, 2], [3, 4]], "a": [0.5, 1]}}', TWO)
    assert (call.rows, call.columnar) == (2, True)
    assert call.tensors["b"].tolist() == [[1, 2], [3, 4]]
    text = np.array([b"\xff", b"a"], dtype=np.object_)
    outputs = {"y": np.array([1.5, np.nan], np.float32), "t": text}
    answer = encode_v1(outputs, ("y", "t"), columnar=True)
    assert json.loads(answer) == {"outputs": {"y": [1.5, None], "t": [{"b64": "/w=="}, "a"]}}


def test_a_list_of_inputs_is_another_name_for_instances() -> None:
    call = decode_v1(b'{"inputs": [[1, 2], [3, 4]]}', ONE)
    assert (call.rows, call.columnar) == (2, False)


@pytest.mark.parametrize(
    ("policy", "nan", "infinity"),
    [("missing", True, False), ("allow", True, True), ("reject", False, False)],
)
def test_what_is_not_finite_passes_as_the_policy_says(
    policy: NonFinite, nan: bool, infinity: bool
) -> None:
    signature = Signature(ONE.inputs, (), policy)
    for value, passes in ((np.nan, nan), (np.inf, infinity), (-np.inf, infinity), (1.0, True)):
        tensors = {"x": np.array([[value, 0]], np.float32)}
        if passes:
            assert signature.check(tensors) == 1
        else:
            with pytest.raises(SignatureError, match="not finite"):
                signature.check(tensors)


@pytest.mark.parametrize("text", ['{"instances": [NaN]}', '{"name": "ü", "instances": [1, NaN]}'])
def test_who_writes_nan_is_told_what_json_has(text: str) -> None:
    with pytest.raises(ProtocolError, match=r"not JSON: .*; a missing number is null"):
        decode_v1(text.encode(), ONE)
