"""Real model servers for the tests that look at them from outside, and small networks to serve."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnx
import psutil
from onnx import TensorProto, helper

#: Datatype of the protocol to ONNX's, for every one that ONNX Runtime takes.
DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

#: The inputs of `mixed`: name, datatype, shape; -1 is free.
MIXED = (
    ("features", "FP32", (-1, 4)),
    ("count", "INT64", (-1,)),
    ("small", "UINT8", (-1, 2)),
    ("text", "BYTES", (-1,)),
    ("half", "FP16", (-1,)),
    ("flag", "BOOL", (-1,)),
)


def identity(path: Path, inputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Path:
    """A network that returns every input `x` as `x_out`; a file of its own directory's name."""

    def info(suffix: str) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name + suffix, DATATYPES[datatype], [None if n == -1 else n for n in shape]
            )
            for name, datatype, shape in inputs
        ]

    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in inputs]
    graph = helper.make_graph(nodes, path.stem, info(""), info("_out"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A model server that runs."""

    process: subprocess.Popen[bytes]
    kind: str
    port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def text(self) -> str:
        """What it has logged; libraries put bytes of clients there."""
        return self.log.read_text(errors="replace")

    @property
    def resident(self) -> int:
        """Bytes of memory of the server and its children."""
        main = psutil.Process(self.process.pid)
        family = [main, *main.children(recursive=True)]
        return sum(process.memory_info().rss for process in family)

    def wait_ready(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text
            try:
                if httpx.get(f"{self.url}/v2/health/ready", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"not ready after {timeout} s: {self.text}")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] == name and all(label in line for label in wanted)
        )

    def stop(self, timeout: float = 15.0) -> int:
        """End it as Kubernetes does; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def serving(
    model: Path | str, log: Path, *arguments: str, kind: str = "native", **environment: str
) -> Iterator[Server]:
    """A server of `model` that is ready; killed in the end if it still runs."""
    port = unused_port()
    grpc_port = port
    more = list(arguments)
    if kind == "uvicorn":
        grpc_port = unused_port()
        more += ["--grpc-port", str(grpc_port)]
    command = [sys.executable, "-m", "coalmine.serving", str(model), "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--server", kind, *more],
            stdout=out,
            stderr=out,
            env={**os.environ, **environment},
        )
    try:
        server = Server(process, kind, port, grpc_port, log)
        server.wait_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
