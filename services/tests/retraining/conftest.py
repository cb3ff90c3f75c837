from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.modeldir import MODEL_FILE, REFERENCE_FILE, Column, ModelCard, Tensor, write_card
from coalmine.records import BatchId, InferenceRecord, Label, open_log, record_batch
from coalmine.retraining import MlflowRegistry, create_app, local_registry, register_directory
from coalmine.spec import ServiceSpec

HERE = Path(__file__).parent
NAME = "demo"
STARTS_AT = "2026-11-21T10:00:00Z"
EPOCH = 1795255200.0  # the same
ONSET = EPOCH - 30

CARD = ModelCard(
    name=NAME,
    inputs=(
        Tensor(
            name="features",
            datatype="FP32",
            shape=(-1, 2),
            columns=(Column(name="a"), Column(name="b")),
        ),
    ),
    outputs=(
        Tensor(
            name="label",
            datatype="INT64",
            shape=(-1,),
            columns=(Column(name="label", type="categorical", categories=("ok", "bad")),),
        ),
    ),
    metrics={"accuracy": 0.9},
)


def model_directory(path: Path, *, content: bytes = b"network") -> Path:
    path.mkdir(parents=True)
    write_card(path, CARD)
    (path / MODEL_FILE).write_bytes(content)
    (path / REFERENCE_FILE).write_bytes(b"reference")
    return path


@pytest.fixture(scope="session")
def first_champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory whose registry has a champion, made once: MLflow's tables take a second."""
    state = tmp_path_factory.mktemp("champion") / "state"
    registry = local_registry(NAME, state=state)
    directory = model_directory(tmp_path_factory.mktemp("model") / "first")
    register_directory(registry, directory, run="first", reason="the first")
    registry.promote("1")
    return state


@pytest.fixture
def state(first_champion: Path, tmp_path: Path) -> Path:
    """A state directory with a champion, version 1."""
    shutil.copytree(first_champion, tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def registry(state: Path) -> MlflowRegistry:
    return local_registry(NAME, state=state)


@dataclass
class World:
    """The peers of the retrainer: a quality monitor and a rollout controller, over real HTTP."""

    url: str = ""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    evaluated_to: float = 1e12
    rollouts: list[dict[str, str]] = field(default_factory=list)
    refusal: str | None = None
    forget_answer: bool = False
    """Start the rollout, but break the connection before the answer."""

    offers: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    peers = World()
    app = FastAPI()

    @app.get("/quality/v1/incidents")
    async def incidents() -> dict[str, Any]:
        return {"incidents": peers.incidents, "evaluated_to": peers.evaluated_to}

    @app.get("/rollout/v1/rollouts")
    async def rollouts() -> dict[str, Any]:
        return {"rollouts": peers.rollouts}

    @app.post("/rollout/v1/rollouts", status_code=201)
    async def offer(request: Request) -> Any:
        if peers.refusal is not None:
            return JSONResponse({"error": peers.refusal}, status_code=409)
        order = json.loads(await request.body())
        peers.offers.append(order)
        started = {"id": f"ro-{len(peers.offers)}", "version": order["version"]}
        peers.rollouts.append({**started, "state": "shadowing"})
        if peers.forget_answer:
            return JSONResponse({"error": "lost"}, status_code=500)
        return started

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        peers.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield peers
        server.should_exit = True
        await serving


def make_service(**retraining: Any) -> ServiceSpec:
    settings = {
        "pipeline": "small_pipelines:patient_pipeline",
        "alerts": ["CoalmineAccuracyLoss"],
        "cooldown": "1h",
        "min_labels": 60,
        "max_wait": "60s",
        "time_limit": "10m",  # a busy machine takes its time; no test waits as long
        "retries": 1,
        **retraining,
    }
    return ServiceSpec.model_validate(
        {
            "name": NAME,
            "model": {"uri": f"models:/{NAME}@champion"},
            "monitors": {"drift": {"window_rows": 50}},
            "retraining": settings,
        }
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds the small pipelines, and nothing of the caller's own settings."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.delenv("COALMINE_NOTIFY_URL", raising=False)


@asynccontextmanager
async def retrainer(
    service: ServiceSpec, *, state: Path, world: World, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[httpx.AsyncClient]:
    """A running retrainer, and a client of it."""
    app = create_app(
        service,
        state=state,
        log_uri=log_uri(state),
        quality_url=f"{world.url}/quality",
        rollout_url=f"{world.url}/rollout",
        clock=clock,
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://retrainer") as client:
            yield client


def log_uri(state: Path) -> str:
    return f"sqlite:///{state / 'records.db'}"


def fill_log(
    state: Path,
    *,
    since: float,
    requests: int = 300,
    labelled: int = 100,
    first: int = 0,
    arm: str = "stable",
) -> None:
    """Requests of four rows each, 10 ms apart from `since`; the first of them labelled."""
    rng = np.random.default_rng(first)
    log = open_log(log_uri(state))
    records, labels = [], []
    for number in range(first, first + requests):
        values = rng.normal(size=(4, 2)).astype(np.float32)
        said = (values[:, 0] > 0).astype(np.int64)
        time = since + 0.01 * (number - first)
        records.append(
            InferenceRecord(
                request_id=f"r{number}",
                time=time,
                protocol="v2",
                latency_us=100,
                inputs={"features": values},
                outputs={"label": said},
            )
        )
        if number < first + labelled:
            truth = np.where(values[:, 1] > 0, "bad", "ok")
            labels += [Label(f"r{number}", str(name), time, row) for row, name in enumerate(truth)]
    batch = record_batch(records, card=CARD, model_version="1", arm=arm)
    start = 4 * first + 1
    log.append(batch, batch_id=BatchId(f"{arm}-emitter", start, start + batch.num_rows - 1))
    log.put_labels(labels)
    log.close()


def webhook(summary: str, *, starts_at: str, onset: float, **labels: str) -> dict[str, Any]:
    """Alertmanager's notification of one accuracy alert."""
    alert = {
        "status": labels.pop("status", "firing"),
        "labels": {
            "alertname": "CoalmineAccuracyLoss",
            "model_name": NAME,
            "revision": "1",
            **labels,
        },
        "annotations": {"summary": summary, "onset": str(onset)},
        "startsAt": starts_at,
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "f" + summary,
    }
    return {"version": "4", "status": "firing", "receiver": "retrainer", "alerts": [alert]}


async def until(
    client: httpx.AsyncClient, path: str, found: Any, *, seconds: float = 100.0
) -> dict[str, Any]:
    """Poll until `found(body)`; the body."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        body: dict[str, Any] = (await client.get(path)).json()
        if found(body):
            return body
        assert loop.time() < end, f"{path} did not get there: {body}"
        await asyncio.sleep(0.1)


@pytest.fixture
def notices(state: Path) -> Any:
    """What people were told."""

    def read() -> list[dict[str, Any]]:
        path = state / "notifications.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    return read


def finished(body: dict[str, Any]) -> bool:
    return bool(body["runs"]) and body["runs"][0]["state"] == "finished"


async def alert(client: Any, summary: str, **labels: str) -> dict[str, int]:
    answer = await client.post(
        "/v1/alerts", json=webhook(summary, starts_at=STARTS_AT, onset=ONSET, **labels)
    )
    assert answer.status_code == 200, answer.text
    fates: dict[str, int] = answer.json()["triggers"]
    return fates


def processes_of(run_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("COALMINE_RUN_ID") == run_id:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reference application's champion, and what it has answered."""
    from .fleet import make_stage  # it imports the simulator, which few tests need

    return make_stage(tmp_path_factory.mktemp("stage"))
