"""After a batch each request gets its own answer, count and record, whatever befalls others."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK
from coalmine.protocol import Tensors
from coalmine.records import RecordEmitter
from coalmine.records._decode import decode
from coalmine.records._frame import Layout
from coalmine.records._framing import scan
from coalmine.serving import Servable, ServeOptions
from coalmine.serving._delivery import Request
from coalmine.serving._metrics import ServerMetrics


@dataclass
class Hosted:
    servable: Servable
    spool: Path
    metrics: ServerMetrics
    layout: Layout
    emitter: RecordEmitter
    replies: dict[str, Any] = field(default_factory=dict)

    def request(self, name: str, values: list[list[float]], **more: Any) -> Request:
        encode = more.pop("encode", lambda outputs: outputs["label"].tolist())
        return Request(
            {"features": np.array(values, np.float32)},
            len(values),
            size=16 * len(values),
            protocol=more.pop("protocol", "v2"),
            request_id=name,
            arrived=SYSTEM_CLOCK.monotonic(),
            encode=encode,
            **more,
        )

    async def ask(self, *requests: Request) -> list[Any]:
        """The replies to requests that arrive in one turn."""

        async def one(request: Request) -> Any:
            await self.servable.answer(request)
            return request.reply

        return await asyncio.gather(*map(one, requests), return_exceptions=True)

    def records(self) -> list[dict[str, Any]]:
        (segment,) = self.spool.glob("*.frames")
        data = segment.read_bytes()
        begin = scan(data, max_frames=1).end
        found = scan(data, start=begin)
        rows: list[dict[str, Any]] = decode(data, found, layout=self.layout).to_pylist()
        return rows


@pytest.fixture
async def hosted(model_dir: Path, tmp_path: Path) -> AsyncIterator[Hosted]:
    servable = Servable.load(ServeOptions(model=str(model_dir), version="7", inline="always"))
    metrics = ServerMetrics(CollectorRegistry())
    spool = tmp_path / "spool"
    emitter = RecordEmitter(
        spool, "http://127.0.0.1:9", card=servable.card, model_version="7", arm="stable", pod="p"
    )
    servable.host(
        arm=Arm.STABLE,
        metrics=metrics.of_model(model_name="toy", revision="7", arm="stable"),
        emitter=emitter,
    )
    layout = Layout.of(servable.card, model_version="7", arm="stable", pod="p")
    made = Hosted(servable, spool, metrics, layout, emitter)
    yield made
    servable.close()


def rows(seed: int, count: int) -> list[list[float]]:
    values: list[list[float]] = np.random.default_rng(seed).normal(size=(count, 4)).tolist()
    return values


async def test_each_request_of_a_batch_is_answered_and_recorded_as_itself(
    hosted: Hosted, truth: Any
) -> None:
    asked = {f"r{n}": rows(n, n) for n in (1, 2, 3)}
    protocols = dict(zip(asked, ("v1", "v2", "grpc"), strict=True))
    replies = await hosted.ask(
        *(hosted.request(n, v, protocol=protocols[n]) for n, v in asked.items())
    )
    assert replies == [truth(values)[0] for values in asked.values()]
    kept = hosted.records()
    assert [(row["request_id"], row["row"]) for row in kept] == [
        (name, index) for name, values in asked.items() for index in range(len(values))
    ]
    for row in kept:
        assert row["protocol"] == protocols[row["request_id"]]
        assert row["batch_rows"] == 6
        assert row["status"] == 200
        assert row["latency_us"] >= row["queue_us"] >= 0
        values = np.float32(asked[row["request_id"]][row["row"]])
        assert [row[f"f{i}"] for i in range(4)] == values.tolist()
        assert row["label"] == truth([values])[0][0]


async def test_an_answer_that_cannot_be_written_fails_alone_and_is_no_record(
    hosted: Hosted,
) -> None:
    def broken(outputs: Tensors) -> Any:
        raise UnicodeError("not text")

    replies = await hosted.ask(
        hosted.request("a", rows(1, 2)),
        hosted.request("bad", rows(2, 1), encode=broken),
        hosted.request("c", rows(3, 1)),
    )
    assert isinstance(replies[1], UnicodeError)
    assert [len(replies[0]), len(replies[2])] == [2, 1]
    kept = hosted.records()
    assert [row["request_id"] for row in kept] == ["a", "a", "c"]
    assert [row["f0"] for row in kept] == [
        float(np.float32(v[0])) for v in (*rows(1, 2), *rows(3, 1))
    ]


async def test_who_has_left_is_neither_answered_nor_recorded(hosted: Hosted) -> None:
    stays, leaves = hosted.request("stays", rows(1, 1)), hosted.request("leaves", rows(2, 2))
    tasks = [asyncio.create_task(hosted.servable.answer(request)) for request in (leaves, stays)]
    await asyncio.sleep(0)  # both wait for the end of the turn
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [row["request_id"] for row in hosted.records()] == ["stays"]


async def test_the_record_is_on_disk_before_the_answer_can_leave(hosted: Hosted) -> None:
    request = hosted.request("r", rows(1, 1))
    seen: list[int] = []

    async def caller() -> None:
        await hosted.servable.answer(request)
        seen.append(len(hosted.records()))

    await caller()
    assert seen == [1]


async def test_what_is_counted(hosted: Hosted) -> None:
    await hosted.ask(*(hosted.request(f"r{n}", rows(n, 2), protocol="grpc") for n in range(3)))
    await hosted.ask(hosted.request("lone", rows(9, 1)))
    text = (await hosted.metrics.render()).decode()
    labels = 'model_name="toy",revision="7",arm="stable"'
    lines = {
        line.rpartition(" ")[0]: float(line.split()[-1])
        for line in text.splitlines()[1:]
        if line[0] != "#"
    }

    def value(name: str, **more: str) -> float:
        wanted = {*labels.split(","), *(f'{key}="{text}"' for key, text in more.items())}
        (found,) = (
            count
            for key, count in lines.items()
            if key.partition("{")[0] == name
            and set(key.partition("{")[2].rstrip("}").split(",")) == wanted
        )
        return found

    assert value("coalmine_requests_total", protocol="grpc", status="200") == 3
    assert value("coalmine_requests_total", protocol="v2", status="200") == 1
    assert value("coalmine_request_duration_seconds_count", protocol="grpc") == 3
    assert value("coalmine_batch_rows_sum") == 3 * 6 + 1
    assert value("coalmine_batch_rows_count") == 4
    assert value("coalmine_batch_rows_bucket", le="1.0") == 1
    assert value("coalmine_batch_rows_bucket", le="8.0") == 4
    assert value("coalmine_batch_rows_bucket", le="+Inf") == 4
    assert value("coalmine_queue_duration_seconds_count") == 4
    assert value("coalmine_requests_shed_total", reason="deadline") == 0
    # KServe's own name, of all versions together.
    assert lines['request_predict_seconds_count{model_name="toy"}'] == 4
    assert lines['request_predict_seconds_sum{model_name="toy"}'] > 0
    assert not any(key.startswith("request_preprocess_seconds") for key in lines)


async def test_an_answered_request_is_forgotten_at_once(hosted: Hosted) -> None:
    """With its tensors: what waits for the collector of cycles is memory for many more requests."""
    gc.collect()
    gc.disable()
    try:
        requests = [hosted.request(f"r{n}", rows(n, 1)) for n in range(3)]
        tensors = [weakref.ref(request.tensors["features"]) for request in requests]
        await hosted.ask(*requests)
        del requests
        assert [reference() for reference in tensors] == [None, None, None]
    finally:
        gc.enable()
