"""Triton from the wheel of nvidia-pytriton: its front ends, and our model in its Python backend.

Writes a model repository and becomes `tritonserver`; the wheel has no ONNX Runtime backend.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
from pathlib import Path

import pytriton

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [ {{ name: "input" data_type: TYPE_FP32 dims: {row} }} ]
output [ {{ name: "output" data_type: TYPE_FP32 dims: {answer} }} ]
parameters {{ key: "model" value: {{ string_value: "{model}" }} }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{batching}
"""

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--name", required=True)
parser.add_argument("--row", type=json.loads, required=True)
parser.add_argument("--answer", type=json.loads, required=True)
parser.add_argument("--repository", type=Path, required=True)
parser.add_argument("--batching", action="store_true")
arguments, ports = parser.parse_known_args()

wheel = Path(pytriton.__file__).parent / "tritonserver"
python = f"{sys.version_info.major}.{sys.version_info.minor}"
model = arguments.repository / arguments.name
(model / "1").mkdir(parents=True)
# The backend starts an interpreter of its own, which knows neither this environment nor PYTHONPATH.
here, packages = Path(__file__).parent, sysconfig.get_path("purelib")
paths = f"import sys\nsys.path[:0] = {[packages, str(here)]!r}\n"
(model / "1" / "model.py").write_text(f"{paths}from triton_model import TritonPythonModel\n")
# The backend wants the stub of its Python beside it; the wheel keeps one for each version apart.
backends = arguments.repository.with_name("backends")
(backends / "python").mkdir(parents=True)
stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
for file in (stub, *(wheel / "backends" / "python").iterdir()):
    (backends / "python" / file.name).symlink_to(file)
text = CONFIG.format(
    name=arguments.name,
    batch=4096 if len(arguments.row) == 1 else 16,
    row=arguments.row,
    answer=arguments.answer,
    model=arguments.model,
    batching="dynamic_batching { }" if arguments.batching else "",
)
(model / "config.pbtxt").write_text(text)

libraries = [str(sysconfig.get_config_var("LIBDIR")), f"{packages}/nvidia_pytriton.libs"]
environment = os.environ | {
    "PYTHONHOME": sys.base_prefix,
    "LD_LIBRARY_PATH": os.pathsep.join(libraries),
}
server = str(wheel / "bin" / "tritonserver")
command = [
    server, f"--model-repository={arguments.repository}", f"--backend-directory={backends}",
    "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", *ports,
]  # fmt: skip
os.execve(server, command, environment)
