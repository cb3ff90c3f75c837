"""gRPC's messages: the published wire format, typed and raw contents."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalmine.protocol import DATATYPES, ProtocolError, Signature, TensorSpec
from coalmine.protocol.protobuf import (
    decode_infer,
    encode_infer,
    message_class,
    parse,
    parse_infer,
)

# The machine may be busy: how long an example takes says nothing.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("y", "FP32", (-1,)), TensorSpec("text", "BYTES", (-1,))),
)


def request(**fields: Any) -> Any:
    return message_class("ModelInferRequest")(model_name="m", **fields)


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], **fields}


#: Compares the definitions, field by field. KServe's module cannot be imported beside Triton's
#: client, which other tests use: both claim the package `inference`.
COMPARE = """
from kserve.protocol.grpc import grpc_predict_v2_pb2 as published
from coalmine.protocol.protobuf import message_class

def fields(descriptor):
    return {
        (f.name, f.number, f.type, f.is_repeated, f.message_type and f.message_type.full_name,
         f.containing_oneof and f.containing_oneof.name)
        for f in descriptor.fields
    }

def compare(theirs, name):
    ours = message_class(name).DESCRIPTOR
    assert fields(ours) == fields(theirs), name
    for nested in theirs.nested_types:
        if not nested.GetOptions().map_entry:
            compare(nested, f"{name}.{nested.name}")

for name, theirs in published.DESCRIPTOR.message_types_by_name.items():
    if not name.startswith("Repository"):
        compare(theirs, name)
