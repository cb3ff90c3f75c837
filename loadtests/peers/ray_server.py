"""Ray Serve: one replica of one deployment, over HTTP and gRPC."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tritonclient.grpc import service_pb2

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--columns", type=int, required=True)
parser.add_argument("--http-port", type=int, required=True)
parser.add_argument("--grpc-port", type=int, required=True)
parser.add_argument("--batching", action="store_true")
parser.add_argument("--quiet", action="store_true")
parser.add_argument("--direct", action="store_true", help="the replica listens, not the proxy")


class OnnxModel:
    """One ONNX file."""

    def __init__(self, path: str, columns: int) -> None:
        from session import open_session

        self._session = open_session(path)
        self._columns = columns

    async def run(self, rows: Any) -> Any:
        """Rows in, rows out."""
        return self._session.run(None, {"input": rows})[0]

    async def __call__(self, request: Request) -> Response:
        """JSON lists, or raw FP32 values at the path that ends in `_bytes`."""
        if request.url.path.endswith("_bytes"):
            rows = np.frombuffer(await request.body(), "<f4").reshape(-1, self._columns)
            return Response((await self.run(rows)).tobytes())
        content = await request.json()
        output = await self.run(np.array(content["input"], np.float32))
        return JSONResponse({"output": output.tolist()})

    async def ModelInfer(self, request: Any) -> Any:
        """The Open Inference Protocol's call."""
        (raw,) = request.raw_input_contents
        output = await self.run(np.frombuffer(raw, "<f4").reshape(request.inputs[0].shape))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="output", datatype="FP32", shape=output.shape)
        response.raw_output_contents.append(output.tobytes())
        return response


class BatchedModel(OnnxModel):
    """The requests of all connections share a call."""

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0005)
    async def _joined(self, requests: list[Any]) -> list[Any]:
        rows = requests[0] if len(requests) == 1 else np.concatenate(requests)
        (result,) = self._session.run(None, {"input": rows})
        ends = np.cumsum([len(each) for each in requests])
        return np.split(result, ends[:-1])

    async def run(self, rows: Any) -> Any:
        """See `OnnxModel.run`."""
        return await self._joined(rows)


def free_ports() -> tuple[int, int]:
    """Ports for a proxy that nobody asks."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def serve_until_told(directory: str) -> None:
    """Start Ray with its files in `directory`, and serve until SIGTERM."""
    arguments = parser.parse_args()
    ray.init(
        _temp_dir=directory,
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    add = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
    logging = LoggingConfig(enable_access_log=not arguments.quiet)
    proxy = (arguments.http_port, arguments.grpc_port)
    http_port, grpc_port = free_ports() if arguments.direct else proxy
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=[add]),
        logging_config=logging,
    )
    kind = BatchedModel if arguments.batching else OnnxModel
    deployment = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 0.1},
        logging_config=logging,
    )(kind)
    # Ray has put its own handler there, which leaves its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve.run(deployment.bind(arguments.model, arguments.columns), name="bench")
    try:
        signal.pause()
    finally:
        ray.shutdown()  # without Serve's own, which would drain for half a minute


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Its sockets lie in here, and a socket's path cannot be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        serve_until_told(short)
