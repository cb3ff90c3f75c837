"""A small model, its reference, and a record log with traffic made to measure."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

from coalmine.modeldir import ModelCard, write_card
from coalmine.records import (
    CALLER_UNKNOWN,
    BatchId,
    InferenceRecord,
    Label,
    RecordLog,
    open_log,
    record_batch,
)
from coalmine.spec import ServiceSpec

FEATURES = ("a", "b", "c", "check")
CLASSES = ("normal", "fault")
ROWS = 8  # of one request
START = 1_800_000_000.0


def service(**monitors: Any) -> ServiceSpec:
    settings: dict[str, Any] = {
        "drift": {"window_rows": 200, "expected_run_length": 1000},
        "quality": {"window_rows": 100, "consecutive": 2},
        "performance": {"margin": 0.05, "expected_run_length": 500},
    }
    return ServiceSpec.model_validate(
        {
            "name": "demo",
            "model": {"uri": "file:/nowhere"},
            "features": [
                {"name": "a", "range": [-50, 50]},
                {"name": "check", "role": "sensor_check", "tolerance": 1.0, "sensor": "pack"},
            ],
            "monitors": settings | monitors,
        }
    )


def card(accuracy: float | None = 0.95) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "demo",
            "inputs": [
                {
                    "name": "features",
                    "datatype": "FP32",
                    "shape": [-1, len(FEATURES)],
                    "columns": [{"name": name} for name in FEATURES],
                }
            ],
            "outputs": [
                {
                    "name": "label",
                    "datatype": "INT64",
                    "shape": [-1],
                    "columns": [{"name": "label", "type": "categorical", "categories": CLASSES}],
                },
                {
                    "name": "chances",
                    "datatype": "FP32",
                    "shape": [-1, len(CLASSES)],
                    "columns": [{"name": f"chance_{name}"} for name in CLASSES],
                },
            ],
            "metrics": {} if accuracy is None else {"accuracy": accuracy},
        }
    )


def features(rng: np.random.Generator, requests: int) -> np.ndarray[Any, Any]:
    """Rows [requests, ROWS, features]; those of a request are alike, as a vehicle's are."""
    common = rng.standard_normal((requests, 1, len(FEATURES)))
    values = 0.6 * common + 0.8 * rng.standard_normal((requests, ROWS, len(FEATURES)))
    values[:, :, 3] *= 0.1
    return values.astype(np.float32)


