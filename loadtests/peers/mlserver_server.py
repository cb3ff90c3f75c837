"""MLServer: writes its two settings files as its documents say, and becomes `mlserver start`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--name", required=True)
parser.add_argument("--folder", type=Path, required=True)
parser.add_argument("--http-port", type=int, required=True)
parser.add_argument("--grpc-port", type=int, required=True)
parser.add_argument("--metrics-port", type=int, required=True)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--batch", type=int, default=0)
arguments = parser.parse_args()

settings = {
    "host": "127.0.0.1",
    "http_port": arguments.http_port,
    "grpc_port": arguments.grpc_port,
    "metrics_port": arguments.metrics_port,
    "parallel_workers": arguments.workers,
    "debug": False,
    "use_structured_logging": False,
    "grpc_max_message_length": 64 * 1024**2,
}
model = {
    "name": arguments.name,
    "implementation": "mlserver_runtime.OnnxRuntime",
    "parameters": {"uri": arguments.model},
}
if arguments.batch:
    # Half a millisecond is enough for the other connections; the default is a whole second.
    model |= {"max_batch_size": arguments.batch, "max_batch_time": 0.0005}
arguments.folder.mkdir()
(arguments.folder / "settings.json").write_text(json.dumps(settings))
(arguments.folder / "model-settings.json").write_text(json.dumps(model))

environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
command = [str(Path(sys.executable).with_name("mlserver")), "start", str(arguments.folder)]
os.execve(command[0], command, environment)
