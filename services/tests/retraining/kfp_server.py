"""The part of the Kubeflow Pipelines API (v2beta1) that a submission needs, over real HTTP.

It refuses what the real one refuses: a pipeline that is no PipelineSpec, parameters that the
pipeline does not have or lacks, runs of an unknown experiment.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2


@dataclass
class KfpServer:
    """What it holds, and what it was told to do."""

    url: str = ""
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    token: str | None = None
    ends: str = "SUCCEEDED"
    """How a run ends, after it was asked for twice."""


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message, "code": 3, "message": message}, status_code=status)


def _parameters(body: dict[str, Any]) -> str | None:
    """What is wrong with a run's pipeline or its parameters."""
    whole = body["pipeline_spec"]
    spec, platforms = whole["pipeline_spec"], whole.get("platform_spec", {})
    try:
        parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platforms, pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        return f"invalid pipeline spec: {error}"
    known = parsed.root.input_definitions.parameters
    given = body.get("runtime_config", {}).get("parameters", {})
    if unknown := set(given) - set(known):
        return f"parameter not found: {sorted(unknown)}"
    needed = {
        name
        for name, kind in known.items()
        if not kind.is_optional and not kind.HasField("default_value")
    }
    return f"missing: {sorted(needed - set(given))}" if needed - set(given) else None


def _wanted(request: Request) -> str | None:
    """The name that a list is filtered by."""
    text = request.query_params.get("filter")
    if not text:
        return None
    (predicate,) = json.loads(text)["predicates"]
    value = predicate.get("stringValue", predicate.get("string_value"))
    return str(value)


def _app(server: KfpServer) -> FastAPI:
    app = FastAPI()
    base = "/apis/v2beta1"

    @app.middleware("http")
    async def guard(request: Request, follow: Any) -> Any:
        given = request.headers.get("authorization")
        if server.token is not None and given != f"Bearer {server.token}":
            return _refused(401, "who are you?")
        return await follow(request)

    @app.get(f"{base}/healthz")
    async def healthz() -> dict[str, Any]:
        return {"multi_user": False}

    _add_experiments(app, server, base=base)
    _add_runs(app, server, base=base)
    return app


def _add_experiments(app: FastAPI, server: KfpServer, *, base: str) -> None:
    @app.get(f"{base}/experiments")
    async def experiments(request: Request) -> dict[str, Any]:
        name = _wanted(request)
        found = [e for e in server.experiments if name in (None, e["display_name"])]
        return {"experiments": found, "total_size": len(found)}

    @app.post(f"{base}/experiments")
    async def add_experiment(request: Request) -> dict[str, Any]:
        body = await request.json()
        body["experiment_id"] = f"e{len(server.experiments) + 1}"
        server.experiments.append(body)
        return dict(body)


def _add_runs(app: FastAPI, server: KfpServer, *, base: str) -> None:
    @app.get(f"{base}/runs")
    async def runs(request: Request) -> dict[str, Any]:
        name, of = _wanted(request), request.query_params.get("experiment_id")
        found = [r for r in server.runs if r["experiment_id"] == of]
        found = [r for r in found if name in (None, r["display_name"])]
        return {"runs": found, "total_size": len(found)}

    @app.post(f"{base}/runs")
    async def add_run(request: Request) -> Any:
        body = await request.json()
        if body["experiment_id"] not in {e["experiment_id"] for e in server.experiments}:
            return _refused(404, "no such experiment")
        if (wrong := _parameters(body)) is not None:
            return _refused(400, wrong)
        body |= {"run_id": f"r{len(server.runs) + 1}", "state": "PENDING", "asked": 0}
        server.runs.append(body)
        return {key: value for key, value in body.items() if key != "pipeline_spec"}

    @app.get(f"{base}/runs/{{run}}")
    async def one(run: str) -> Any:
        for known in server.runs:
            if known["run_id"] == run:
                known["asked"] += 1
                known["state"] = "RUNNING" if known["asked"] < 2 else server.ends
                if known["state"] == "FAILED":
                    known["error"] = {"code": 2, "message": "the data is upside down"}
                return {key: value for key, value in known.items() if key != "pipeline_spec"}
        return _refused(404, f"run {run} not found")


@contextmanager
def kfp_server() -> Iterator[KfpServer]:
    """Serve on a free port of this machine; the client under test blocks, so in a thread."""
    server = KfpServer()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(_app(server), log_level="error", lifespan="off")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        try:
            yield server
        finally:
            running.should_exit = True
            thread.join()