def chances(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model says of each class [rows, classes]: nearly sure, but near its boundary."""
    sure = np.where(np.abs(rows[:, 0] - 1) > 0.5, 0.98, 0.7)
    fault = np.where(rows[:, 0] > 1, sure, 1 - sure)
    return np.column_stack([1 - fault, fault]).astype(np.float32)


def truth_of(rows: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """True classes [rows] of which the model says the truth about how sure it is."""
    return (rng.random(len(rows)) < chances(rows)[:, 1]).astype(np.int64)


def cursors(state: Path) -> dict[str, int]:
    """How far a monitor is in the log."""
    with closing(sqlite3.connect(state)) as connection:
        try:
            row = connection.execute("SELECT cursors FROM state").fetchone()
        except sqlite3.OperationalError:
            row = None  # the file was made this moment
    return {} if row is None else dict(json.loads(row[0]))


@dataclass
class World:
    """The state directory of a stack, and what happens in it."""

    root: Path
    log: RecordLog
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))
    now: float = START
    sent: int = 0
    emitted: dict[str, int] = field(default_factory=dict)
    sent_rows: Any = None
    """Of the last `send`, [requests, ROWS, features]."""

    @property
    def models(self) -> Path:
        return self.root / "models"

    def consumed(self) -> bool:
        """Whether every monitor that has its state here has seen all of the log."""
        states = [path for path in self.root.glob("*.db") if path.name != "records.db"]
        return all(self.consumed_by(path) for path in states)

    def consumed_by(self, state: Path) -> bool:
        at = cursors(state)
        with closing(sqlite3.connect(state)) as connection:
            query = "SELECT count(*) FROM sqlite_master WHERE name = 'labels'"
            (reads_labels,) = connection.execute(query).fetchone()
        left = self.log.labels_after(at.get("labels", 0), 1) if reads_labels else []
        return at.get("records", 0) == self.log.end_offset() and not left

    def deploy(
        self, version: str = "1", *, accuracy: float | None = 0.95, windows: int = 40
    ) -> None:
        directory = self.models / version
        directory.mkdir(parents=True)
        rows = features(self.rng, windows * 200 // ROWS).reshape(-1, len(FEATURES))
        columns: dict[str, Any] = {name: rows[:, index] for index, name in enumerate(FEATURES)}
        columns["label"] = (rows[:, 0] > 1).astype(np.int64)
        columns |= {f"chance_{name}": chances(rows)[:, index] for index, name in enumerate(CLASSES)}
        columns["true_label"] = np.array(CLASSES)[truth_of(rows, np.random.default_rng(3))]
        pq.write_table(pa.table(columns), directory / "reference.parquet")
        write_card(directory, card(accuracy))

    def send(
        self,
        requests: int,
        *,
        version: str = "1",
        arm: str = "stable",
        change: Callable[[np.ndarray[Any, Any]], None] = lambda rows: None,
        right: float = 1.0,
        status: int = 200,
        ids: Sequence[str] | None = None,
        latency_us: int = 900,
        caller: int = CALLER_UNKNOWN,
        shed: int = 1,
        batch: int = 25,
    ) -> list[tuple[str, list[int]]]:
        """Send requests, 100 a second; returns ids and the true classes of their rows."""
        rows = features(self.rng, requests)
        change(rows)
        answers = (rows[:, :, 0] > 1).astype(np.int64)
        truth = np.where(self.rng.random(answers.shape) < right, answers, 1 - answers)
        names = ids or [f"r{self.sent + index:08d}" for index in range(requests)]
        self.sent_rows = rows
        records = []
        for index in range(requests):
            self.now += 0.01
            answered = status < 400
            records.append(
                InferenceRecord(
                    request_id=names[index],
                    time=self.now,
                    protocol="v2",
                    latency_us=latency_us,
                    inputs={"features": rows[index]},
                    outputs=(
                        {"label": answers[index], "chances": chances(rows[index])}
                        if answered
                        else None
                    ),
                    status=status,
                    error=None if answered else "boom",
                    batch_rows=shed,
                    caller=caller,
                )
            )
        self.sent += requests
        for start in range(0, requests, batch):
            self.append(records[start : start + batch], version=version, arm=arm)
        return [(name, list(map(int, row))) for name, row in zip(names, truth, strict=True)]

    def append(self, records: list[InferenceRecord], *, version: str, arm: str) -> None:
        made = record_batch(records, card=card(), model_version=version, arm=arm)
        first = self.emitted.get(arm, 0) + 1
        self.emitted[arm] = first + made.num_rows - 1
        self.log.append(made, batch_id=BatchId(arm, first, self.emitted[arm]))

    def label(self, truth: Sequence[tuple[str, list[int]]], *, batch: int = 25) -> None:
        """Deliver the truth, `batch` requests at once, a tenth of a second apart."""
        for start in range(0, len(truth), batch):
            self.now += 0.1
            self.log.put_labels(
                [
                    Label(request_id, CLASSES[klass], self.now, row)
                    for request_id, classes in truth[start : start + batch]
                    for row, klass in enumerate(classes)
                ]
            )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    log = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    yield World(tmp_path, log)
    log.close()


@pytest.fixture
def make_service() -> Callable[..., ServiceSpec]:
    return service


class Client(httpx.AsyncClient):
    """A client of an app, whose background work runs meanwhile."""

    world: World

    async def json(self, path: str, **params: Any) -> Any:
        answer = await self.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def settled(self, path: str = "/v1/incidents", *, timeout: float = 60.0) -> Any:
        """The answer once the log is consumed; or, if it is not, once nothing changes any more."""
        last, same = None, 0
        for _ in range(int(timeout / 0.2)):
            consumed = self.world.consumed()
            answer = await self.json(path)
            same = same + 1 if answer == last else 0
            last = answer
            if same >= (2 if consumed else 150):
                return answer
            await asyncio.sleep(0.2)
        raise AssertionError(f"{path} did not settle: {last}")


@pytest.fixture
def run_app(world: World) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[Client]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with Client(transport=transport, base_url="http://monitor") as client:
                client.world = world
                yield client

    return running
