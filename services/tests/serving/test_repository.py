"""Many models in one server: load, reload and unload while clients go on asking."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from coalmine.records import drain_spool
from coalmine.serving import ServeOptions, create_asgi

BOTH = pytest.mark.parametrize("kind", ["native", "uvicorn"])


def ask(served: Any, name: str, *, path: str = "") -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}
    return httpx.post(f"{served.url}/v2/models/{name}{path}/infer", json=body, timeout=20)


def manage(served: Any, verb: str, name: str, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{served.url}/v2/repository/models/{name}/{verb}", json=body or None, timeout=30
    )


def index(served: Any, **body: Any) -> dict[str, dict[str, str]]:
    answer = httpx.post(f"{served.url}/v2/repository/index", json=body or None, timeout=20)
    return {entry.pop("name"): entry for entry in answer.json()}


def value(answer: httpx.Response) -> tuple[float, str]:
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert answer.headers["x-coalmine-version"] == content["model_version"]
    return content["outputs"][0]["data"][0], content["model_version"]


@pytest.fixture
def models(tmp_path: Path, write_adder: Callable[..., None]) -> Path:
    """A bare network, a model directory, and one in numbered versions."""
    root = tmp_path / "models"
    write_adder(root / "bare.onnx", 1)
    write_adder(root / "plain" / "model.onnx", 2)
    write_adder(root / "many" / "2" / "model.onnx", 20)
    write_adder(root / "many" / "10" / "model.onnx", 100)
    (root / "many" / "config.pbtxt").write_text("# Triton's, which we do not need")
    (root / "many" / "11").mkdir()  # still being copied
    (root / "notes.txt").write_text("not a model")
    return root


@contextmanager
def hammered(served: Any, name: str) -> Iterator[Counter[Any]]:
    """Clients over HTTP and gRPC that never stop; gives (protocol, value, version) by count."""
    seen: Counter[Any] = Counter()
    stop = threading.Event()

    def over_http() -> None:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                answer = client.post(f"{served.url}/v2/models/{name}/infer", json=body)
                ok = answer.status_code == 200
                seen[("http", *value(answer)) if ok else (answer.status_code, answer.text)] += 1

    def over_grpc() -> None:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as client:
            x = triton_grpc.InferInput("x", [1, 1], "FP32")
            x.set_data_from_numpy(np.zeros((1, 1), np.float32))
            while not stop.is_set():
                try:
                    result = client.infer(name, [x])
                except Exception as error:
                    seen["grpc", str(error)] += 1
                else:
                    version = result.get_response().model_version
                    seen["grpc", float(result.as_numpy("y")[0, 0]), version] += 1

    threads = [threading.Thread(target=target) for target in (over_http, over_http, over_grpc)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(seen: Counter[Any], what: set[Any], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not what <= set(seen):
        assert time.monotonic() < deadline, f"{what} not in {seen}"
        time.sleep(0.01)


@BOTH
def test_a_directory_of_models(start: Any, models: Path, kind: str) -> None:
    served = start(models, kind=kind)
    assert value(ask(served, "bare")) == (1, "1")
    assert value(ask(served, "plain")) == (2, "1")
    assert value(ask(served, "many")) == (100, "10"), "the highest number, as a number"
    assert value(ask(served, "many", path="/versions/10")) == (100, "10")
    other = ask(served, "many", path="/versions/2")
    assert other.status_code == 404
    assert "served here: 10" in other.json()["error"]
    unknown = ask(served, "none")
    assert unknown.status_code == 404
    assert "bare, many, plain" in unknown.json()["error"]
    assert httpx.get(f"{served.url}/v2/models/many").json()["versions"] == ["10"]
    ready = {"state": "READY", "reason": ""}
    assert index(served) == {
        "bare": {"version": "1", **ready},
        "many": {"version": "10", **ready},
        "plain": {"version": "1", **ready},
    }
    text = httpx.get(f"{served.url}/metrics").text
    assert 'coalmine_model_state{model_name="many",revision="10",state="ready"} 1.0' in text
    (info,) = [
        line
        for line in text.splitlines()
        if line.startswith("coalmine_model_info{arm") and "many" in line
    ]
    assert 'revision="10"} 1.0' in info
    assert 'digest="sha256:' in info
    assert 'coalmine_requests_total{arm="stable",model_name="plain"' in text


def test_several_uris(start: Any, models: Path) -> None:
    served = start(f"one={models / 'bare.onnx'}", f"two=file:{models / 'many'}")
    assert value(ask(served, "one")) == (1, "1")
    assert value(ask(served, "two")) == (100, "10")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{}/bare.onnx", "two={}/plain"], "need a name each"),
        (["a={}/bare.onnx", "a={}/plain"], "the model name a is given twice"),
        (["a={}/bare.onnx", "b={}/nothing"], "model b: "),
        (["{}/none"], "no such model"),
    ],
)
def test_sources_that_make_no_sense(
    start: Any, models: Path, arguments: list[str], complaint: str
) -> None:
    served = start(*(text.format(models) for text in arguments), ready=False)
    assert served.process.wait(60) == 1
    assert complaint in served.text()
    assert "Traceback" not in served.text()


@BOTH
def test_models_change_under_load_without_a_failed_request(
    start: Any, models: Path, kind: str, write_adder: Callable[..., None]
) -> None:
    served = start(models, kind=kind)
    with hammered(served, "many") as seen:
        until(seen, {("http", 100.0, "10"), ("grpc", 100.0, "10")})
        write_adder(models / "many" / "11" / "model.onnx", 110)
        assert manage(served, "load", "many").json() == {"name": "many", "load": True}
        until(seen, {("http", 110.0, "11"), ("grpc", 110.0, "11")})
        assert manage(served, "unload", "plain").status_code == 200
        write_adder(models / "new.onnx", 7)
        assert index(served)["new"]["state"] == "UNAVAILABLE", "seen, not loaded"
        assert manage(served, "load", "new").status_code == 200
        assert value(ask(served, "new")) == (7, "1")
        write_adder(models / "bare.onnx", 1.5)
        assert manage(served, "load", "bare").status_code == 200
        assert value(ask(served, "bare")) == (1.5, "2"), "other content, another version"
        assert manage(served, "load", "bare").status_code == 200
        assert value(ask(served, "bare")) == (1.5, "2"), "the same content, the same version"
        gone = ask(served, "plain")
        assert gone.status_code == 503
        assert "unloaded" in gone.json()["error"]
        assert httpx.get(f"{served.url}/v2/models/plain/ready").status_code == 503
        assert manage(served, "load", "plain").status_code == 200
        assert value(ask(served, "plain")) == (2, "1")
    assert {key[1:] for key in seen} == {(100.0, "10"), (110.0, "11")}, seen


@BOTH
def test_a_broken_new_version_leaves_the_old_one_serving(
    start: Any, models: Path, kind: str
) -> None:
    served = start(models, kind=kind)
    (models / "many" / "12").mkdir()
    (models / "many" / "12" / "model.onnx").write_bytes(b"half a network")
    refused = manage(served, "load", "many")
    assert refused.status_code == 400
    assert "ONNX Runtime cannot load it" in refused.json()["error"]
    assert value(ask(served, "many")) == (100, "10")
    entry = index(served, ready=True)["many"]
    assert (entry["version"], entry["state"]) == ("10", "READY")
    assert "version 12" in entry["reason"]
    model_ready = httpx.get(f"{served.url}/v2/models/many/ready")
    assert model_ready.status_code == 200
    assert "version 12" in model_ready.json()["reason"]
    server_ready = httpx.get(f"{served.url}/v2/health/ready")
    assert server_ready.status_code == 200
    assert "version 12" in server_ready.json()["reasons"]["many"]
    text = httpx.get(f"{served.url}/metrics").text
    assert 'coalmine_model_load_failures_total{model_name="many"} 1.0' in text
    shutil.rmtree(models / "many" / "12")
    assert manage(served, "load", "many").status_code == 200
    assert index(served)["many"]["reason"] == ""


@BOTH
def test_tritons_clients(start: Any, models: Path, kind: str) -> None:
    served = start(models, kind=kind)
    for client in (
        triton_http.InferenceServerClient(f"127.0.0.1:{served.port}"),
        triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}"),
    ):
        with client:
            assert client.is_model_ready("many", "10")
            assert not client.is_model_ready("many", "2")
            client.unload_model("many")
            assert not client.is_model_ready("many")
            more = {} if client.__module__.startswith("tritonclient.http") else {"as_json": True}
            listed = client.get_model_repository_index(**more)
            listed = listed["models"] if more else listed
            (many,) = [entry for entry in listed if entry["name"] == "many"]
            assert (many["state"], many["reason"]) == ("UNAVAILABLE", "unloaded")
            client.load_model("many")
            assert client.is_model_ready("many")
            with pytest.raises(Exception, match=r"unknown model 'none'.*bare, many, plain"):
                client.load_model("none")
            with pytest.raises(Exception, match=r"'config'.*its own source"):
                client.load_model("many", config="{}")


def test_requests_that_make_no_sense(start: Any, models: Path) -> None:
    served = start(models)
    url = f"{served.url}/v2/repository"
    for path, content, status in (
        ("/index", b"{", 400),
        ("/index", b'{"ready": 1}', 400),
        ("/models/many/load", b"[]", 400),
        ("/models/many/load", b'{"parameters": []}', 400),
        ("/models/many/load", b'{"parameters": {"file:1/model.onnx": "AA=="}}', 400),
        ("/models/many/unload", b'{"parameters": {"x": 1}}', 400),
        ("/models/none/unload", b"", 404),
        ("/models/many/shake", b"", 404),
        ("/models/many/load", b" " * 2 * 1024**2, 413),
    ):
        answer = httpx.post(url + path, content=content)
        assert (answer.status_code, set(answer.json())) == (status, {"error"}), (path, content)
    assert httpx.get(f"{url}/index").status_code == 405
    assert value(ask(served, "many")) == (100, "10")


def test_watching(start: Any, models: Path, write_adder: Callable[..., None]) -> None:
    served = start(models, "--watch", "0.1")
    with hammered(served, "many") as seen:
        write_adder(models / "many" / "12" / "model.onnx", 120)
        until(seen, {("http", 120.0, "12"), ("grpc", 120.0, "12")})
        (models / "many" / "13").mkdir()
        (models / "many" / "13" / "model.onnx").write_bytes(b"broken")
        deadline = time.monotonic() + 20
        while "13" not in index(served)["many"]["reason"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert {key[1:] for key in seen} <= {(100.0, "10"), (120.0, "12")}, seen
    text = httpx.get(f"{served.url}/metrics").text
    assert 'coalmine_model_load_failures_total{model_name="many"} 1.0' in text, "not tried again"


def test_watching_a_source_that_goes_away(
    start: Any, models: Path, write_adder: Callable[..., None]
) -> None:
    plain = models / "plain"
    served = start(plain, "--watch", "0.1")
    plain.rename(models / "moved")
    deadline = time.monotonic() + 60
    while not index(served)["plain"]["reason"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert value(ask(served, "plain")) == (2, "1")
    write_adder(plain / "model.onnx", 3)
    while value(ask(served, "plain")) != (3, "2"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert index(served)["plain"]["reason"] == ""


@pytest.mark.slow  # each look at another place is a process of its own, which imports much
def test_watching_another_place(
    start: Any, tmp_path: Path, write_adder: Callable[..., None]
) -> None:
    site = tmp_path / "site"
    write_adder(site / "m.onnx", 1)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = start(
            f"http://127.0.0.1:{server.server_port}/m.onnx",
            *("--watch", "1", "--model-cache", str(tmp_path / "cache")),
        )
        assert value(ask(served, "m")) == (1, "1")
        write_adder(site / "m.onnx", 2)
        deadline = time.monotonic() + 60
        while value(ask(served, "m")) != (2, "2"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.shutdown()


def test_records_name_the_version_that_answered(
    start: Any, model_dir: Path, tmp_path: Path, collector: Any
) -> None:
    url, log = collector
    root = tmp_path / "models"
    shutil.copytree(model_dir, root / "toy" / "1")
    shutil.copytree(model_dir, root / "other")
    served = start(root, "--records", url, "--spool", str(tmp_path / "spool"))
    answers: list[str] = []
    stop = threading.Event()

    def go_on() -> None:
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                answer = client.post(
                    f"{served.url}/v1/models/toy:predict", json={"instances": [[1, 2, 3, 4]]}
                )
                assert answer.status_code == 200
                answers.append(answer.headers["x-coalmine-version"])

    threads = [threading.Thread(target=go_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in ("2", "3", "4"):
        time.sleep(0.2)
        shutil.copytree(model_dir, root / "toy" / version)
        assert manage(served, "load", "toy").status_code == 200
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert served.stop() == 0
    stats = drain_spool(tmp_path / "spool" / "toy", url, timeout=20)  # a busy machine needs more
    assert (stats.dropped_rows, stats.pending_rows) == (0, 0)
    rows = [row for _, batch in log.read(0, limit_rows=1_000_000) for row in batch.to_pylist()]
    assert Counter(row["model_version"] for row in rows) == Counter(answers)
    assert set(answers) == {"1", "2", "3", "4"}


async def test_a_load_ends_although_nobody_waits_for_it(
    models: Path, write_adder: Callable[..., None]
) -> None:
    app = create_asgi(ServeOptions(model=str(models)))
    repository = app.plane.repository
    write_adder(models / "many" / "11" / "model.onnx", 110)
    asked = asyncio.create_task(repository.load("many"))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    while repository.get("many", None).version != "11":
        await asyncio.sleep(0.01)
    await repository.load("many")
    assert repository.slot("many").state == "READY"
    repository.close()
