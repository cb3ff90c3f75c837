"""The command line, as typed: what it prints, what it exits with, what it never prints."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine.stack import Part, Running, StateDirectory

from .conftest import GOOD, Control


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['coalmine', '--help']\n"
        "from coalmine.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pyarrow', 'mlflow', 'kfp', 'onnxruntime', 'fastapi', 'pydantic',"
        " 'httpx', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rollout" in done.stdout


@pytest.mark.parametrize(
    "command", ["up", "status", "check", "schema", "run", "demo", "bench", "label", "rollout start"]
)
def test_every_command_has_help_with_an_example(coalmine: Any, command: str) -> None:
    done = coalmine(*command.split(), "--help")
    assert done.code == 0
    assert "Example" in done.out


def test_check_says_that_a_file_is_valid(coalmine: Any, tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD)
    done = coalmine("check", "coalmine.yaml")
    assert (done.code, done.out) == (0, "coalmine.yaml: ev is valid\n")


def test_check_tells_every_mistake_with_its_line_and_key(coalmine: Any, tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD + "routing: {timeout: 8 parsec}\ncolour: blue\n")
    done = coalmine("check", "coalmine.yaml")
    assert done.code == 1
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert any(line.startswith("coalmine.yaml:3: routing.timeout: ") for line in lines)
    assert any(line.startswith("coalmine.yaml:4: colour: is not a known key") for line in lines)


def test_the_schema_is_json(coalmine: Any) -> None:
    assert json.loads(coalmine("schema").out)["required"] == ["name", "model"]


def test_serve_passes_its_options_to_the_model_server() -> None:
    command = (sys.executable, "-m", "coalmine.cli", "serve", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "--transformer" in done.stdout
    command = (sys.executable, "-m", "coalmine.cli", "serve", "/no/such/model", "--server=uvicorn")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/no/such/model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_runs_alone_at_the_root_of_its_port(tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (
        *(sys.executable, "-m", "coalmine.cli", "run", "collector", "coalmine.yaml"),
        *("--port", str(port), "--state", "s"),
    )
    log = tmp_path / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out) as process,
    ):
        try:
            health = _get(f"http://127.0.0.1:{port}/healthz", log)
            stats = _get(f"http://127.0.0.1:{port}/v1/records/stats", log)
        finally:
            process.terminate()
    assert health == {"status": "ok"}
    assert stats["rows"] == 0
    assert (tmp_path / "s" / "records.db").exists()


def _get(url: str, log: Path) -> Any:
    give_up = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, trust_env=False).json()
        except httpx.TransportError:
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.1)


def test_a_service_that_cannot_run_says_why(coalmine: Any, tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD)
    done = coalmine("run", "retrainer", "coalmine.yaml", "--state", "s")
    assert done.code == 1
    assert "retrainer cannot start: retraining: the service file has no such section" in done.err


def test_what_ends_a_service_at_its_start_is_told_without_a_traceback(tmp_path: Path) -> None:
    cluster = "{router: kserve-standard, model_uri: 's3://models/{name}/{version}'}"
    (tmp_path / "coalmine.yaml").write_text(f"{GOOD}cluster: {cluster}\n")
    command = (
        *(sys.executable, "-m", "coalmine.cli", "run", "rollout", "coalmine.yaml"),
        *("--cluster", "--state", "s"),
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    *_, told = done.stderr.splitlines()
    assert told.startswith("coalmine: rollout cannot start: rollout.shadow: kserve-standard")
    assert "Traceback" not in done.stderr


def test_a_service_whose_port_is_taken_says_which_option_names_another(tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = (
            *(sys.executable, "-m", "coalmine.cli", "run", "collector", "coalmine.yaml"),
            *("--port", str(port), "--state", "s"),
        )
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    *_, told = done.stderr.splitlines()
    assert told == f"coalmine: port {port} cannot be used; --port names another"


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("rollout", "status"),
        ("rollout", "start", "4"),
        ("retrain",),
        ("retrain", "history"),
        ("label", "labels.csv"),
        ("status", "--state", "elsewhere"),
    ],
)
def test_without_a_stack_it_says_so(coalmine: Any, tmp_path: Path, command: Any) -> None:
    (tmp_path / "labels.csv").write_text("request_id,label\nr1,normal\n")
    done = coalmine(*command)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("coalmine: no")
    assert "coalmine up FILE" in done.err


def test_up_with_a_bad_file_or_port_is_one_line(coalmine: Any, tmp_path: Path) -> None:
    assert coalmine("up", "absent.yaml").err == "coalmine: absent.yaml: file: cannot be read: " + (
        "No such file or directory\n"
    )
    for command in (("up",), ("run", "collector")):
        for port in ("99999", "0", "-5"):
            done = coalmine(*command, "absent.yaml", "--port", port)
            assert done.code == 2
            assert "--port" in done.err
    done = coalmine("run", "collector", "absent.yaml", "--stack-port", "65527")
    assert (done.code, "--stack-port" in done.err) == (2, True)


def test_status_shows_parts_and_the_loop(coalmine: Any, control: Control) -> None:
    control.answers = {
        "/rollout/v1/weights": (
            200, {"decision_id": "d", "weights": {"stable": 90, "canary": 10}, "mirror": None},
        ),
        "/rollout/v1/rollouts": (
            200, {"rollouts": [{"id": "r-1", "version": "4", "state": "stepping", "started": 1.0}]},
        ),
        "/drift/v1/incidents?open=true": (200, {"incidents": [{"summary": "soc moved"}]}),
        "/collector/v1/records/stats": (200, {"rows": 7, "labels": 3}),
    }  # fmt: skip
    done = coalmine("status")
    assert done.code == 0
    for text in ("stable 90 %, canary 10 %", "r-1: version 4, stepping", "soc moved", "7 rows"):
        assert text in done.out
    assert "performance refuses (404)" in done.out
    assert "retraining" not in done.out, "the service has none"


def test_a_control_process_that_restarts_is_named(coalmine: Any, tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "s")
    with state.locked():
        parts = (Part("control", None, "http://127.0.0.1:9"),)
        state.write_running(Running("ev", "coalmine.yaml", 10, 100.0, parts))
        done = coalmine("rollout", "history", "--state", "s")
        abort = coalmine("rollout", "abort", "--state", "s")
    assert (done.code, abort.code) == (1, 1)
    assert "rollout does not answer" in done.err
    assert "coalmine rollout abort --direct" in abort.err
    assert "--direct" not in done.err


def test_a_demo_whose_report_cannot_be_written_does_not_begin(
    coalmine: Any, tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("a file")
    done = coalmine("demo", "--report", "notes/report")
    assert (done.code, done.err) == (1, "coalmine: notes/report: Not a directory\n")
    assert done.out == ""
