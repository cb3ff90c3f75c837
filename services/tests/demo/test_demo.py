"""The demo as a process: ports, what cannot start, and Ctrl-C at any time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from coalmine.demo import DemoOptions, Scenario, run_demo
from coalmine.demo._demo import free_ports


def test_free_ports_are_free_and_in_a_row() -> None:
    first = free_ports(8)
    for port in range(first, first + 8):
        with closing(socket.socket()) as sock:
            sock.bind(("127.0.0.1", port))


def test_a_taken_port_is_told_and_gives_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = free_ports(8)
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", first + 1))
        sock.listen()
        code = run_demo(
            DemoOptions(
                scenario=Scenario.NONE,
                headless=True,
                port=first,
                state=tmp_path / "state",
                report=tmp_path / "report",
            )
        )
    assert code == 2
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert str(first + 1) in summary["problem"]
    assert (tmp_path / "report" / "report.html").exists()


def interrupted(tmp_path: Path, when: Callable[[str], bool]) -> tuple[dict[str, Any], str]:
    """Run the demo, press Ctrl-C once its output satisfies `when`; the report and the output."""
    output = tmp_path / "output.jsonl"
    command = [sys.executable, "-m", "coalmine.cli", "demo", "--scenario", "none", "--headless"]
    command += ["--report", str(tmp_path / "report")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    family: list[psutil.Process] = []
    try:
        give_up = time.monotonic() + 240
        while not when(output.read_text()):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < give_up, output.read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(6) == 130
        _, left = psutil.wait_procs(family, timeout=1)
        assert left == []
    finally:
        for child in [*family, *([process] if process.poll() is None else [])]:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass
        process.wait()
    report: dict[str, Any] = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["ok"] is False
    assert report["problem"] == "interrupted"
    assert list(tmp_path.glob("coalmine-demo-*")) == [], "the temporary state is removed"
    return report, output.read_text()


def test_ctrl_c_while_the_stack_starts(tmp_path: Path) -> None:
    report, output = interrupted(tmp_path, lambda told: '"stage":"start"' in told)
    assert report["requests"] == 0
    assert json.loads(output.splitlines()[-1])["event"] == "summary"


@pytest.mark.slow
@pytest.mark.timeout(300)  # it trains a model first, perhaps beside other tests
def test_ctrl_c_in_the_middle_of_the_traffic(tmp_path: Path) -> None:
    streaming = re.compile(r'"stage":"before","requests":[1-9]\d\d')
    report, _ = interrupted(tmp_path, lambda told: streaming.search(told) is not None)
    assert report["requests"] >= 100
    assert report["failed_requests"] == 0
    assert report["accuracy"]["before"] > 0.8
    assert report["records_in_log"] > 0
