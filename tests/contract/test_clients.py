"""The clients that people have work, unchanged: each family in a process of its own.

(KServe's and Triton's gRPC messages have the same names, and one process can hold only one.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..servers import Server

CLIENTS = Path(__file__).parent / "clients"


@pytest.mark.parametrize("client", ["triton_http", "triton_grpc", "kserve_sdk"])
def test_client(every: Server, client: str) -> None:
    done = subprocess.run(
        [sys.executable, str(CLIENTS / f"{client}.py"), str(every.port), str(every.grpc_port)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CLIENTS)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
