"""Start, stop, kill and restart: one process, one port, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from coalmine.clock import ManualClock
from coalmine.serving import ModelLoadError, ServeOptions, create_asgi
from coalmine.serving._open import open_model

BOTH = pytest.mark.parametrize("kind", ["native", "uvicorn"])
#: Cheap in general, and slow when a request asks for it.
MOODY = ("--transformer", "moody:Moody", "--inline", "never")
GOOD = {"instances": [[1, 2, 3, 4]]}


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_server_is_one_process(start: Any, model_dir: Path) -> None:
    served = start(model_dir)
    assert psutil.Process(served.process.pid).children(recursive=True) == []


@BOTH
async def test_sigterm_lets_requests_finish_and_says_not_ready(
    start: Any, model_dir: Path, client: httpx.AsyncClient, kind: str
) -> None:
    served = start(model_dir, *MOODY, kind=kind)
    slow = {"instances": [{"raw": [1, 2, 3, 4], "wait": 0.9}]}
    url = f"{served.url}/v1/models/toy:predict"
    in_flight = [asyncio.create_task(client.post(url, json=slow)) for _ in range(2)]
    await client.get(f"{served.url}/v2/health/ready")  # a connection that is open already
    await asyncio.sleep(0.4)
    begin = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    while (told := await client.get(f"{served.url}/v2/models/toy/ready")).status_code != 503:
        await asyncio.sleep(0.01)  # a connection error ends this test if it never says so
    assert told.headers["connection"] == "close", "or the next request would meet a closed one"
    answers = await asyncio.gather(*in_flight)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert await asyncio.to_thread(served.process.wait, 8) == 0
    assert time.monotonic() - begin < 5
    assert not listening(served.port)


@BOTH
async def test_a_request_that_never_ends_does_not_hold_the_server(
    start: Any, model_dir: Path, client: httpx.AsyncClient, kind: str
) -> None:
    served = start(model_dir, *MOODY, "--drain", "0.5", kind=kind)
    stuck = {"instances": [{"raw": [1, 2, 3, 4], "wait": 30}]}
    task = asyncio.create_task(client.post(f"{served.url}/v1/models/toy:predict", json=stuck))
    await asyncio.sleep(0.3)
    begin = time.monotonic()
    assert await asyncio.to_thread(served.stop) == 0
    assert time.monotonic() - begin < 5
    with contextlib.suppress(httpx.HTTPError):
        await task


async def test_a_model_that_is_quick_is_drained_as_long_as_it_is_asked(model_dir: Path) -> None:
    """Whenever one looks nothing is in flight: such a server ended after a tenth of a second."""
    clock = ManualClock()
    app = create_asgi(ServeOptions(model=str(model_dir)), clock=clock)
    servable = app.plane.repository.get("toy", None)
    draining = asyncio.create_task(app.plane.drain(100.0))
    for _ in range(20):
        servable.metrics.answered("v1", 200, 0.0001)
        clock.advance(1.0)
        await asyncio.sleep(0.05)
    assert not draining.done()
    while not draining.done():  # nobody asks any more, and there is time left
        clock.advance(0.06)
        await asyncio.sleep(0.02)
    assert clock.monotonic() < 100
    app.plane.repository.close()


async def test_a_second_signal_ends_it_at_once(
    start: Any, model_dir: Path, client: httpx.AsyncClient
) -> None:
    served = start(model_dir, *MOODY)
    stuck = {"instances": [{"raw": [1, 2, 3, 4], "wait": 30}]}
    task = asyncio.create_task(client.post(f"{served.url}/v1/models/toy:predict", json=stuck))
    inflight = re.compile(r"^coalmine_inflight_requests\{.*\} 1\.0$", re.MULTILINE)
    while not inflight.search((await client.get(f"{served.url}/metrics")).text):
        await asyncio.sleep(0.01)
    served.process.send_signal(signal.SIGINT)
    while (await client.get(f"{served.url}/v2/health/ready")).status_code == 200:
        await asyncio.sleep(0.01)
    served.process.send_signal(signal.SIGINT)
    await asyncio.to_thread(served.process.wait, 20)
    assert "Traceback" not in served.text()
    with contextlib.suppress(httpx.HTTPError):
        await task


@BOTH
def test_killed_and_started_again_on_the_same_port(start: Any, model_dir: Path, kind: str) -> None:
    served = start(model_dir, kind=kind)
    assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    assert not listening(served.port)
    again = start(model_dir, "--version", "2", kind=kind, port=served.port)
    answer = httpx.post(f"{again.url}/v1/models/toy:predict", json=GOOD)
    assert (answer.status_code, answer.headers["x-coalmine-version"]) == (200, "2")


def test_interrupt_stops_it_too(start: Any, model_dir: Path) -> None:
    assert start(model_dir).stop(signal.SIGINT) == 0


def test_sigterm_while_it_loads_is_not_lost(start: Any, model_dir: Path) -> None:
    served = start(model_dir, ready=False)
    time.sleep(0.3)
    assert served.stop() in (0, -signal.SIGTERM)


def test_it_dies_with_its_supervisor(start: Any, model_dir: Path, tmp_path: Path) -> None:
    supervisor = """
