"""A small real gateway, HTTP on uvicorn and gRPC on grpc.aio, that can be broken and restarted."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc.aio
import numpy as np
import orjson
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

CLASSES = ("normal", "internal_short", "overcharge")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class ToyFleet:
    """Uploads whose class is written into the state of charge, so that a toy server knows it."""

    def __init__(self) -> None:
        self.world = "old"
        self.simulated = 0

    def set_world(self, world: str) -> None:
        self.world = world

    def uploads(self, n: int, windows_per_upload: int = 8) -> Any:
        rows = n * windows_per_upload
        label = np.arange(rows) % len(CLASSES)
        self.simulated += n
        soc = label.astype(np.float32) + (0.0 if self.world == "old" else 10.0)
        return SimpleNamespace(
            vehicle=np.repeat(np.arange(n), windows_per_upload),
            upload=np.repeat(np.arange(n), windows_per_upload),
            raw={"current": np.ones((rows, 4), np.float32), "soc": soc},
            label=label.astype(np.int64),
            label_delay_days=np.full(rows, 0.5),
        )


@dataclass
class ToyGateway:
    """Answers the class that stands in `soc`; `refuse` makes it answer something else."""

    port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    seen: Counter[str] = field(default_factory=Counter)
    refuse: Response | None = None
    labels: list[dict[str, Any]] = field(default_factory=list)
    label_status: list[int] = field(default_factory=list)
    delay_s: float = 0.0
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        config = uvicorn.Config(
            self._app(), port=self.port, log_level="critical", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._grpc = grpc.aio.server()
        self._grpc.add_generic_rpc_handlers((_Handler(self),))
        self._grpc.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        await self._grpc.start()

    async def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        # A call that is cut between its headers and its message looks like one that an arm lost.
        await asyncio.gather(self._task, self._grpc.stop(60.0))

    def answer(self, body: bytes, protocol: str) -> tuple[bytes, int]:
        content = orjson.loads(body)
        if protocol == "v1":
            labels = [int(instance["soc"]) % 10 for instance in content["instances"]]
            return orjson.dumps({"predictions": [{"label": label} for label in labels]}), 200
        inputs = {tensor["name"]: tensor for tensor in content["inputs"]}
        labels = [int(value) % 10 for value in inputs["soc"]["data"]]
        output = {"name": "label", "datatype": "INT64", "shape": [len(labels)], "data": labels}
        return orjson.dumps({"outputs": [output], "id": content["id"]}), 200

    def _app(self) -> FastAPI:
        app = FastAPI()

        async def infer(request: Request) -> Response:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                return await self._infer(request)
            finally:
                self.in_flight -= 1

        async def labels(request: Request) -> Response:
            status = self.label_status.pop(0) if self.label_status else 200
            if status == 200:
                self.labels += (await request.json())["labels"]
            return Response(status_code=status, content=b"{}")

        app.add_api_route("/v1/models/{name}:predict", infer, methods=["POST"])
        app.add_api_route("/v2/models/{name}/infer", infer, methods=["POST"])
        app.add_api_route("/v1/labels", labels, methods=["POST"])
        return app

    async def _infer(self, request: Request) -> Response:
        request_id = request.headers["x-request-id"]
        self.seen[request_id] += 1
        await asyncio.sleep(self.delay_s)
        if self.refuse is not None:
            return self.refuse
        protocol = "v1" if request.url.path.endswith(":predict") else "v2"
        body, status = self.answer(await request.body(), protocol)
        headers = {
            "x-request-id": request_id, "x-coalmine-arm": "stable", "x-coalmine-version": "1",
        }  # fmt: skip
        return Response(body, status, headers, media_type="application/json")


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """ModelInfer by KServe's generated messages: another codec than the client's own."""

    def __init__(self, gateway: ToyGateway) -> None:
        self._gateway = gateway

    def service(self, details: Any) -> Any:
        if details.method != "/inference.GRPCInferenceService/ModelInfer":
            return None
        return grpc.unary_unary_rpc_method_handler(self._infer)

    async def _infer(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2

        metadata = dict(context.invocation_metadata())
        self._gateway.seen[metadata["x-request-id"]] += 1
        if self._gateway.refuse is not None:
            await context.send_initial_metadata((("server", "envoy"),))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        message = service_pb2.ModelInferRequest.FromString(body)
        names = [tensor.name for tensor in message.inputs]
        soc = np.frombuffer(message.raw_input_contents[names.index("soc")], "<f4")
        labels = soc.astype(np.int64) % 10
        await context.send_initial_metadata(
            (("x-request-id", metadata["x-request-id"]), ("x-coalmine-arm", "stable"),
             ("x-coalmine-version", "1"))
        )  # fmt: skip
        reply = service_pb2.ModelInferResponse(model_name=message.model_name, id=message.id)
        for name, array in (("probabilities", soc), ("label", labels)):
            output = reply.outputs.add(name=name, datatype="INT64")
            output.shape.append(len(array))
            reply.raw_output_contents.append(array.tobytes())
        content: bytes = reply.SerializeToString()
        return content


@pytest.fixture
async def gateway() -> AsyncIterator[ToyGateway]:
    toy = ToyGateway()
    await toy.start()
    try:
        yield toy
    finally:
        await toy.stop()
