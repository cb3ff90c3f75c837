"""A model card of 24 features, records of it, and collectors that can be in a bad mood."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn

from coalmine.clock import ManualClock
from coalmine.modeldir import Column, ModelCard, Tensor, write_card
from coalmine.records import (
    BatchId,
    InferenceRecord,
    RecordLog,
    create_collector,
    open_log,
    record_batch,
)

from .calls import collecting

CLASSES = ("normal", "internal_short", "cooling_failure")

MakeRecord = Callable[..., InferenceRecord]
MakeBatch = Callable[..., pa.RecordBatch]


def _card(features: int = 24) -> ModelCard:
    return ModelCard(
        name="ev-battery",
        inputs=(
            Tensor(
                name="features",
                datatype="FP32",
                shape=(-1, features),
                columns=tuple(Column(name=f"f{i}") for i in range(features)),
            ),
        ),
        outputs=(
            Tensor(
                name="label",
                datatype="INT64",
                shape=(-1,),
                columns=(Column(name="label", type="categorical", categories=CLASSES),),
            ),
            Tensor(
                name="probabilities",
                datatype="FP32",
                shape=(-1, 3),
                columns=tuple(Column(name=f"p_{name}") for name in CLASSES),
            ),
        ),
    )


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    return _card


@pytest.fixture
def card() -> ModelCard:
    return _card()


@pytest.fixture
def make_record() -> MakeRecord:
    def make(
        request_id: str = "r", *, rows: int = 8, features: int = 24, seed: int = 0, **more: Any
    ) -> InferenceRecord:
        random = np.random.default_rng(seed)
        fields: dict[str, Any] = {
            "time": 1000.0,
            "protocol": "v2",
            "latency_us": 750,
            "queue_us": 20,
            "batch_rows": rows,
            "inputs": {"features": random.normal(size=(rows, features)).astype(np.float32)},
            "outputs": {
                "label": np.arange(rows, dtype=np.int64) % 3,
                "probabilities": random.random((rows, 3), np.float32),
            },
        }
        return InferenceRecord(request_id=request_id, **{**fields, **more})

    return make


@pytest.fixture
def make_batch(make_record: MakeRecord) -> MakeBatch:
    """One row per request id."""

    def make(
        ids: list[str], *, version: str = "3", arm: str = "stable", features: int = 24, **more: Any
    ) -> pa.RecordBatch:
        return record_batch(
            [make_record(name, rows=1, features=features, **more) for name in ids],
            card=_card(features),
            model_version=version,
            arm=arm,
        )

    return make


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start=10_000.0)


@pytest.fixture(params=["sqlite"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every backend of the record log; the contract's tests run for each."""
    return {"sqlite": f"sqlite:///{tmp_path / 'records.db'}"}[request.param]


@pytest.fixture
def partitioned(log_url: str, clock: ManualClock) -> Iterator[RecordLog]:
    """A log of four partitions, of every backend."""
    with contextlib.closing(open_log(f"{log_url}?partitions=4", clock=clock)) as opened:
        yield opened


@pytest.fixture
def log(log_url: str, clock: ManualClock) -> Iterator[RecordLog]:
    with contextlib.closing(open_log(log_url, clock=clock)) as opened:
        yield opened


class Append:
    """Appends as one emitter does, numbering rows."""

    def __init__(self, log: RecordLog, *, emitter: str = "e1") -> None:
        self._log = log
        self._emitter = emitter
        self._seq = 0

    def __call__(self, batch: pa.RecordBatch) -> int:
        first = self._seq + 1
        self._seq += batch.num_rows
        return self._log.append(batch, batch_id=BatchId(self._emitter, first, self._seq))


@pytest.fixture
def append(log: RecordLog) -> Append:
    return Append(log)


class Moody:
    """The real collector behind real HTTP, with a temper: ok, 500, 429, slow, lost (no answer)."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.mood = "ok"
        self.refused = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or self.mood == "ok":
            await self._app(scope, receive, send)
            return
        self.refused += 1
        if self.mood == "slow":
            await asyncio.sleep(0.2)
            await self._app(scope, receive, send)
            return
        status = 503
        if self.mood == "lost":  # it does all the work, but the answer never arrives

            async def swallow(_: Any) -> None:
                return None

            await self._app(scope, receive, swallow)
        else:
            status = int(self.mood)
            while (await receive()).get("more_body"):
                pass
        headers = [(b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


class Server:
    """A collector that can be stopped and started again on the same port."""

    def __init__(self, log: RecordLog) -> None:
        self.log = log
        self._port = 0
        self._server: uvicorn.Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self.moody = Moody(create_collector(self.log))
        config = uvicorn.Config(self.moody, port=self._port, log_level="error", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = None


@pytest.fixture
def collector(log: RecordLog) -> Iterator[Server]:
    server = Server(log)
    yield server
    server.stop()


@pytest.fixture
def read_ids() -> Callable[[RecordLog], list[tuple[str, int]]]:
    """Keys of all rows in the log, in its order."""

    def read(log: RecordLog) -> list[tuple[str, int]]:
        return [
            (name, row)
            for _, batch in log.read(0, limit_rows=10**9)
            for name, row in zip(
                batch.column("request_id").to_pylist(), batch.column("row").to_pylist(), strict=True
            )
        ]

    return read


@pytest.fixture
def models(tmp_path: Path, card: ModelCard) -> Path:
    for version in ("9", "10"):
        (tmp_path / "models" / version).mkdir(parents=True)
        write_card(tmp_path / "models" / version, card)
    return tmp_path / "models"


@pytest.fixture
async def client(
    log: RecordLog, clock: ManualClock, models: Path
) -> AsyncIterator[httpx.AsyncClient]:
    async with collecting(log, clock, models=models) as opened:
        yield opened