print("same")
"""


@pytest.mark.slow  # KServe's SDK takes seconds to import
def test_the_messages_are_those_of_kserve() -> None:
    done = subprocess.run([sys.executable, "-c", COMPARE], capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr


def test_typed_requests_are_answered_typed() -> None:
    call = decode_infer(request(inputs=[tensor(contents={"fp32_contents": [1, 2]})]), SIGNATURE)
    assert call.tensors["x"].tolist() == [[1.0, 2.0]]
    outputs = {"y": np.array([0.5], np.float32), "text": np.array(["é"], dtype=np.object_)}
    answer = parse(
        "ModelInferResponse",
        encode_infer(call, outputs, model_name="m", model_version="3", request_id="r"),
    )
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "r")
    assert list(answer.outputs[0].contents.fp32_contents) == [0.5]
    assert list(answer.outputs[1].contents.bytes_contents) == ["é".encode()]
    assert not answer.raw_output_contents


def test_raw_requests_are_answered_raw() -> None:
    raw = np.array([[1, 2]], np.float32).tobytes()
    call = decode_infer(
        request(inputs=[tensor()], raw_input_contents=[raw], outputs=[{"name": "y"}], id="i"),
        SIGNATURE,
    )
    assert call.id == "i"
    assert call.tensors["x"].tolist() == [[1.0, 2.0]]
    outputs = {"y": np.array([0.5], np.float32)}
    answer = parse(
        "ModelInferResponse",
        encode_infer(call, outputs, model_name="m", model_version=None, request_id="r"),
    )
    assert [output.name for output in answer.outputs] == ["y"]
    assert list(answer.raw_output_contents) == [np.float32(0.5).tobytes()]


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_both_ways(datatype: str) -> None:
    dtype = DATATYPES[datatype]
    array = np.array([b"ab", b""], dtype=np.object_) if datatype == "BYTES" else np.ones(2, dtype)
    spec = TensorSpec("t", datatype, (-1,))
    signature = Signature((spec,), (spec,))
    for raw in (True, False):
        call = decode_infer(_carrying(array, datatype, raw=raw), signature)
        np.testing.assert_array_equal(call.tensors["t"], array)
        answer = encode_infer(
            call, {"t": array}, model_name="m", model_version=None, request_id="r"
        )
        assert parse("ModelInferResponse", answer).outputs[0].datatype == datatype


def _carrying(array: Any, datatype: str, *, raw: bool) -> Any:
    from coalmine.protocol import to_raw

    described = {"name": "t", "datatype": datatype, "shape": [2]}
    if raw or datatype == "FP16":  # FP16 has no typed contents
        return request(inputs=[described], raw_input_contents=[to_raw(array)])
    field = {
        **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
        **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
        "INT64": "int64_contents",
        "UINT64": "uint64_contents",
        "BOOL": "bool_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "BYTES": "bytes_contents",
    }[datatype]
    return request(inputs=[{**described, "contents": {field: array.tolist()}}])


TOP = {"classification": {"int64_param": 3}}


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (request(), "missing input: x"),
        (request(inputs=[tensor(name="z")]), "unknown input 'z'"),
        (request(inputs=[tensor(datatype="FP64")]), "'FP64' is not FP32"),
        (request(inputs=[tensor(shape=[-1, 2])]), "`shape`"),
        (request(inputs=[tensor(shape=[2**62, 2**62])]), "values in fp32_contents"),
        (request(inputs=[tensor()]), "0 values in fp32_contents"),
        (request(inputs=[tensor(contents={"fp64_contents": [1, 2]})]), "0 values in fp32"),
        (request(inputs=[tensor(contents={"fp32_contents": [1, 2, 3]})]), "3 values in fp32"),
        (request(inputs=[tensor(contents={"fp32_contents": [1, 2]})] * 2), "more than once"),
        (request(inputs=[tensor()], raw_input_contents=[b"123"]), "3 bytes, but FP32"),
        (request(inputs=[tensor()], raw_input_contents=[b"", b""]), "2 raw_input_contents"),
        (request(inputs=[tensor(), tensor()], raw_input_contents=[b""]), "1 raw_input_contents"),
        (request(outputs=[{"name": "y", "parameters": TOP}]), "'classification' is not supported"),
        (request(inputs=[tensor(parameters=TOP)]), "'classification' is not supported"),
        (
            request(inputs=[tensor(contents={})], raw_input_contents=[b"12345678"]),
            "both raw and typed",
        ),
        (
            request(inputs=[tensor(contents={"fp32_contents": [1, float("inf")]})]),
            "not finite",
        ),
    ],
)
def test_mistakes_are_named(message: Any, complaint: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_infer(message, SIGNATURE)
    assert complaint in str(caught.value)


@UNHURRIED
@given(st.binary(max_size=80))
def test_any_bytes_are_taken_or_refused(payload: bytes) -> None:
    try:
        decode_infer(parse("ModelInferRequest", payload), SIGNATURE)
    except ProtocolError:
        pass


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00"], ids=["in", "out", "raw"])
def test_two_bytes_a_field_are_refused_before_they_are_objects(field: bytes) -> None:
    payload = request(inputs=[tensor()]).SerializeToString() + field * 100_000
    with pytest.raises(ProtocolError, match="more than 65536 fields"):
        parse_infer(payload)


def test_many_columns_are_no_mistake() -> None:
    columns = [f"c{number}" for number in range(5000)]
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1,)) for name in columns), ())
    inputs = [{"name": name, "datatype": "FP32", "shape": [1]} for name in columns]
    raw = [np.float32(number).tobytes() for number in range(5000)]
    message, found = parse_infer(request(inputs=inputs, raw_input_contents=raw).SerializeToString())
    call = decode_infer(message, signature, raw=found)
    assert [int(array[0]) for array in call.tensors.values()] == list(range(5000))


def test_typed_contents_fit_their_datatype_or_are_refused() -> None:
    for datatype, contents, complaint in (
        ("INT8", {"int_contents": [300]}, "a value does not fit into INT8"),
        ("UINT16", {"uint_contents": [2**16]}, "a value does not fit into UINT16"),
        ("FP16", {}, "FP16 needs raw_input_contents"),
    ):
        signature = Signature((TensorSpec("x", datatype, (-1,)),), ())
        sent = request(inputs=[tensor(datatype=datatype, shape=[1], contents=contents)])
        with pytest.raises(ProtocolError, match=complaint):
            decode_infer(sent, signature)


def test_what_has_no_typed_contents_is_answered_raw_with_all_beside_it() -> None:
    outputs = {"y": np.ones(1, np.float16), "text": np.array([b"a"], dtype=np.object_)}
    call = decode_infer(request(inputs=[tensor(contents={"fp32_contents": [1, 2]})]), SIGNATURE)
    payload = encode_infer(call, outputs, model_name="m", model_version="3", request_id="r")
    answer = parse("ModelInferResponse", payload)
    assert list(answer.raw_output_contents) == [b"\x00\x3c", b"\x01\x00\x00\x00a"]
    nothing = decode_infer(request(), Signature((), SIGNATURE.outputs))
    assert (nothing.rows, nothing.binary) == (1, {"y", "text"}), "clients read raw contents"


@pytest.mark.parametrize("unknown", [b"\x82\x01\x02\x3a\x00", b"\x80\x01\x05", b"\x42\x02ab"])
def test_a_large_message_with_a_field_of_a_later_version_means_the_same(unknown: bytes) -> None:
    raw = np.ones((8192, 2), np.float32).tobytes()
    sent = request(inputs=[tensor(shape=[8192, 2])], raw_input_contents=[raw])
    message, found = parse_infer(unknown + sent.SerializeToString())
    assert decode_infer(message, SIGNATURE, raw=found).tensors["x"].sum() == 2 * 8192
