"""The service, on a real record log: incidents, metrics, restarts."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import service
from prometheus_client.parser import text_string_to_metric_families

from coalmine.incidents import Incident
from coalmine.modeldir import ModelCard, write_card
from coalmine.records import BatchId, InferenceRecord, RecordLog, open_log, record_batch
from coalmine_alibi import create_alibi_app

NAMES = ("a", "b")
START = 1_800_000_000.0
ASKED = (
    {"name": "ks", "detector": "KSDrift", "window_rows": 100, "expected_run_length": 2000},
    {
        "name": "online",
        "detector": "CVMDriftOnline",
        "window_rows": 20,
        "features": ["a"],
        "expected_run_length": 300,
        "reference_rows": 100,
        "options": {"n_bootstraps": 1500},
    },
)


def card() -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "demo",
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [-1, 2],
                    "columns": [{"name": name} for name in NAMES],
                }
            ],
            "outputs": [
                {
                    "name": "label",
                    "datatype": "INT64",
                    "shape": [-1],
                    "columns": [
                        {"name": "label", "type": "categorical", "categories": ["low", "high"]}
                    ],
                }
            ],
        }
    )


def write_version(models: Path) -> None:
    directory = models / "1"
    directory.mkdir(parents=True)
    values = np.random.default_rng(1).standard_normal((2000, 2)).astype(np.float32)
    columns = {name: values[:, place] for place, name in enumerate(NAMES)}
    columns["label"] = (values[:, 0] > 0).astype(np.int64)
    pq.write_table(pa.table(columns), directory / "reference.parquet")
    write_card(directory, card())


def send(log: RecordLog, *, first: int, count: int, shift: float) -> None:
    """Requests of ten rows each, one a second."""
    rng = np.random.default_rng(first + 7)
    records = []
    for place in range(first, first + count):
        values = rng.standard_normal((10, 2)).astype(np.float32)
        values[:, 0] += shift
        records.append(
            InferenceRecord(
                request_id=f"r{place}",
                time=START + place,
                protocol="v2",
                latency_us=900,
                inputs={"x": values},
                outputs={"label": (values[:, 0] > 0).astype(np.int64)},
                status=200,
                error=None,
            )
        )
    batch = record_batch(records, card=card(), model_version="1", arm="stable")
    log.append(batch, batch_id=BatchId("stable", first * 10 + 1, (first + count) * 10))


@asynccontextmanager
async def running(root: Path, log: RecordLog, state: str) -> AsyncIterator[httpx.AsyncClient]:
    """The app, once it has read all of the log."""
    app = create_alibi_app(service(*ASKED), log=log, state=root / state, models=root / "models")
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://alibi") as client:
            for _ in range(1200):
                if all(consumed(root / state / f"alibi-{each['name']}.db", log) for each in ASKED):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("the log is not consumed")
            # The metrics are published after the step is committed.
            await asyncio.sleep(0.5)
            yield client


def consumed(state: Path, log: RecordLog) -> bool:
    with closing(sqlite3.connect(state)) as connection:
        row = connection.execute("SELECT cursors FROM state").fetchone()
    return bool(row) and json.loads(row[0]).get("records", 0) == log.end_offset()


@pytest.fixture
def log(tmp_path: Path) -> Any:
    write_version(tmp_path / "models")
    opened = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    yield opened
    opened.close()


async def test_the_same_incidents_and_windows_however_often_it_dies(
    tmp_path: Path, log: RecordLog
) -> None:
    whole: dict[str, Any] = {}
    for place, shift in enumerate((0.0, 0.0, 2.0)):
        send(log, first=place * 35, count=35, shift=shift)
        async with running(tmp_path, log, "often") as client:
            often = (await client.get("/v1/alibi")).json()["monitors"]
            incidents = (await client.get("/v1/incidents")).json()["incidents"]
            metrics = (await client.get("/metrics")).text
        if place < 2:
            assert incidents == []
    async with running(tmp_path, log, "once") as client:
        whole = (await client.get("/v1/alibi")).json()["monitors"]
        assert (await client.get("/v1/incidents")).json()["incidents"] == incidents
        assert (await client.get("/v1/alibi", params={"limit": 0})).status_code == 400
    assert whole == often
    assert len(often["ks"]["windows"]) == 10
    assert len(often["online"]["windows"]) == 52

    found = [Incident.model_validate(item) for item in incidents]
    assert {item.evidence["detector"] for item in found} == {
        "alibi/KSDrift",
        "alibi/CVMDriftOnline",
    }
    assert len({item.id for item in found}) == 2
    assert all(item.kind == "drift" and item.features[0].name == "a" for item in found)
    assert all(item.features[0].direction == "up" for item in found)
    assert all(START + 60 <= item.onset_at <= START + 75 for item in found)

    families = {each.name: each for each in text_string_to_metric_families(metrics)}
    opened = {
        sample.labels["monitor"]: sample.value
        for sample in families["coalmine_incident_open"].samples
        if sample.labels["feature"] == "a"
    }
    assert opened == {"alibi/ks": 1.0, "alibi/online": 1.0}
    assert {"coalmine_drift_score", "coalmine_drift_threshold", "coalmine_drift_pvalue"} <= set(
        families
    )


def test_the_command_line_says_what_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "coalmine.yaml"
    base = (
        "name: demo\nmodel: {uri: 'file:/nowhere'}\nmonitors: {alibi: [{name: x, detector: KSDrift"
    )
    file.write_text(base + ", options: {p: 1}}]}\n", encoding="utf-8")
    command = [sys.executable, "-m", "coalmine_alibi", str(file), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "monitors.alibi.0.options.p: no option of KSDrift"
    )
    file.write_text(base + "}]}\n", encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alibi/x: KSDrift, windows of 500 rows\n")
