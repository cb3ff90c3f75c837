"""Several processes behind one port: they look like one, and outlive each other."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tritonclient.grpc as triton_grpc

from coalmine.records import drain_spool

BOTH = pytest.mark.parametrize("kind", ["native", pytest.param("uvicorn", marks=pytest.mark.slow)])
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}
#: New connections: one process alone gets all of them once in a million times.
MANY = 20


def children(served: Any) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(served.process.pid).children(recursive=True)
    return found


def ask(served: Any, name: str) -> tuple[int, Any]:
    """One request on a connection of its own; the status, and (value, version)."""
    answer = httpx.post(f"{served.url}/v2/models/{name}/infer", json=BODY, timeout=20)
    content = answer.json()
    if answer.status_code != 200:
        return answer.status_code, content["error"]
    return 200, (content["outputs"][0]["data"][0], content["model_version"])


def everywhere(served: Any, name: str) -> set[Any]:
    return {ask(served, name)[1] for _ in range(MANY)}


def metric(served: Any, start: str) -> float:
    text = httpx.get(f"{served.url}/metrics", timeout=20).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))


def wait_for(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """A connection that a killed process had taken is broken: that is no answer, and no failure."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def two_ready(served: Any) -> bool:
    return metric(served, 'coalmine_server_processes{state="ready"}') == 2


@pytest.fixture
def models(tmp_path: Path, write_adder: Callable[..., None]) -> Path:
    root = tmp_path / "models"
    write_adder(root / "bare.onnx", 1)
    write_adder(root / "many" / "2" / "model.onnx", 20)
    return root


@pytest.fixture
def start_two(start: Any) -> Callable[..., Any]:
    """Start a server of two processes, and wait until both are ready."""

    def start_one(*arguments: Any, **more: Any) -> Any:
        served = start(*arguments, "--processes", "2", **more)
        wait_for(lambda: served.url in served.text())
        return served

    return start_one


@BOTH
def test_counts_are_of_all_processes(start_two: Any, models: Path, kind: str) -> None:
    served = start_two(models, kind=kind)
    assert len(children(served)) == 2
    assert everywhere(served, "many") == {(20.0, "2")}
    requests = 'coalmine_requests_total{arm="stable",model_name="many",protocol="v2"'
    for _ in range(4):  # whichever process is asked
        assert metric(served, requests) == MANY
    assert metric(served, "coalmine_batch_rows_count") == MANY
    assert metric(served, 'coalmine_model_state{model_name="many",revision="2",state="ready"}') == 1
    assert two_ready(served)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as triton:
        assert triton.is_model_ready("many", "2")


@BOTH
def test_a_killed_process_is_replaced(start_two: Any, models: Path, kind: str) -> None:
    served = start_two(models, kind=kind)
    assert everywhere(served, "many") == {(20.0, "2")}
    requests = 'coalmine_requests_total{arm="stable",model_name="many"'
    assert metric(served, requests) == MANY
    victim = children(served)[0]
    victim.kill()
    wait_for(lambda: not victim.is_running())
    assert everywhere(served, "many") == {(20.0, "2")}, "the other one answers all"
    wait_for(lambda: two_ready(served))
    assert victim.pid not in [child.pid for child in children(served)]
    assert everywhere(served, "many") == {(20.0, "2")}
    assert metric(served, requests) == 3 * MANY, "also what the dead one had counted"
    assert metric(served, "coalmine_server_process_restarts_total") == 1
    assert "process 0 ended (signal SIGKILL)" in served.text()


def test_a_process_that_is_killed_while_it_starts_is_replaced(start: Any, models: Path) -> None:
    served = start(models, "--processes", "2")  # as soon as the first one serves
    wait_for(lambda: len(children(served)) == 2)
    victim = children(served)[1]
    victim.kill()
    wait_for(lambda: f"ready: 2 processes at {served.url}" in served.text())
    wait_for(lambda: two_ready(served))
    assert victim.pid not in [child.pid for child in children(served)]
    assert metric(served, "coalmine_server_process_restarts_total") == 1
    assert served.stop() == 0


