"""Frames: what is encoded on the hot path comes back as columns, and a torn one never does."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import (
    CALLER_NONE,
    AnsweredRequest,
    InferenceRecord,
    MalformedBatchError,
    SchemaError,
    record_batch,
)
from coalmine.records._decode import decode, parse_frames
from coalmine.records._frame import GROUP, HEAD, Layout
from coalmine.records._framing import PREFIX, framed, scan

MakeRecord = Callable[..., InferenceRecord]

_FIXTURES_ARE_STATELESS = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def _batch(records: list[InferenceRecord], card: ModelCard) -> pa.RecordBatch:
    batch = record_batch(records, card=card, model_version="3", arm="canary", pod="p-1")
    batch.validate(full=True)
    return batch


def test_a_request_becomes_a_row_per_instance(card: ModelCard, make_record: MakeRecord) -> None:
    first = make_record("a", rows=2, time=1000.25, seed=1)
    second = make_record("bé", rows=3, protocol="grpc", seed=2)
    batch = _batch([first, second], card)
    rows = batch.to_pylist()
    assert [(row["request_id"], row["row"]) for row in rows] == [
        ("a", 0), ("a", 1), ("bé", 0), ("bé", 1), ("bé", 2),
    ]  # fmt: skip
    assert rows[0]["time"].timestamp() == 1000.25
    assert [row["protocol"] for row in rows] == ["v2", "v2", "grpc", "grpc", "grpc"]
    assert (rows[0]["model_version"], rows[0]["arm"], rows[0]["pod"]) == ("3", "canary", "p-1")
    assert (rows[0]["latency_us"], rows[0]["queue_us"], rows[4]["batch_rows"]) == (750, 20, 3)
    assert rows[0]["error"] is None
    features = np.stack([batch.column(f"f{i}").to_numpy() for i in range(24)], axis=1)
    expected = np.concatenate([first.inputs["features"], second.inputs["features"]])
    np.testing.assert_array_equal(features, expected)
    assert batch.column("label").to_pylist() == [0, 1, 0, 1, 2]


def test_a_failed_request_is_one_row_without_values(
    card: ModelCard, make_record: MakeRecord
) -> None:
    failed = make_record("bad", outputs=None, status=500, error="out of memory")
    batch = _batch([make_record("a", rows=2), failed, make_record("b", rows=1)], card)
    assert batch.column("request_id").to_pylist() == ["a", "a", "bad", "b"]
    assert batch.column("error").to_pylist() == [None, None, "out of memory", None]
    assert batch.column("status").to_pylist() == [200, 200, 500, 200]
    assert batch.column("label").to_pylist() == [0, 1, None, 0]
    assert batch.column("f3").null_count == 1


def cut(tensors: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {name: array[start:stop] for name, array in tensors.items()}


def test_parts_whose_rows_differ_make_no_frame(card: ModelCard, make_record: MakeRecord) -> None:
    whole = make_record("all", rows=4)
    assert whole.outputs is not None
    parts = [(cut(whole.inputs, a, b), cut(whole.outputs, a, b)) for a, b in ((0, 1), (1, 4))]
    for (inputs, _), shape in zip(parts, ((1, 48), (3, 16)), strict=True):
        inputs["features"] = np.ones(shape, np.float32)
    layout = Layout.of(card, model_version="3", arm="a", pod="p")
    with pytest.raises(ValueError, match="is not rows of 24"):
        layout.encode_batch([AnsweredRequest("a", 1.0, "v2", 1, 4)], parts, batch_rows=4)


@pytest.mark.parametrize("cuts", [(), (1,), (4,), (1, 4)])
def test_each_request_of_a_batch_gets_its_own_rows_id_and_times(
    card: ModelCard, make_record: MakeRecord, cuts: tuple[int, ...]
) -> None:
    whole = make_record("all", rows=6, seed=3)
    assert whole.outputs is not None
    requests = [
        AnsweredRequest("a", 10.0, "v2", 700, 1, 5),
        AnsweredRequest("b\u00e9", 11.0, "grpc", 800, 3, 6),
        AnsweredRequest("c", 12.0, "v1", 900, 2),
    ]
    layout = Layout.of(card, model_version="3", arm="canary", pod="p-1")
    ends = list(zip((0, *cuts), (*cuts, 6), strict=True))
    parts = [(cut(whole.inputs, a, b), cut(whole.outputs, a, b)) for a, b in ends]
    frames = [
        layout.encode(make_record("before", rows=2)),
        layout.encode_batch(requests, parts, batch_rows=8),
        layout.encode(make_record("failed", outputs=None, status=500, error="no")),
    ]
    assert [one.rows for one in frames] == [2, 6, 1]
    assert [one.size for one in frames] == [len(one.tobytes()) for one in frames]
    data = b"".join(one.tobytes() for one in frames)
    rows = decode(data, scan(data), layout=layout).to_pylist()
    found = [
        (r["request_id"], r["row"], r["protocol"], r["latency_us"], r["queue_us"])
        for r in rows[2:8]
    ]
    assert found == [
        ("a", 0, "v2", 700, 5),
        ("b\u00e9", 0, "grpc", 800, 6),
        ("b\u00e9", 1, "grpc", 800, 6),
        ("b\u00e9", 2, "grpc", 800, 6),
        ("c", 0, "v1", 900, 0),
        ("c", 1, "v1", 900, 0),
    ]
    assert [r["time"].timestamp() for r in rows[2:8]] == [10.0, 11.0, 11.0, 11.0, 12.0, 12.0]
    assert {r["batch_rows"] for r in rows[2:8]} == {8}
    features = [[r[f"f{i}"] for i in range(24)] for r in rows[2:8]]
    np.testing.assert_array_equal(np.float32(features), whole.inputs["features"])
    assert [r["label"] for r in rows] == [0, 1, *whole.outputs["label"].tolist(), None]
    assert (rows[8]["request_id"], rows[8]["error"]) == ("failed", "no")


def test_not_a_number_is_a_value_not_a_null(card: ModelCard, make_record: MakeRecord) -> None:
    features = np.zeros((1, 24), np.float32)
    features[0, 5] = np.nan
    batch = _batch([make_record(rows=1, inputs={"features": features})], card)
    assert batch.column("f5").null_count == 0
    assert np.isnan(batch.column("f5")[0].as_py())


def test_other_memory_layouts_and_dtypes_are_recorded_as_the_card_says(
    card: ModelCard, make_record: MakeRecord
) -> None:
    features = np.asfortranarray(np.arange(48, dtype=np.float64).reshape(2, 24))
    batch = _batch([make_record(rows=2, inputs={"features": features})], card)
    assert batch.column("f1").to_pylist() == [1.0, 25.0]
    assert batch.schema.field("f1").type == pa.float32()


DTYPES = {
    "BOOL": "?", "UINT8": "u1", "INT16": "i2", "UINT32": "u4", "UINT64": "u8", "FP16": "f2",
    "FP64": "f8",
}  # fmt: skip


def test_tensors_of_every_kind_and_strings_go_together(make_record: MakeRecord) -> None:
    tensors = [
        Tensor(name=name, datatype=name, shape=(-1,), columns=(Column(name=f"c_{name}"),))
        for name in [*DTYPES, "BYTES"]
    ]
    card = ModelCard(name="m", inputs=tuple(tensors), outputs=())
    inputs: dict[str, Any] = {name: np.ones(2, dtype) for name, dtype in DTYPES.items()}
    inputs["BYTES"] = np.array([b"caf\xc3\xa9", "x"], object)
    failed = make_record(outputs=None, status=500)
    batch = _batch([failed, make_record(inputs=inputs, outputs={})], card)
    assert batch.column("c_BYTES").to_pylist() == [None, "café", "x"]
    assert batch.column("c_BOOL").to_pylist() == [None, True, True]
    assert batch.column("c_UINT64").to_pylist() == [None, 1, 1]
    assert batch.column("c_FP16").null_count == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": {"features": np.zeros((2, 23), np.float32)}},
        {"inputs": {"other": np.zeros((2, 24), np.float32)}},
        {"inputs": {}},
        {"outputs": {"label": np.zeros(3, np.int64)}},
        {"protocol": "soap"},
        {"latency_us": 2**70},
        {"time": float("nan")},
        {"inputs": {"features": np.zeros((0, 24), np.float32)}},
    ],
    ids=lambda wrong: str(list(wrong)),
)
def test_a_wrong_record_raises_where_nobody_counts(
    wrong: dict[str, Any], card: ModelCard, make_record: MakeRecord
) -> None:
    with pytest.raises(Exception, match=r".+"):
        _batch([make_record(rows=2, **wrong)], card)


@_FIXTURES_ARE_STATELESS
@given(cut=st.integers(0, 3000), flip=st.integers(0, 2999), rows=st.lists(st.integers(1, 3)))
def test_only_whole_frames_are_ever_read(
    cut: int, flip: int, rows: list[int], card: ModelCard, make_record: MakeRecord
) -> None:
    layout = Layout.of(card, model_version="3", arm="stable", pod="p")
    frames = [layout.encode(make_record(f"r{i}", rows=n)).tobytes() for i, n in enumerate(rows)]
    ends = np.cumsum([len(one) for one in frames]).tolist()
    data = b"".join(frames)

    torn = scan(data[:cut])
    assert torn.end == max([end for end in ends if end <= cut], default=0)
    assert torn.rows == sum(n for n, end in zip(rows, ends, strict=True) if end <= cut)

    if flip < len(data):
        broken = bytearray(data)
        broken[flip] ^= 0x40
        spoilt = scan(bytes(broken))
        assert spoilt.end == max([end for end in ends if end <= flip], default=0)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=3),
    top=st.integers(1, 300),
    cut=st.integers(0, 60_000),
    flip=st.integers(0, 60_000),
    seed=st.integers(0, 9),
)
def test_a_large_frame_is_whole_or_it_is_none(
    sizes: list[int], top: int, cut: int, flip: int, seed: int
) -> None:
    """Tensors are not under the CRC but summed, in pieces of any length, and as one when read."""
    bulk = [np.random.default_rng(seed).bytes(4 * size) for size in [*sizes, 5000]]
    made = framed(b"t" * top, bulk, rows=7)
    data = made.tobytes(seq=40)
    assert len(data) == made.size
    assert scan(data, seq=40) == ([0], 7, made.size)
    assert scan(data, seq=41).starts == []
    assert data[PREFIX:] == b"t" * top + b"".join(bulk)
    torn = data[:cut]
    whole = cut >= len(data)
    assert scan(torn).starts == ([0] if whole else [])
    assert scan(torn + bytes(len(data) - len(torn))).starts == ([0] if whole else [])
    broken = bytearray(data)
    broken[flip % len(data)] ^= 0x10
    assert scan(bytes(broken)).starts == []


def test_a_frame_of_a_former_life_is_stale(card: ModelCard, make_record: MakeRecord) -> None:
    layout = Layout.of(card, model_version="3", arm="stable", pod="p")
    one = layout.encode(make_record("r", rows=2))
    now = one.tobytes(seq=101) + one.tobytes(seq=103)
    then = one.tobytes(seq=5) + one.tobytes(seq=7)
    assert scan(now + then, seq=101).rows == 4
    assert scan(then, seq=105).rows == 0


def test_scanning_in_pieces_gives_the_same_rows(card: ModelCard, make_record: MakeRecord) -> None:
    layout = Layout.of(card, model_version="3", arm="stable", pod="p")
    data = b"".join(layout.encode(make_record(f"r{i}", rows=3)).tobytes() for i in range(5))
    first = scan(data, max_rows=7)
    assert first.rows == 6
    rest = scan(data, start=first.end)
    ids = [
        decode(data, found, layout=layout).column("request_id").to_pylist()
        for found in (first, rest)
    ]
    assert sum(ids, []) == [f"r{i}" for i in range(5) for _ in range(3)]
    assert scan(data, max_rows=1).rows == 3  # a frame is never cut, however large


def test_a_layout_survives_the_disk_and_says_what_it_is_not(card: ModelCard) -> None:
    layout = Layout.of(card, model_version="3", arm="stable", pod="p")
    assert Layout.load(layout.dump()) == layout
    for wrong in (b"", b"{}", b"[]", b'{"card": 1}', b'{"card": {}, "other": 1}'):
        with pytest.raises(SchemaError, match="not the layout of records"):
            Layout.load(wrong)


def _body(layout: Layout, *frames: bytes) -> bytes:
    return framed(layout.dump()).tobytes() + b"".join(frames)


def test_frames_behind_their_layout_are_read_as_they_were_meant(
    card: ModelCard, make_record: MakeRecord
) -> None:
    records = [make_record("a", rows=2), make_record("bad", outputs=None, status=500, error="no")]
    layout = Layout.of(card, model_version="3", arm="canary", pod="p-1")
    body = _body(layout, *(layout.encode(record).tobytes() for record in records))
    assert parse_frames(body, rows=3) == _batch(records, card)


@_FIXTURES_ARE_STATELESS
@given(
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6),
    words=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([0, 1, 2**16, 2**32 - 1]))),
)
def test_a_strangers_frames_are_refused_and_never_break_anything(
    changes: list[tuple[int, int]],
    words: list[tuple[int, int]],
    card: ModelCard,
    make_record: MakeRecord,
) -> None:
    """Behind a right checksum anything may lie: what comes of it is a sound batch, or an error."""
    layout = Layout.of(card, model_version="3", arm="stable", pod="p")
    good = layout.encode(make_record("abc", rows=3)).tobytes()[PREFIX:]
    payload = bytearray(good)
    for at, value in changes:
        payload[at % len(payload)] = value
    for at, word in words:
        payload[4 * at : 4 * at + 4] = word.to_bytes(4, "little")
    try:
        batch = parse_frames(
            _body(layout, framed(good, rows=3).tobytes(), framed(bytes(payload), rows=3).tobytes()),
            rows=6,
        )
    except MalformedBatchError:
        return
    batch.validate(full=True)
    assert batch.num_rows == 6


def test_a_few_bytes_that_claim_to_be_many_rows_are_refused() -> None:
    nothing = ModelCard(name="m", inputs=(), outputs=())
    layout = Layout.of(nothing, model_version="1", arm="stable", pod="p")
    head = HEAD.pack(0, 0, 0, 2**32 - 1, 1, 200, 0, 1, 1, 0, -2)
    body = _body(layout, framed(GROUP.pack(1, 2**32 - 1) + head + b"r", rows=2**32 - 1).tobytes())
    with pytest.raises(MalformedBatchError, match="at most"):
        parse_frames(body, rows=2**32 - 1)
    with pytest.raises(MalformedBatchError, match="4294967295 rows in the frames, 1 in"):
        parse_frames(body, rows=1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 64,
        framed(b"[" * 100_000).tobytes() + framed(b"x" * 60, rows=1).tobytes(),
        framed(b"{}").tobytes() + framed(b"x" * 60, rows=1).tobytes(),
    ],
    ids=["nothing", "zeros", "deep", "no-layout"],
)
def test_what_is_no_frames_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBatchError):
        parse_frames(body, rows=1)


def test_zeros_are_not_frames() -> None:
    assert scan(framed(b"").tobytes()).starts == []  # a file of zeros is not a row of empty frames
    assert scan(bytes(4096)).starts == []


def test_decoding_does_not_import_pandas() -> None:
    """Which Arrow would, for an array of numpy's: seconds of CPU beside the first predictions."""
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from coalmine.modeldir import Column, ModelCard, Tensor
        from coalmine.records import InferenceRecord, record_batch

        def tensor(name, datatype):
            columns = (Column(name=f"c_{name}"),)
            return Tensor(name=name, datatype=datatype, shape=(-1,), columns=columns)

        card = ModelCard(
            name="m", inputs=(tensor("x", "FP32"), tensor("b", "BOOL"), tensor("t", "BYTES")),
            outputs=(tensor("y", "INT64"),))
        inputs = {"x": np.ones(2, "f4"), "b": np.ones(2, "?"), "t": np.array([b"a", b"b"], object)}
        records = [
            InferenceRecord("r", 1.0, "v2", 1, inputs, {"y": np.ones(2, "i8")}),
            InferenceRecord("s", 1.0, "v2", 1, {}, None, status=500, error="no"),
        ]
        assert record_batch(records, card=card, model_version="1", arm="stable").num_rows == 3
        assert "pandas" not in sys.modules
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_block_of_callers_is_kept_and_an_unknown_one_is_null(
    card: ModelCard, make_record: MakeRecord
) -> None:
    records = [
        make_record("known", rows=2, caller=17),
        make_record("none", rows=1, caller=CALLER_NONE),
        make_record("unknown", rows=1),
    ]
    batch = _batch(records, card)
    assert batch.column("caller_block").to_pylist() == [17, 17, -1, None]


def test_frames_of_the_version_before_are_read(card: ModelCard, make_record: MakeRecord) -> None:
    """What waits in a spool while a server is replaced by one of the next version."""
    frame = Layout.of(card, model_version="1", arm="stable", pod="p").encode(
        make_record("old", rows=1)
    )
    payload = frame.tobytes()[PREFIX:]
    caller = GROUP.size + HEAD.size - 2
    old = framed(payload[:caller] + payload[caller + 2 :], rows=1).tobytes()
    dumped = json.loads(Layout.of(card, model_version="1", arm="stable", pod="p").dump())
    dumped["version"] = 3
    layout = Layout.load(json.dumps(dumped).encode())
    (row,) = decode(old, scan(old), layout=layout).to_pylist()
    assert (row["request_id"], row["caller_block"]) == ("old", None)
    assert row["label"] is not None
