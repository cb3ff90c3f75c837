"""Tracing as the environment asks for it; no harm without it, nor without a receiver."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine.serving._tracing import Tracing

from .spans import (
    ROWS,
    TRACEPARENT,
    infer,
)


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
def test_a_collector_that_is_gone_hurts_nobody(start: Any, model_dir: Path, kind: str) -> None:
    served = start(
        model_dir,
        *("--transformer", "moody:Moody"),
        kind=kind,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_BSP_SCHEDULE_DELAY="50",
    )
    for _ in range(20):
        assert infer(served, 0.5, TRACEPARENT).status_code == 200
        time.sleep(0.1)
    assert served.stop() == 0
    assert "Traceback" not in served.text()
    complaints = [line for line in served.text().splitlines() if "opentelemetry" in line]
    assert len(complaints) == 1, "not at every attempt"


def test_without_the_environment_there_is_no_tracing(start: Any, model_dir: Path) -> None:
    assert Tracing.from_environment({}) is None
    for environment in (
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ):
        assert Tracing.from_environment(environment) is None
    served = start(model_dir)
    answer = httpx.post(
        f"{served.url}/v2/models/toy/infer", json=ROWS, headers={"traceparent": TRACEPARENT}
    )
    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    program = (
        "import sys; from coalmine.serving import ServeOptions, create_asgi; "
        f"create_asgi(ServeOptions(model={str(model_dir)!r})); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=quiet
    )
    assert out.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; allowed: otlp"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; allowed: http/protobuf, grpc",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "pip install 'coalmine[tracing]'",
        ),
    ],
)
def test_what_cannot_be_had_is_one_warning(
    environment: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Tracing.from_environment(environment) is None
    (record,) = caplog.records
    assert message in record.getMessage()


def test_a_server_without_the_extra_says_so_and_serves(
    start: Any, model_dir: Path, tmp_path: Path
) -> None:
    # What a missing package looks like: a finder that comes first and finds nothing.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('opentelemetry.exporter'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    served = start(
        model_dir, PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
    )
    assert httpx.post(f"{served.url}/v2/models/toy/infer", json=ROWS).status_code == 200
    assert served.text().count("pip install 'coalmine[tracing]'") == 1
