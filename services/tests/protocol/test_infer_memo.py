"""A request that is known is decoded as it would be if it were not, whatever it holds."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from coalmine.protocol import InferMemo, ProtocolError, Signature, TensorSpec
from coalmine.protocol.protobuf import decode_infer, message_class, parse_infer

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("n", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "FP32", (-1,))),
    "missing",
)
NAMES = {"model_name": "m", "model_version": "2"}
_LONG = {"comment": {"string_param": "x" * 1024}}


def request(rows: int, seed: int = 0, **fields: Any) -> Any:
    rng = np.random.default_rng(seed)
    made = message_class("ModelInferRequest")(**NAMES, **fields)
    made.inputs.add(name="n", datatype="INT64", shape=[rows])
    made.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    made.raw_input_contents.append(rng.integers(9, size=rows).tobytes())
    made.raw_input_contents.append(rng.normal(size=(rows, 4)).astype(np.float32).tobytes())
    return made


def decode(payload: bytes) -> Any:
    message, raw = parse_infer(payload)
    return decode_infer(message, SIGNATURE, raw=raw)


def learn(memo: InferMemo, payload: bytes) -> None:
    _, raw = parse_infer(payload)
    sizes = [len(part) for part in raw]
    memo.learn(payload, decode(payload), signature=SIGNATURE, raw_sizes=sizes, **NAMES)


def same(one: Any, other: Any) -> None:
    assert one._replace(tensors=None) == other._replace(tensors=None)
    assert list(one.tensors) == list(other.tensors)
    for name, array in one.tensors.items():
        assert array.dtype == other.tensors[name].dtype
        np.testing.assert_array_equal(array, other.tensors[name])


@pytest.mark.parametrize("rows", [1, 3, 40, 5000])
@pytest.mark.parametrize("view", [bytes, memoryview])
def test_known_requests_mean_the_same(rows: int, view: Any) -> None:
    memo = InferMemo()
    first = request(rows, outputs=[{"name": "z"}], parameters={"timeout": {"int64_param": 5}})
    learn(memo, first.SerializeToString())
    for seed in range(1, 4):
        again = request(rows, seed)
        again.outputs.add(name="z")
        again.parameters["timeout"].int64_param = 5
        payload = again.SerializeToString()
        found = memo.find(view(payload))
        assert found is not None
        known, raw = found
        assert (known.model_name, known.model_version) == ("m", "2")
        same(known.decode(raw), decode(payload))
    assert memo.find(request(rows).SerializeToString()) is None, "other outputs"


def test_what_each_client_says_differently_is_not_remembered() -> None:
    memo = InferMemo()
    for said in ({"id": "a"}, {"outputs": [{"name": "z"}], "parameters": _LONG}):
        learn(memo, request(2, **said).SerializeToString())
        assert memo.find(request(2, **said).SerializeToString()) is None
    for number in range(20):
        learn(memo, request(number + 1).SerializeToString())
    assert memo.find(request(20).SerializeToString()) is not None
    assert memo.find(request(3).SerializeToString()) is None, "the last few alone"


def test_raw_contents_that_are_not_last_are_not_remembered() -> None:
    whole = request(2)
    tail = message_class("ModelInferRequest")(raw_input_contents=whole.raw_input_contents[:1])
    head = message_class("ModelInferRequest")(raw_input_contents=whole.raw_input_contents[1:])
    del whole.raw_input_contents[:]
    payload = tail.SerializeToString() + whole.SerializeToString() + head.SerializeToString()
    memo = InferMemo()
    learn(memo, payload)
    assert memo.find(payload) is None


def test_raw_contents_that_seem_to_be_last_are_not_remembered() -> None:
    """The first of them comes before all else, and holds what looks like its own beginning."""
    whole = request(14)
    first, last = whole.raw_input_contents
    del whole.raw_input_contents[:]
    rest = whole.SerializeToString()
    # From here on the first, and all else, are as long as the first: a tag and a length make them
    # raw contents, and both together as many as there are inputs.
    inside = len(rest) - 2
    first = first[:inside] + bytes((0x3A, len(first))) + first[inside + 2 :]
    before, behind = (
        message_class("ModelInferRequest")(raw_input_contents=[raw]).SerializeToString()
        for raw in (first, last)
    )
    payload = before + rest + behind
    memo = InferMemo()
    learn(memo, payload)
    assert memo.find(payload) is None


def test_raw_contents_that_are_missing_or_too_many_are_refused() -> None:
    memo = InferMemo()
    learn(memo, request(2).SerializeToString())
    for contents in ([], [b""], [b""] * 3, [b""] * 500_000):
        other = request(2)
        del other.raw_input_contents[:]
        other.raw_input_contents.extend(contents)
        payload = other.SerializeToString()
        tracemalloc.start()
        try:
            assert memo.find(payload) is None
            assert tracemalloc.get_traced_memory()[1] < 100_000, "nobody counts what is too much"
        finally:
            tracemalloc.stop()


def test_where_the_tensors_of_a_large_message_begin() -> None:
    memo = InferMemo()
    payload = request(5000).SerializeToString()
    learn(memo, payload)
    found = memo.find(payload)
    assert found is not None
    assert payload[memo.tensors_at :].startswith(bytes(found[1][0]))


def test_broken_ones_are_as_broken_as_ever() -> None:
    """Bytes changed, lost or added: not known, or refused or taken as without the memo."""
    rng = random.Random(3)
    memo = InferMemo()
    good = request(3).SerializeToString()
    learn(memo, good)
    known_ones = 0
    for _ in range(3000):
        broken = bytearray(good)
        for _ in range(rng.choice([1, 2])):
            at = rng.randrange(len(broken))
            match rng.randrange(3):
                case 0:
                    broken[at] = rng.randrange(256)
                case 1:
                    del broken[at : at + rng.choice([1, 8])]
                case _:
                    broken[at:at] = rng.randbytes(rng.choice([1, 8]))
        payload = bytes(broken)
        if (found := memo.find(payload)) is None:
            continue
        known_ones += 1
        try:
            expected = decode(payload)
        except ProtocolError as error:
            with pytest.raises(type(error)):
                found[0].decode(found[1])
        else:
            same(found[0].decode(found[1]), expected)
    assert known_ones > 200
