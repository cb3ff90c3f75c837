"""V2 with binary tensors, the same JSON again and again: what was learned decodes as the rest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from coalmine.protocol import (
    ProtocolError,
    Signature,
    TensorSpec,
    V2Memo,
    _v2,
    decode_v2,
    encode_v2,
)

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1,)), TensorSpec("s", "BYTES", (-1,))),
)


def request(rows: int, seed: int, **more: Any) -> tuple[bytes, int]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    n = rng.integers(0, 9, rows)
    inputs = [
        {"name": name, "datatype": kind, "shape": list(array.shape),
         "parameters": {"binary_data_size": array.nbytes}}
        for name, kind, array in (("x", "FP32", x), ("n", "INT64", n))
    ]  # fmt: skip
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + x.tobytes() + n.tobytes(), len(head)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"id": "a"},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"parameters": {"binary_data_output": True, "timeout": 5_000_000}},
    ],
)
def test_what_is_known_is_decoded_alike(more: dict[str, Any]) -> None:
    memo = V2Memo()
    for seed in range(6):
        body, length = request(3 + seed % 2, seed, **more)
        for data in (body, memoryview(body)):
            known = memo.decode(data, SIGNATURE, json_length=length)
            fresh = decode_v2(body, SIGNATURE, json_length=length)
            assert known._replace(tensors={}) == fresh._replace(tensors={})
            for name, array in fresh.tensors.items():
                np.testing.assert_array_equal(known.tensors[name], array)


def test_what_is_known_does_not_excuse_what_is_wrong() -> None:
    memo = V2Memo()
    body, length = request(3, 0)
    infinite = bytearray(body)
    infinite[length : length + 4] = np.float32(np.inf).tobytes()
    for _ in range(3):
        assert memo.decode(body, SIGNATURE, json_length=length).rows == 3
        for wrong in (body[:-1], body + b"x", bytes(infinite)):
            with pytest.raises(ProtocolError) as told:
                memo.decode(wrong, SIGNATURE, json_length=length)
            with pytest.raises(ProtocolError) as expected:
                decode_v2(wrong, SIGNATURE, json_length=length)
            assert str(told.value) == str(expected.value)
        for lengths in (-1, 0, len(body) + 1):
            with pytest.raises(ProtocolError):
                memo.decode(body, SIGNATURE, json_length=lengths)


def test_another_signature_learns_for_itself() -> None:
    memo = V2Memo()
    body, length = request(3, 0)
    other = Signature((SIGNATURE.inputs[0],), SIGNATURE.outputs)
    for _ in range(2):
        memo.decode(body, SIGNATURE, json_length=length)
        with pytest.raises(ProtocolError, match="unknown input 'n'"):
            memo.decode(body, other, json_length=length)


def test_binary_replies_of_a_kind_differ_in_their_id_and_values() -> None:
    body, length = request(2, 0, parameters={"binary_data_output": True})
    call = decode_v2(body, SIGNATURE, json_length=length)
    for identifier, text in (("a", b"x"), ('"\\ü', b"longer"), ("", b"x"), ("b", b"\xff")):
        outputs = {"y": np.arange(2, dtype=np.float32), "s": np.array([b"", text], object)}
        reply = encode_v2(
            call, outputs, model_name='m"id":""', model_version="7", request_id=identifier
        )
        assert reply.json_length is not None
        head = json.loads(reply.body[: reply.json_length])
        assert (head["id"], head["model_name"], head["model_version"]) == (
            identifier, 'm"id":""', "7",
        )  # fmt: skip
        sizes = [item["parameters"]["binary_data_size"] for item in head["outputs"]]
        assert sizes == [8, 8 + len(text)]
        assert reply.body[reply.json_length :].endswith(text)


def test_replies_of_versions_and_shapes_differ_and_only_so_many_are_remembered() -> None:
    body, length = request(2, 0, parameters={"binary_data_output": True})
    call = decode_v2(body, SIGNATURE, json_length=length)
    for rows in range(600):
        for version in ("1", "2"):
            outputs = {"y": np.zeros(rows, np.float32), "s": np.full(rows, b"", object)}
            reply = encode_v2(call, outputs, model_name="m", model_version=version, request_id="r")
            head = json.loads(reply.body[: reply.json_length])
            assert (head["model_version"], head["outputs"][0]["shape"]) == (version, [rows])
    assert len(_v2._around_id) <= 256


def test_only_so_many_kinds_are_remembered() -> None:
    memo = V2Memo()
    for rows in range(1, 600):
        body, length = request(rows, 0)
        assert memo.decode(body, SIGNATURE, json_length=length).rows == rows
    assert len(memo._known) <= 64
