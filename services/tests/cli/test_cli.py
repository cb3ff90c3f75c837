"""The command line, as typed: what it prints, what it exits with, what it never prints."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from coalmine import __file__ as coalmine_package
from coalmine.cli import main
from coalmine.stack import Part, Running, StateDirectory

GOOD = "name: ev\nmodel: {uri: 'models:/ev@champion'}\n"


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def coalmine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COALMINE_STATE", raising=False)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["coalmine", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return Done(int(exited.value.code or 0), captured.out, captured.err)

    return run


@dataclass
class Control:
    """Stands where the control process does: answers what it is told to, and remembers."""

    url: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    control = Control()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            control.asked.append((self.command, self.path, body))
            status, answer = control.answers.get(self.path, (404, {"detail": "Not Found"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        control.url = f"http://127.0.0.1:{server.server_port}"
        state = StateDirectory(tmp_path / ".coalmine" / "ev")
        with state.locked():
            parts = (Part("gateway", 11, "http://127.0.0.1:1"), Part("control", 12, control.url))
            state.write_running(Running("ev", "coalmine.yaml", 10, 100.0, parts))
            yield control
        server.shutdown()
        thread.join()


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
    done = coalmine("up", "absent.yaml", "--port", "99999")
    assert done.code == 2
    assert "--port" in done.err


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


def test_a_rollout_is_started_and_steered(coalmine: Any, control: Control) -> None:
    control.answers = {"/rollout/v1/rollouts": (201, {"id": "r-2"})}
    done = coalmine("rollout", "start", "4", "--no-shadow", "--reason", "July")
    assert done.out.startswith("rollout r-2 of version 4")
    method, path, body = control.asked.pop()
    assert (method, path) == ("POST", "/rollout/v1/rollouts")
    assert (body["version"], body["shadow"], body["reason"]) == ("4", False, "July")
    assert body["actor"]
    old = {"id": "r-1", "version": "3", "state": "rolled_back", "started": 1.0}
    old["why"] = "more errors"
    new = {"id": "r-2", "version": "4", "state": "stepping", "started": 2.0}
    control.answers = {
        "/rollout/v1/rollouts": (200, {"rollouts": [old, new]}),
        "/rollout/v1/rollouts/r-2/abort": (200, {"state": "stepping", "stage": "revert"}),
        "/rollout/v1/rollouts/r-2": (200, {**new, "ledger": []}),
    }
    assert coalmine("rollout", "abort").out == "rollout r-2: stepping, now at revert\n"
    lines = coalmine("rollout", "history").out.splitlines()
    assert lines[0] == "r-2  1970-01-01 00:00:02  version 4  stepping"
    assert lines[1].endswith("version 3  rolled_back  more errors")
    assert json.loads(coalmine("rollout", "status").out)["id"] == "r-2"
    control.answers["/rollout/v1/rollouts"] = (200, {"rollouts": [old]})
    assert "no rollout runs" in coalmine("rollout", "pause").err
    control.answers["/rollout/v1/rollouts"] = (200, {"rollouts": []})
    assert "no rollout yet" in coalmine("rollout", "history").err


def test_what_is_no_id_leads_nowhere_else(coalmine: Any, control: Control) -> None:
    control.answers = {"/rollout/v1/weights": (200, {"weights": {}})}
    for command in ("status", "explain", "abort"):
        assert coalmine("rollout", command, "../weights").code == 1


def test_a_refusal_is_told_in_the_services_words(coalmine: Any, control: Control) -> None:
    control.answers = {"/rollout/v1/rollouts": (409, {"error": "r-1 runs already"})}
    done = coalmine("rollout", "start", "4")
    assert done.code == 1
    assert done.err == "coalmine: rollout refuses (409): r-1 runs already\n"


def test_a_run_is_started_and_listed(coalmine: Any, control: Control) -> None:
    control.answers = {"/retrainer/v1/runs": (201, {"id": "run-1"})}
    assert coalmine("retrain", "--reason", "new labels").out.startswith("run run-1")
    assert control.asked.pop()[2]["reason"] == "new labels"
    run = {"id": "run-1", "started": 1.0, "outcome": None, "version": None, "reason": "new labels"}
    control.answers = {"/retrainer/v1/runs": (200, {"runs": [run]})}
    assert coalmine("retrain", "runs").out.splitlines()[1].split() == [
        *("run-1", "running", "new", "labels")
    ]


def test_what_asked_for_runs_is_listed_with_what_came_of_it(
    coalmine: Any, control: Control
) -> None:
    run = {"id": "run-1", "outcome": "promoted-to-rollout", "verdict": "rolled_back"}
    asked = {
        "last_at": 1795255200.0,
        "source": "alert",
        "name": "CoalmineAccuracyLoss",
        "count": 7,
        "fate": "merged",
        "run": "run-1",
        "reason": "into run run-1",
    }
    control.answers = {
        "/retrainer/v1/triggers?limit=50": (200, {"triggers": [asked]}),
        "/retrainer/v1/triggers?fate=merged&limit=50": (200, {"triggers": [asked]}),
        "/retrainer/v1/runs": (200, {"runs": [run]}),
    }
    line = coalmine("retrain", "history").out.splitlines()[1]
    assert line.startswith("2026-11-21 10:00:00  alert  CoalmineAccuracyLoss  7      merged  run-1")
    assert "promoted-to-rollout, rolled back  into run run-1" in line
    (told,) = json.loads(coalmine("retrain", "history", "--fate", "merged", "--json").out)
    assert (told["count"], told["outcome"]) == (7, "promoted-to-rollout, rolled back")
    refused = coalmine("retrain", "history", "--fate", "lost")
    assert refused.err == "coalmine: --fate lost: allowed are accepted, merged, suppressed\n"


def test_an_open_breaker_is_shown_and_reset(coalmine: Any, control: Control) -> None:
    shown = {
        "run": None,
        "breaker": {"open": True, "failures": 3, "max_failures": 3, "last": "x", "run": "run-3"},
        "back_off": {"rejections": 0, "seconds": 0.0, "until": None},
        "cooldown_until": None,
        "runs_today": 3,
        "daily_budget": 4,
        "next_scheduled": 1795255200.0,
    }
    control.answers = {
        "/retrainer/v1/status": (200, shown),
        "/retrainer/v1/reset": (200, shown),
    }
    told = coalmine("retrain", "status").out
    assert "breaker   OPEN, a person is needed (coalmine retrain reset), 3 of 3 failures" in told
    assert "schedule  next at 2026-11-21 10:00:00 UTC\n" in told
    assert coalmine("retrain", "reset", "--reason", "mended").code == 0
    assert control.asked.pop()[2]["reason"] == "mended"


def test_a_long_step_shows_how_far_it_is(coalmine: Any, control: Control) -> None:
    search = {"family": "mlp", "done": 2, "total": 10, "best_loss": 0.123456}
    progress = {"steps": {"train": 41.6}, "steps_done": 3, "searches": [search]}
    run = {"id": "run-1", "state": "running", "started": 100.0, "waiting_for": "", "version": None}
    shown = {
        "now": 190.0,
        "time_limit": 3600.0,
        "run": {**run, "progress": progress},
        "breaker": {"open": False, "failures": 0, "max_failures": 3, "last": "", "run": ""},
        "back_off": {"rejections": 0, "seconds": 0.0, "until": None},
        "cooldown_until": None,
        "runs_today": 1,
        "daily_budget": 4,
        "next_scheduled": None,
    }
    control.answers = {"/retrainer/v1/status": (200, shown)}
    (line, *_) = coalmine("retrain", "status").out.splitlines()
    assert line == (
        "run       run-1 running for 90 s of at most 3600 s; 3 steps done, now train for 42 s "
        "(mlp 2 of 10 trials, best loss 0.1235)"
    )
    shown["run"] = {**run, "state": "waiting", "waiting_for": "20 labels", "progress": None}
    assert coalmine("retrain", "status").out.startswith("run       run-1 waiting for 20 labels\n")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "request_id,label\n", "no labels in it"),
        ("b.csv", "", "column 'request_id' is missing"),
        ("c.csv", "request_id,label\nr1,\n", "row 1"),
    ],
)
def test_a_label_file_that_is_of_no_use_is_an_error(
    coalmine: Any, control: Control, tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    done = coalmine("label", str(tmp_path / name))
    assert done.code == 2
    assert told in done.err
    assert control.asked == []


@pytest.mark.slow
def test_the_pipeline_compiles(tmp_path: Path) -> None:
    file = Path(coalmine_package).with_name("apps") / "ev_battery" / "coalmine.yaml"
    command = (
        *(sys.executable, "-m", "coalmine.cli", "retrain"),
        *("--compile", "p.yaml", "--file", str(file)),
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = next(iter(yaml.safe_load_all((tmp_path / "p.yaml").read_text())))
    assert "pipelineInfo" in first


def test_compile_names_the_missing_section(coalmine: Any, tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD)
    done = coalmine("retrain", "--compile", "p.yaml")
    assert done.code == 1
    assert "retraining: is missing" in done.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "request_id,label,row\na,normal,\nb,2,1\n"),
        ("l.jsonl", '{"request_id":"a","label":"normal"}\n{"request_id":"b","label":2,"row":1}\n'),
    ],
)
def test_labels_are_sent(
    coalmine: Any, control: Control, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    control.answers = {"/collector/v1/labels": (200, {"accepted": 2, "unknown": 0})}
    assert coalmine("label", name).out == "2 accepted, 0 unknown\n"
    first, second = control.asked.pop()[2]["labels"]
    assert (first["request_id"], first["label"], first["row"]) == ("a", "normal", 0)
    assert (second["request_id"], second["label"], second["row"]) == ("b", "2", 1)
    assert first["time"] > 1.7e9


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("l.csv", "request_id,label\na,normal\nb\n", "l.csv: row 2, column 'label': missing"),
        ("l.csv", "id,label\na,normal\n", "l.csv: column 'request_id' is missing"),
        ("l.jsonl", "{}\n", "l.jsonl: row 1, column 'request_id': missing"),
        ("l.jsonl", '{"request_id":"a","label":"x"}\nnope\n', "l.jsonl: row 2: not JSON"),
        ("l.jsonl", "[]\n", "l.jsonl: row 1: a label must be a JSON object"),
        ("l.xlsx", "?", "l.xlsx: labels cannot be read from '.xlsx'; allowed: .csv"),
    ],
)
def test_a_bad_label_is_named_by_its_row_and_column(
    coalmine: Any, control: Control, tmp_path: Path, name: str, text: str, place: str
) -> None:
    (tmp_path / name).write_text(text)
    done = coalmine("label", name)
    assert done.code == 2
    assert place in done.err
    assert control.asked == [], "no half of a batch"