@BOTH
def test_a_load_is_for_all_processes(
    start_two: Any, models: Path, kind: str, write_adder: Callable[..., None]
) -> None:
    served = start_two(models, kind=kind)
    repository = f"{served.url}/v2/repository"
    write_adder(models / "many" / "3" / "model.onnx", 30)
    write_adder(models / "bare.onnx", 1.5)
    for name in ("many", "bare"):
        answer = httpx.post(f"{repository}/models/{name}/load", timeout=30)
        assert answer.status_code == 200, answer.text
    assert everywhere(served, "many") == {(30.0, "3")}
    assert everywhere(served, "bare") == {(1.5, "2")}
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as triton:
        triton.unload_model("bare")
        with pytest.raises(Exception, match="unknown model 'none'"):
            triton.load_model("none")
    assert all("unloaded" in str(found) for found in everywhere(served, "bare"))

    (models / "many" / "4").mkdir()
    (models / "many" / "4" / "model.onnx").write_bytes(b"broken")
    refused = httpx.post(f"{repository}/models/many/load", timeout=30)
    assert refused.status_code == 400
    assert "ONNX Runtime cannot load it" in refused.json()["error"]
    assert everywhere(served, "many") == {(30.0, "3")}
    for _ in range(MANY):
        listed = {entry["name"]: entry for entry in httpx.post(f"{repository}/index").json()}
        assert listed["many"]["reason"].startswith("version 4: "), (
            "in the same words in all of them"
        )
        assert "ONNX Runtime cannot load it" in listed["many"]["reason"]
    assert metric(served, 'coalmine_model_load_failures_total{model_name="many"}') == 1

    children(served)[1].kill()
    wait_for(lambda: metric(served, "coalmine_server_process_restarts_total") == 1)
    wait_for(lambda: two_ready(served))
    assert everywhere(served, "many") == {(30.0, "3")}, "what is served, not what is newest"
    assert all(
        "unknown model 'bare'" in str(f) or "unloaded" in str(f) for f in everywhere(served, "bare")
    )


@BOTH
async def test_sigterm_drains_all(
    start_two: Any, model_dir: Path, client: httpx.AsyncClient, kind: str
) -> None:
    served = start_two(model_dir, "--transformer", "moody:Moody", kind=kind)
    slow = {"instances": [{"raw": [1, 2, 3, 4], "wait": 0.9}]}
    url = f"{served.url}/v1/models/toy:predict"
    in_flight = [asyncio.create_task(httpx_post(url, slow)) for _ in range(8)]
    await asyncio.sleep(0.5)
    pids = [child.pid for child in children(served)]
    served.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*in_flight)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert await asyncio.to_thread(served.process.wait, 30) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", served.port)) != 0


