"""Models from elsewhere through the server: names, versions, reloads; and records in a file."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine.records import open_log

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's URL, and the directory it serves."""
    root = tmp_path / "web"
    root.mkdir()
    handler = functools.partial(_Quiet, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


def ask(served: Any, name: str) -> tuple[float, str]:
    answer = httpx.post(f"{served.url}/v2/models/{name}/infer", json=BODY, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"][0], answer.json()["model_version"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_model_from_the_web_and_its_next_version(
    web: Any, start: Any, write_adder: Callable[..., None], tmp_path: Path, processes: int
) -> None:
    url, root = web
    write_adder(root / "adder.onnx", 1)
    cache = tmp_path / "cache"
    served = start(f"{url}/adder.onnx", "--model-cache", str(cache), "--processes", str(processes))
    assert ask(served, "adder") == (1, "1")
    write_adder(root / "adder.onnx", 2)
    load = f"{served.url}/v2/repository/models/adder/load"
    assert httpx.post(load, timeout=60).status_code == 200
    assert {ask(served, "adder") for _ in range(5)} == {(2, "2")}
    assert httpx.post(load, timeout=60).status_code == 200, "nothing new"
    assert ask(served, "adder") == (2, "2")
    (root / "adder.onnx").write_bytes(b"broken")
    refused = httpx.post(load, timeout=60)
    assert (refused.status_code, "not a whole ONNX file" in refused.text) == (400, True)
    assert ask(served, "adder") == (2, "2")
    if processes == 1:
        assert "ready: adder version 1 at http://127.0.0.1:" in served.text()


def test_what_cannot_be_had_stops_the_start(web: Any, start: Any, tmp_path: Path) -> None:
    served = start(f"{web[0]}/none.onnx", "--model-cache", str(tmp_path / "c"), ready=False)
    assert served.process.wait(60) == 1
    (line,) = [line for line in served.text().splitlines() if line.startswith("coalmine serve:")]
    assert "/none.onnx: HTTP resource not found" in line
    assert "Traceback" not in served.text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_registered_version_is_the_version(
    start: Any, write_adder: Callable[..., None], tmp_path: Path
) -> None:
    from coalmine.retraining._mlflow import load_mlflow

    load_mlflow()
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("sum")
    for number in (1, 2, 3):
        store = tmp_path / f"store-{number}"
        write_adder(store / "model.onnx", number)
        client.create_model_version("sum", source=store.as_uri())
    client.set_registered_model_alias("sum", "champion", "2")
    more = {"MLFLOW_TRACKING_URI": uri, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    served = start("models:/sum@champion", ready=False, **more)
    served.wait_ready(timeout=120)  # MLflow's import is seconds of CPU
    assert ask(served, "sum") == (2, "2")
    assert list((tmp_path / "cache" / "coalmine" / "models" / "content").iterdir())
    client.set_registered_model_alias("sum", "champion", "3")
    load = httpx.post(f"{served.url}/v2/repository/models/sum/load", timeout=120)
    assert load.status_code == 200, load.text
    assert ask(served, "sum") == (3, "3")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_records_in_a_file_without_a_collector(
    start: Any, write_adder: Callable[..., None], tmp_path: Path, processes: int
) -> None:
    write_adder(tmp_path / "adder.onnx", 1)
    file = tmp_path / "kept" / "records.db"
    served = start(
        tmp_path / "adder.onnx",
        *("--records", f"sqlite:///{file}", "--processes", str(processes)),
    )
    for _ in range(20):
        ask(served, "adder")
    log = open_log(f"sqlite:///{file}")
    deadline = time.monotonic() + 30
    while log.stats().rows < 20:
        assert time.monotonic() < deadline, served.text()
        time.sleep(0.05)
    rows = [row for _, batch in log.read(0, limit_rows=100) for row in batch.to_pylist()]
    log.close()
    assert served.stop() == 0
    assert len(rows) == 20
    assert {(row["model_name"], row["model_version"], row["x"]) for row in rows} == {
        ("adder", "1", 0.0)
    }
    assert (tmp_path / "kept" / "records.db.spool" / "adder-stable").is_dir()
