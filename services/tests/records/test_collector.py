"""The collector over HTTP: what it takes, what it refuses, and how."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from coalmine.clock import ManualClock
from coalmine.modeldir import ModelCard
from coalmine.records import (
    BatchId,
    LogFullError,
    RecordLog,
    Retention,
    create_collector,
    open_log,
)
from coalmine.records import _collector as collector_module
from coalmine.records._frame import Layout
from coalmine.records._framing import framed

from .calls import collecting

MakeBatch = Callable[..., pa.RecordBatch]


@pytest.fixture
async def client(log: RecordLog, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    async with collecting(log, clock) as opened:
        yield opened


def _stream(*batches: pa.RecordBatch, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


async def _post(client: httpx.AsyncClient, body: bytes, batch: str, **headers: str) -> Any:
    return await client.post(
        "/v1/records", content=body, headers={"x-coalmine-batch": batch, **headers}
    )


async def test_a_batch_is_taken_once(
    client: httpx.AsyncClient, log: RecordLog, make_batch: MakeBatch
) -> None:
    body = _stream(make_batch(["a", "b"]))
    for _ in range(2):
        answer = await _post(client, body, "e:1-2", **{"x-coalmine-dropped": "7"})
        assert (answer.status_code, answer.json()) == (200, {"offset": 1})
    stats = (await client.get("/v1/records/stats")).json()
    assert stats.pop("bytes") > 0
    emitter = {"last_seq": 2, "rows": 2, "dropped": 7}
    assert stats == {"rows": 2, "batches": 1, "labels": 0, "emitters": {"e": emitter}}


async def test_a_stream_of_several_compressed_batches_is_one_batch(
    client: httpx.AsyncClient, log: RecordLog, make_batch: MakeBatch
) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    body = _stream(make_batch(["a"]), make_batch(["b", "c"]), options=options)
    assert (await _post(client, body, "e:1-3")).status_code == 200
    assert log.stats().rows == 3


async def test_malformed_bytes_are_the_senders_mistake(
    client: httpx.AsyncClient, log: RecordLog, make_batch: MakeBatch
) -> None:
    good = _stream(make_batch(["a"]))
    bodies = [b"", b"hello", good[:-20], good[: len(good) // 2], good[:8], b"\xff" * 500]
    for at in range(0, len(good), 97):  # flip bits all over: never a 500, never a crash
        spoilt = bytearray(good)
        spoilt[at] ^= 0x80
        bodies.append(bytes(spoilt))
    for body in bodies:
        answer = await _post(client, body, "e:1-1")
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert set(answer.json()) == {"error"}
    assert log.stats().rows <= 1


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "x-coalmine-batch: '' is not a batch id"),
        ({"x-coalmine-batch": "e:2-1"}, "x-coalmine-batch: 'e:2-1' is not a batch id"),
        ({"x-coalmine-batch": "e:1-2"}, "e:1-2 has 2 rows, the batch 1"),
        ({"x-coalmine-batch": "e:1-1", "x-coalmine-dropped": "-1"}, "x-coalmine-dropped: '-1'"),
    ],
)
async def test_wrong_headers_are_refused(
    headers: dict[str, str], message: str, client: httpx.AsyncClient, make_batch: MakeBatch
) -> None:
    answer = await client.post("/v1/records", content=_stream(make_batch(["a"])), headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize("name", ["true_label", "day", "Model", ""])
async def test_a_column_that_would_break_readers_is_refused(
    name: str, client: httpx.AsyncClient, log: RecordLog, make_batch: MakeBatch
) -> None:
    batch = make_batch(["a", "b"])
    answer = await _post(client, _stream(batch.append_column(name, pa.array([1.0, 2.0]))), "e:1-2")
    assert answer.status_code == 400
    assert answer.json() == {
        "error": f"column {name!r} has a name that records keep for themselves"
    }
    beside = _stream(batch.append_column("F0", pa.array([1.0, 2.0])))
    assert (await _post(client, beside, "e:1-2")).status_code == 200


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("model_name", "", "column 'model_name' holds no name"),
        ("model_version", "__HIVE_DEFAULT_PARTITION__", "column 'model_version' holds no name"),
        ("time", 2**62, "column 'time' has a year that is not from 1 to 9999"),
    ],
)
async def test_a_value_that_would_break_readers_is_refused(
    column: str, value: Any, told: str, client: httpx.AsyncClient, make_batch: MakeBatch
) -> None:
    batch = make_batch(["a", "b"])
    index = batch.schema.get_field_index(column)
    field = batch.schema.field(index)
    if isinstance(value, int):
        wrong = pa.array([value, value], pa.int64()).cast(field.type)
    else:
        wrong = pa.array([value, value], field.type)
    answer = await _post(client, _stream(batch.set_column(index, field, wrong)), "e:1-2")
    assert (answer.status_code, answer.json()) == (400, {"error": told})


async def test_labels_are_taken_by_name_and_index(
    client: httpx.AsyncClient, log: RecordLog, make_batch: MakeBatch
) -> None:
    await _post(client, _stream(make_batch(["a", "b"])), "e:1-2")
    labels = [
        {"request_id": "a", "row": 0, "label": "normal", "time": 5},
        {"request_id": "b", "label": 1},
        {"request_id": "b", "label": "internal_short"},
        {"request_id": "nobody", "label": "normal"},
    ]
    answer = await client.post("/v1/labels", json={"labels": labels})
    assert answer.json() == {"accepted": 2, "repeated": 1, "corrected": 0, "unknown": 1}
    stored = log.labels_after(0, 10)
    assert [(label.label, label.time) for label in stored] == [
        ("normal", 5.0), ("internal_short", 10_000.0), ("normal", 10_000.0),
    ]  # fmt: skip


async def test_a_correction_without_a_time_wins_though_the_clock_was_set_back(
    client: httpx.AsyncClient, log: RecordLog, clock: ManualClock, make_batch: MakeBatch
) -> None:
    await _post(client, _stream(make_batch(["a"])), "e:1-1")
    await client.post("/v1/labels", json={"labels": [{"request_id": "a", "label": "normal"}]})
    clock.jump(-3600.0)
    labels = [{"request_id": "a", "label": "cooling_failure"}]
    answer = await client.post("/v1/labels", json={"labels": labels})
    assert answer.json()["corrected"] == 1
    assert log.labelled().column("true_label").to_pylist() == ["cooling_failure"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"{}", "not a list of labels"),
        (b'{"labels": [{"request_id": "\\ud800", "label": "x"}]}', "not JSON"),
        (b'{"labels": [{"label": "x"}]}', "row 1, column 'request_id': missing"),
        (b'{"labels": [{"request_id": "a", "label": ""}]}', "row 1, column 'label': must be"),
        (b'{"labels": [{"request_id": "a", "label": "x", "row": -1}]}', "row 1, column 'row': -1"),
        (b'{"labels": [{"request_id": "a", "label": "x", "time": 1e999}]}', "not JSON"),
        (
            b'{"labels": [{"request_id": "a", "label": "x"},'
            b' {"request_id": "a", "label": "x", "time": 10301}]}',
            "row 2, column 'time': 10301 is in the future",
        ),
        (
            b'{"labels": [{"request_id": "a", "label": "x", "lable": 1}]}',
            "column 'lable': unknown",
        ),
    ],
)
async def test_wrong_labels_are_refused_by_key(
    body: bytes, message: str, client: httpx.AsyncClient, log: RecordLog
) -> None:
    answer = await client.post("/v1/labels", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert log.stats().labels == 0


async def test_a_body_has_a_limit(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "_MAX_BODY", 1000)
    monkeypatch.setattr(collector_module, "_MAX_LABELS", 1000)
    assert (await _post(client, b"x" * 1001, "e:1-1")).status_code == 413
    assert (await client.post("/v1/labels", content=b"x" * 1001)).status_code == 413


class _Stuck:
    """A log whose disk answers when it is let."""

    def __init__(self, log: RecordLog) -> None:
        self._log = log
        self.freed = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append_all(self, batches: Any) -> Any:
        assert self.freed.wait(10)
        return self._log.append_all(batches)


async def test_a_log_that_is_behind_asks_to_wait(
    log: RecordLog, clock: ManualClock, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = _stream(make_batch(["a"]))
    monkeypatch.setattr(collector_module, "_MAX_WAITING", 2 * len(body))
    stuck = _Stuck(log)
    async with collecting(stuck, clock) as client:
        waiting = [asyncio.create_task(_post(client, body, f"e{n}:1-1")) for n in range(2)]
        await asyncio.sleep(0.1)
        refused = await _post(client, body, "e2:1-1")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        stuck.freed.set()
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (await _post(client, body, "e2:1-1")).status_code == 200
    assert log.stats().rows == 3


async def test_a_client_that_leaves_does_not_disturb_others(
    log: RecordLog, clock: ManualClock, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = _stream(make_batch(["a"]))
    monkeypatch.setattr(collector_module, "_MAX_WAITING", 2 * len(body))
    stuck = _Stuck(log)
    async with collecting(stuck, clock) as client:
        tasks = [asyncio.create_task(_post(client, body, f"e{n}:1-1")) for n in range(2)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        third = asyncio.create_task(_post(client, body, "e2:1-1"))
        stuck.freed.set()
        assert (await tasks[1]).status_code == 200
        assert (await third).status_code == 200


@pytest.mark.parametrize("path", ["/v1/records", "/v1/events", "/v1/labels"])
async def test_who_leaves_in_the_middle_of_a_body_is_no_fault_of_ours(
    path: str, log: RecordLog, clock: ManualClock
) -> None:
    app = create_collector(log, clock=clock)
    pieces = iter(
        [{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(pieces)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"x-coalmine-batch", b"e:1-1")],
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)  # what it raised would be logged, with its traceback
    assert (sent[0]["status"], log.stats().rows) == (499, 0)


async def test_a_full_disk_is_503_and_nothing_is_half_stored(
    tmp_path: Path, clock: ManualClock, make_batch: MakeBatch
) -> None:
    log: Any = open_log(f"sqlite:///{tmp_path / 'small.db'}")
    pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to a full disk
    async with collecting(log, clock) as client:
        body = _stream(make_batch([f"r{i}" for i in range(2000)]))
        answer = await _post(client, body, "e:1-2000")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "full" in answer.json()["error"]
        assert (await client.get("/v1/records/stats")).json()["rows"] == 0
        with pytest.raises(LogFullError):
            log.append(make_batch(["x"] * 3000), batch_id=BatchId("e", 1, 3000))
        log._writer.execute("PRAGMA max_page_count = 1000000")
        assert (await _post(client, body, "e:1-2000")).status_code == 200
    assert log.stats().rows == 2000
    log.close()


async def test_a_log_that_is_locked_is_503(
    log: RecordLog, client: httpx.AsyncClient, make_batch: MakeBatch
) -> None:
    log.close()
    answer = await _post(client, _stream(make_batch(["a"])), "e:1-1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_health_and_metrics(client: httpx.AsyncClient, make_batch: MakeBatch) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    await _post(client, _stream(make_batch(["a", "b"])), "e:1-2")
    await _post(client, b"bad", "e:3-3")
    await client.post("/v1/labels", json={"labels": [{"request_id": "a", "label": "normal"}]})
    text = (await client.get("/metrics")).text
    for line in (
        'coalmine_collector_requests_total{result="ok",route="records"} 1.0',
        'coalmine_collector_requests_total{result="error",route="records"} 1.0',
        "coalmine_collector_rows_total 2.0",
        'coalmine_labels_total{fate="accepted"} 1.0',
        "coalmine_log_append_seconds_count 2.0",
        "coalmine_log_rows 2.0",
        "coalmine_log_labels 1.0",
    ):
        assert line in text.splitlines()


async def test_retention_runs_beside_the_app(
    log: RecordLog, clock: ManualClock, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    append(make_batch(["a"]))
    retention = Retention(max_bytes=0, archive=tmp_path / "archive", interval=0.01)
    async with collecting(log, clock, retention=retention):
        for _ in range(500):
            if log.stats().rows == 0:
                break
            await asyncio.sleep(0.01)
    assert log.stats().rows == 0
    assert list((tmp_path / "archive").rglob("*.parquet"))


async def test_an_emitters_frames_are_taken_like_arrow(
    client: httpx.AsyncClient, log: RecordLog, card: ModelCard, make_record: Callable[..., Any]
) -> None:
    layout = Layout.of(card, model_version="3", arm="stable", pod="p")
    body = framed(layout.dump()).tobytes() + layout.encode(make_record("a", rows=2)).tobytes()
    kind = {"content-type": "application/vnd.coalmine.frames"}
    assert (await _post(client, body, "e:1-2", **kind)).json() == {"offset": 1}
    ((_, batch),) = log.read(0, limit_rows=10)
    assert batch.column("request_id").to_pylist() == ["a", "a"]
    for wrong, rows in ((body[:-1], "e:3-4"), (body, "e:3-5"), (b"", "e:3-4")):
        answer = await _post(client, wrong, rows, **kind)
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert log.stats().rows == 2