import ctypes, subprocess, sys, time
def die_with_parent():
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
child = subprocess.Popen(sys.argv[1:], preexec_fn=die_with_parent)
print(child.pid, flush=True)
time.sleep(60)
"""
    running = start(model_dir)
    running.stop()
    command = [
        sys.executable,
        "-m",
        "coalmine.serving",
        str(model_dir),
        "--port",
        str(running.port),
    ]
    parent = subprocess.Popen(
        [sys.executable, "-c", supervisor, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    running.process = parent
    running.wait_ready()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    # The port is free only once the last of its threads is gone, a little after the process.
    deadline = time.monotonic() + 10
    while listening(running.port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(server) or (
        psutil.Process(server).status() == psutil.STATUS_ZOMBIE
    )
    assert not listening(running.port)


@pytest.mark.parametrize(
    ("kind", "arguments", "complaint"),
    [
        ("native", ["--transformer", "no.such:Thing"], "transformer no.such:Thing"),
        ("native", ["--transformer", "math:pi"], "transformer math:pi"),
        ("native", ["--require-gpu"], "GPU is required"),
        ("uvicorn", ["--transformer", "no.such:Thing"], "transformer no.such:Thing"),
    ],
)
def test_what_cannot_start_says_why(
    start: Any, model_dir: Path, kind: str, arguments: list[str], complaint: str
) -> None:
    served = start(model_dir, *arguments, kind=kind, ready=False)
    assert served.process.wait(20) == 1
    assert complaint in served.text()
    assert "Traceback" not in served.text()


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_broken_network_says_so(start: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    served = start(tmp_path, ready=False)
    assert served.process.wait(20) == 1
    assert "ONNX Runtime cannot load it" in served.text()
    served = start(tmp_path / "nothing", ready=False)
    assert served.process.wait(20) == 1
    assert "no such model directory" in served.text()


def test_a_card_of_another_network_is_refused(start: Any, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((model_dir / "model.onnx").read_bytes())
    card = (model_dir / "model.yaml").read_text().replace("datatype: INT64", "datatype: INT32")
    (tmp_path / "model.yaml").write_text(card)
    served = start(tmp_path, ready=False)
    assert served.process.wait(20) == 1
    assert "outputs: says" in served.text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--name", "a/b"], "the name 'a/b' cannot be asked for"),
        (["--version", "1\n2"], "the version '1\\n2' cannot be asked for"),
    ],
)
def test_what_no_path_can_name(
    start: Any, model_dir: Path, arguments: list[str], complaint: str
) -> None:
    served = start(model_dir, *arguments, ready=False)
    assert served.process.wait(30) == 1
    assert complaint in served.text()


def test_a_card_of_other_shapes_is_refused(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((model_dir / "model.onnx").read_bytes())
    card = yaml.safe_load((model_dir / "model.yaml").read_text())
    card["inputs"][0] |= {"shape": [-1, 5], "columns": []}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ModelLoadError, match=r"says shape \[-1, 5\] of 'features', the network"):
        open_model(ServeOptions(model=str(tmp_path)))
    (tmp_path / "model.yaml").write_text("")
    with pytest.raises(ModelLoadError, match=r"model\.yaml: needs `name`, `inputs`"):
        open_model(ServeOptions(model=str(tmp_path)))


@BOTH
def test_a_taken_port_is_refused(start: Any, model_dir: Path, kind: str) -> None:
    served = start(model_dir, kind=kind)
    second = start(model_dir, kind=kind, port=served.port, ready=False)
    assert second.process.wait(20) == 1
    assert f"127.0.0.1:{served.port}" in second.text()


def test_any_free_port_is_told(model_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coalmine.serving", f"file:{model_dir}", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.post(f"{url}/v1/models/toy:predict", json=GOOD).status_code == 200:
                    break
            time.sleep(0.05)
        else:
            pytest.fail(f"nothing answers at {url}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
