"""Labels in every format: over HTTP, in one piece or many, with the mistake named."""

from __future__ import annotations

import gc
import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coalmine.clock import ManualClock
from coalmine.records import (
    Label,
    MalformedLabelsError,
    RecordLog,
    check_labels,
    create_collector,
    label_format,
    read_labels,
)

MakeBatch = Callable[..., pa.RecordBatch]

ROWS: list[dict[str, Any]] = [
    {"request_id": "a", "label": "normal", "row": 0, "time": 5.0},
    {"request_id": "b", "label": "1", "row": None, "time": None},
    {"request_id": "nobody", "label": "normal", "row": 3, "time": 7.5},
]


def _table() -> pa.Table:
    types = (("request_id", pa.string()), ("label", pa.string()), ("row", pa.int64()))
    return pa.Table.from_pylist(ROWS, pa.schema([*types, ("time", pa.float64())]))


def _csv() -> bytes:
    lines = ["request_id,label,row,time,remark"]
    lines += [
        ",".join("" if value is None else str(value) for value in [*row.values(), "x"])
        for row in ROWS
    ]
    return "\r\n".join(lines).encode("utf-8-sig")


def _json_lines() -> bytes:
    return "\n\n".join(json.dumps(row) for row in ROWS).encode()


def _parquet(table: pa.Table | None = None, **more: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(_table() if table is None else table, sink, **more)
    return sink.getvalue()


def _arrow(make: Callable[..., Any], table: pa.Table | None = None, *, rows: int = 2) -> bytes:
    table = _table() if table is None else table
    sink = io.BytesIO()
    with make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


FORMATS: dict[str, Callable[[], bytes]] = {
    "text/csv": _csv,
    "application/json": lambda: json.dumps({"labels": ROWS}).encode(),
    "application/json; charset=utf-8": lambda: json.dumps(ROWS).encode(),
    "application/x-ndjson": _json_lines,
    "application/vnd.apache.parquet": _parquet,
    "application/vnd.apache.arrow.stream": lambda: _arrow(pa.ipc.new_stream),
    "application/vnd.apache.arrow.file": lambda: _arrow(pa.ipc.new_file),
}


@asynccontextmanager
async def _client(log: RecordLog, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    app = create_collector(log, clock=clock)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        yield client


@pytest.mark.parametrize("media", FORMATS)
async def test_every_format_means_the_same(
    media: str, log: RecordLog, clock: ManualClock, append: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a", "b"]))
    async with _client(log, clock) as client:
        for fates in ((2, 0, 0, 1), (0, 3, 0, 0)):
            answer = await client.post(
                "/v1/labels", content=FORMATS[media](), headers={"content-type": media}
            )
            assert answer.status_code == 200, answer.text
            assert tuple(answer.json().values()) == fates
    assert [label[:4] for label in log.labels_after(0, 10)] == [
        ("a", "normal", 5.0, 0), ("b", "internal_short", 10_000.0, 0), ("nobody", "normal", 7.5, 3)
    ]  # fmt: skip


async def test_a_type_that_is_none_of_them(log: RecordLog, clock: ManualClock) -> None:
    async with _client(log, clock) as client:
        answer = await client.post("/v1/labels", content=b"x", headers={"content-type": "text/xml"})
        assert answer.status_code == 400
        assert "'text/xml'; allowed: text/csv, application/json" in answer.json()["error"]
        plain = {"content-type": "application/x-www-form-urlencoded"}  # curl --data
        body = json.dumps({"labels": ROWS})
        assert (await client.post("/v1/labels", content=body, headers=plain)).status_code == 200


def _wrong(**columns: Any) -> pa.Table:
    return pa.table({"request_id": ["a", "b"], "label": ["x", "y"], **columns})


@pytest.mark.parametrize(
    ("media", "content", "message"),
    [
        ("text/csv", b"id,label\na,x\n", "column 'request_id' is missing; there are: id, label"),
        ("text/csv", b"", "column 'request_id' is missing; there are: none"),
        ("text/csv", b"request_id,label\na,x\nb\n", "row 2, column 'label': missing"),
        ("text/csv", b"request_id,label\na,x,y\n", "row 1: more values than columns"),
        ("text/csv", b"request_id,label,row\na,x,-1\n", "row 1, column 'row': '-1'"),
        (
            "text/csv",
            b"request_id,label,row\na,x,1.5\n",
            "column 'row': '1.5' is not a",
        ),
        ("text/csv", b"request_id,label,time\na,x,soon\n", "row 1, column 'time': 'soon'"),
        ("text/csv", b'request_id,label\n"a,x\n', "row 1: not CSV"),
        ("text/csv", b"request_id,label\na,\xff\n", "not CSV in UTF-8"),
        ("text/csv", b"request_id,label,label\na,x,y\n", "column 'label' is there 2 times"),
        (
            "application/vnd.apache.parquet",
            _parquet(pa.table([["a"], ["x"], ["y"]], names=["request_id", "label", "label"])),
            "column 'label' is there 2 times",
        ),
        ("application/x-ndjson", b'{"request_id": "a", "label": 1}\n{"la', "row 2: not JSON"),
        ("application/x-ndjson", b"3", "row 1: a label must be a JSON object"),
        (
            "application/json",
            b'[{"request_id": "a", "label": [1]}]',
            "'label': [1], where a text",
        ),
        ("application/json", b'[{"request_id": "a", "label": true}]', "row 1, column 'label'"),
        ("application/vnd.apache.parquet", b"PAR1 no", "not Parquet"),
        ("application/vnd.apache.parquet", _parquet()[:-9], "not Parquet"),
        (
            "application/vnd.apache.parquet",
            _parquet(_wrong(row=[0, -4])),
            "row 2, column 'row': -4 is not a place",
        ),
        (
            "application/vnd.apache.parquet",
            _parquet(pa.table({"request_id": ["a", None], "label": ["x", "y"]})),
            "row 2, column 'request_id': missing",
        ),
        ("application/vnd.apache.arrow.stream", b"\xff" * 40, "not Arrow"),
        (
            "application/vnd.apache.arrow.stream",
            _arrow(pa.ipc.new_stream, _wrong(time=[[1], [2]])),
            "row 1, column 'time': [1] is not a time",
        ),
    ],
)
async def test_a_mistake_is_named_and_nothing_is_stored(
    media: str, content: bytes, message: str, log: RecordLog, clock: ManualClock
) -> None:
    async with _client(log, clock) as client:
        answer = await client.post("/v1/labels", content=content, headers={"content-type": media})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert log.stats().labels == 0


async def test_a_mistake_at_the_end_of_many_stores_none(log: RecordLog, clock: ManualClock) -> None:
    lines = ["request_id,label", *(f"r{number},1" for number in range(25_000)), "last,"]
    async with _client(log, clock) as client:
        headers = {"content-type": "text/csv"}
        answer = await client.post("/v1/labels", content="\n".join(lines), headers=headers)
    assert "row 25001, column 'label': missing" in answer.json()["error"]
    assert log.stats().labels == 0


TWICE: dict[str, Callable[[pa.Table], bytes]] = {
    "text/csv": lambda table: "\n".join(
        ["request_id,label,row,time", *(",".join(map(str, r.values())) for r in table.to_pylist())]
    ).encode(),
    "application/json": lambda table: json.dumps(table.to_pylist()).encode(),
    "application/x-ndjson": lambda table: b"\n".join(
        json.dumps(row).encode() for row in table.to_pylist()
    ),
    "application/vnd.apache.parquet": _parquet,
    "application/vnd.apache.arrow.stream": lambda table: _arrow(
        pa.ipc.new_stream, table, rows=7_000
    ),
    "application/vnd.apache.arrow.file": lambda table: _arrow(pa.ipc.new_file, table, rows=7_000),
}


def _twice(*, label: str, time: float, row: int = 2) -> pa.Table:
    """10,100 labels, further apart than a piece is long, and one more for the third of them."""
    return pa.table(
        {
            "request_id": [*(f"r{n}" for n in range(10_100)), "r2"],
            "label": ["1"] * 10_100 + [label],
            "row": [*[2] * 10_100, row],
            "time": [5.0] * 10_100 + [time],
        }
    )


@pytest.mark.parametrize("media", TWICE)
async def test_two_labels_of_one_row_at_one_time_are_refused(
    media: str, log: RecordLog, clock: ManualClock
) -> None:
    headers = {"content-type": media}
    async with _client(log, clock) as client:
        body = TWICE[media](_twice(label="0", time=5.0))
        answer = await client.post("/v1/labels", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(
            "row 10101: request 'r2', row 2 is '0' here and '1' in row 3. Which one holds?"
        )
        assert log.stats().labels == 0


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"label": "1", "time": 5.0}, "repeated"),
        ({"label": "0", "time": 6.0}, "corrected"),
        ({"label": "0", "time": 4.0}, "repeated"),
        ({"label": "0", "time": 5.0, "row": 3}, "unknown"),
    ],
    ids=["the same", "newer", "older", "another row"],
)
async def test_what_does_not_contradict_is_taken(
    change: dict[str, Any], counted: str, log: RecordLog, clock: ManualClock
) -> None:
    async with _client(log, clock) as client:
        body = _parquet(_twice(**change))
        headers = {"content-type": "application/vnd.apache.parquet"}
        answer = await client.post("/v1/labels", content=body, headers=headers)
    expected = dict.fromkeys(("accepted", "repeated", "corrected"), 0) | {"unknown": 10_100}
    expected[counted] += 1
    assert answer.json() == expected