async def httpx_post(url: str, content: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as client:  # a connection of its own
        return await client.post(url, json=content)


def test_nothing_survives_a_killed_supervisor(start_two: Any, models: Path) -> None:
    served = start_two(models)
    pids = [child.pid for child in children(served)]
    served.process.kill()
    served.process.wait()
    wait_for(lambda: not any(map(is_alive, pids)))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_stopped_process_does_not_stop_a_scrape(start_two: Any, models: Path) -> None:
    served = start_two(models)
    everywhere(served, "many")
    requests = 'coalmine_requests_total{arm="stable",model_name="many"'
    assert metric(served, requests) == MANY
    frozen, awake = children(served)
    with httpx.Client(timeout=10) as client:
        client.get(f"{served.url}/metrics")  # from now on it asks the same process
        if not any(found.status == "ESTABLISHED" for found in awake.connections()):
            frozen, awake = awake, frozen
        frozen.suspend()
        try:
            for _ in range(2):
                text = client.get(f"{served.url}/metrics").text
                assert 'coalmine_server_processes{state="silent"} 1.0' in text
                lines = [line for line in text.splitlines() if line.startswith(requests)]
                assert sum(float(line.split()[-1]) for line in lines) == MANY
        finally:
            frozen.resume()
    wait_for(lambda: two_ready(served))


@BOTH
def test_a_process_that_hangs_is_replaced_and_the_others_go_on(
    start_two: Any, models: Path, kind: str
) -> None:
    served = start_two(models, "--hang-timeout", "1", kind=kind)
    frozen, awake = children(served)
    with httpx.Client(timeout=20) as client:

        def answered() -> dict[str, float]:
            text = client.get(f"{served.url}/metrics").text
            lines = [line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
            assert client.post(f"{served.url}/v2/models/bare/infer", json=BODY).status_code == 200
            return {name: float(value) for name, value in lines}

        assert answered()["coalmine_server_process_restarts_total"] == 0
        if not any(found.status == "ESTABLISHED" for found in awake.connections()):
            frozen, awake = awake, frozen
        frozen.suspend()  # SIGSTOP
        # One connection to the other process, all the while: not one of its requests fails.
        wait_for(lambda: answered()["coalmine_server_process_restarts_total"] == 1)
        wait_for(lambda: answered()['coalmine_server_processes{state="ready"}'] == 2)
    assert not is_alive(frozen.pid)
    assert is_alive(awake.pid)
    assert "has not answered for 1 s and is killed" in served.text()
    assert served.stop() == 0


@BOTH
def test_what_cannot_start_says_why_once(start: Any, models: Path, kind: str) -> None:
    (models / "bare.onnx").write_bytes(b"broken")
    served = start(models, "--processes", "3", kind=kind, ready=False)
    assert served.process.wait(60) == 1
    assert served.text().count("ONNX Runtime cannot load it") == 1
    assert "Traceback" not in served.text()


@BOTH
def test_a_taken_port_is_refused(start_two: Any, start: Any, models: Path, kind: str) -> None:
    served = start_two(models, kind=kind)
    for arguments in (["--processes", "2"], []):
        second = start(models, *arguments, kind=kind, port=served.port, ready=False)
        assert second.process.wait(60) == 1
        assert f"127.0.0.1:{served.port}" in second.text()
    assert everywhere(served, "many") == {(20.0, "2")}


def test_any_free_port_is_told_when_all_are_ready(start: Any, models: Path) -> None:
    served = start(models, "--processes", "2", port=0, ready=False)
    wait_for(lambda: "http://127.0.0.1:" in served.text())
    line = next(line for line in served.text().splitlines() if line.startswith("http://"))
    served.port = int(line.rpartition(":")[2])
    assert everywhere(served, "bare") == {(1.0, "1")}
    assert served.stop(signal.SIGINT) == 0


def test_each_process_has_its_own_spool(
    start_two: Any, model_dir: Path, tmp_path: Path, collector: Any
) -> None:
    url, log = collector
    spool = tmp_path / "spool"
    served = start_two(model_dir, "--records", url, "--spool", str(spool))
    for _ in range(MANY):
        answer = httpx.post(
            f"{served.url}/v1/models/toy:predict", json={"instances": [[1, 2, 3, 4]]}
        )
        assert answer.status_code == 200
    assert metric(served, "coalmine_records_emitted_total") == MANY
    assert served.stop() == 0
    accounts = [drain_spool(spool / str(index), url, timeout=20) for index in range(2)]
    assert sum(account.emitted_rows for account in accounts) == MANY
    assert all(account.emitted_rows for account in accounts)
    rows = [row for _, batch in log.read(0, limit_rows=10_000) for row in batch.to_pylist()]
    assert len({row["request_id"] for row in rows}) == len(rows) == MANY
    assert {row["model_version"] for row in rows} == {"1"}


def test_records_of_processes_that_are_no_more_are_shipped(
    start_two: Any, start: Any, model_dir: Path, tmp_path: Path, collector: Any
) -> None:
    url, log = collector
    spool = tmp_path / "spool"
    row = {"instances": [[1, 2, 3, 4]]}
    away = start_two(model_dir, "--records", "http://127.0.0.1:9", "--spool", str(spool))
    for _ in range(MANY):
        assert httpx.post(f"{away.url}/v1/models/toy:predict", json=row).status_code == 200
    assert away.stop() == 0
    start(model_dir, "--records", url, "--spool", str(spool))
    wait_for(lambda: log.stats().rows == MANY)


def test_an_unreachable_number_of_processes(start: Any, models: Path) -> None:
    served = start(models, "--processes", "0", ready=False)
    assert served.process.wait(60) == 2
    assert "argument --processes: '0' is not a whole number from 1" in served.text()