async def test_an_index_is_the_class_that_it_names(
    log: RecordLog, clock: ManualClock, append: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a"]))
    async with _client(log, clock) as client:
        for name, status in (("internal_short", 200), ("normal", 400)):
            rows = [{"request_id": "a", "label": 1}, {"request_id": "a", "label": name}]
            answer = await client.post("/v1/labels", json=rows)
            assert answer.status_code == status
        assert "is 'normal' here and 'internal_short' in row 1" in answer.json()["error"]
    file = io.BytesIO(json.dumps(rows).encode())  # who knows no classes cannot say
    assert check_labels(file, "json", now=1.0) == 2


def test_many_contradictions_are_counted_and_three_are_named() -> None:
    rows = [f'{{"request_id": "r{n}", "label": {n % 2}}}' for n in range(7)]
    rows += ["", *(row.replace('": 0}', '": 2}') for row in rows)]
    with pytest.raises(MalformedLabelsError) as error:
        check_labels(io.BytesIO("\n".join(rows).encode()), "jsonl", now=1.0)
    assert str(error.value).startswith(
        "row 9: request 'r0', row 0 is '2' here and '0' in row 1; row 11: request 'r2', "
    )
    assert "; and 1 more. Which" in str(error.value)


def test_times_of_every_kind() -> None:
    moment = 1_700_000_000.5
    table = pa.table(
        {
            "request_id": pa.array(["a", "b"]).dictionary_encode(),
            "label": [1.0, 2.0],  # what pandas makes of whole numbers with gaps
            "time": pa.array([round(moment * 1e6)] * 2, pa.timestamp("us", tz="UTC")),
        }
    )
    expected = [[Label("a", "1", moment), Label("b", "2", moment)]]
    assert list(read_labels(io.BytesIO(_parquet(table)), "parquet", now=moment)) == expected
    for unit, zone in (("ns", None), ("ms", "Nowhere/There")):
        times = pa.array([moment * 1000] * 2).cast(pa.int64()).cast(pa.timestamp("ms"))
        odd = table.set_column(2, "time", times.cast(pa.timestamp(unit, zone)))
        assert list(read_labels(io.BytesIO(_parquet(odd)), "parquet", now=moment)) == expected
    finer = pa.array([round(moment * 1e9) + 1] * 2, pa.timestamp("ns"))  # Python's have no such
    (read,) = read_labels(
        io.BytesIO(_parquet(table.set_column(2, "time", finer))), "parquet", now=moment
    )
    assert [label.time for label in read] == pytest.approx([moment] * 2)
    text = b"request_id,label,time\na,1,2023-11-14T22:13:20.5Z\nb,2,1700000000.5\n"
    assert list(read_labels(io.BytesIO(text), "csv", now=moment)) == expected
    naive = b'{"request_id": "a", "label": 1, "time": "2023-11-14T22:13:20.5"}'
    assert next(read_labels(io.BytesIO(naive), "jsonl", now=moment)) == expected[0][:1]


def test_memory_does_not_grow_with_the_file() -> None:
    """200,000 labels as objects would be some 60 MB."""
    table = pa.table(
        {"request_id": [f"request-{number}" for number in range(200_000)], "label": ["1"] * 200_000}
    )
    file = io.BytesIO(_parquet(table, row_group_size=20_000))
    del table
    gc.collect()
    tracemalloc.start()
    count = sum(len(piece) for piece in read_labels(file, "parquet", now=0.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200_000
    assert peak < 20_000_000


def test_a_format_is_known_by_a_files_ending() -> None:
    assert label_format(".PARQUET") == "parquet"
    with pytest.raises(MalformedLabelsError, match=r"allowed: \.csv, \.json, \.jsonl"):
        label_format(".xlsx")


def test_a_label_may_be_a_number_for_a_model_that_answers_with_one() -> None:
    body = b'[{"request_id": "a", "label": 1.5}, {"request_id": "b", "label": -2.0}]'
    (labels,) = read_labels(io.BytesIO(body), "json", now=5.0)
    assert [label.label for label in labels] == ["1.5", "-2"]
