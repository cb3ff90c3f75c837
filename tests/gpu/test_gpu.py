"""On a GPU: the same answers as on the CPU, whatever the batch, the threads and the options.

Run with `make test-gpu`, in an environment with `coalmine[gpu]` (docs/serving.md, On a GPU).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from coalmine.apps.image import SIDE, write_network
from coalmine.serving import ModelLoadError
from coalmine.serving._lanes import GraphLane, HostLane
from coalmine.serving._onnx import OnnxModel
from coalmine.serving._pinned import host_array
from coalmine.serving._providers import RuntimeOptions

#: TF32 keeps ten bits of each factor; in standard deviations of the logits.
TOLERANCE = 0.05
GPU = ("cuda", "cpu")


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def cpu(network: Path) -> OnnxModel:
    return OnnxModel(network, RuntimeOptions(threads=0))


@pytest.fixture(scope="session", params=["copied", "graphs"])
def gpu(request: pytest.FixtureRequest, network: Path) -> Iterator[OnnxModel]:
    graphs = request.param == "graphs"
    options = RuntimeOptions(providers=GPU, require_gpu=True, gpu_batch_rows=8, cuda_graphs=graphs)
    model = OnnxModel(network, options)
    lanes: Any = model._lanes
    kind = GraphLane if graphs else HostLane
    assert all(isinstance(lane, kind) for lane in lanes._all), "it fell back"
    yield model
    model.close()


def images(rows: int, seed: int = 0) -> dict[str, Any]:
    drawn = np.random.default_rng(seed).normal(size=(rows, 3, SIDE, SIDE))
    return {"image": drawn.astype(np.float32)}


def check(expected: Any, got: Any) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() / expected.std() < TOLERANCE


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 17])
def test_the_same_answers_as_on_the_cpu(gpu: OnnxModel, cpu: OnnxModel, rows: int) -> None:
    tensors = images(rows)
    check(cpu.run(tensors)["logits"], gpu.run(tensors)["logits"])


def test_it_runs_two_batches_at_once_and_says_so(gpu: OnnxModel) -> None:
    assert gpu.providers[0] == "CUDAExecutionProvider"
    assert gpu.runners == 2
    assert gpu.max_batch_rows == 8


def test_many_threads_each_get_their_own_answers(gpu: OnnxModel, cpu: OnnxModel) -> None:
    batches = [images(1 + seed % 8, seed) for seed in range(16)]
    expected = [cpu.run(tensors)["logits"] for tensors in batches]
    start = threading.Barrier(4)

    def caller(number: int) -> None:
        start.wait()
        for _ in range(5):
            for index in range(number, 16, 4):
                check(expected[index], gpu.run(batches[index])["logits"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(caller, range(4)))


def test_answers_stay_when_later_batches_run(gpu: OnnxModel, cpu: OnnxModel) -> None:
    tensors = images(4, 1)
    answer = gpu.run(tensors)["logits"]
    kept = answer.copy()
    for seed in range(4):
        gpu.run(images(4, seed + 2))
    np.testing.assert_array_equal(answer, kept)
    check(cpu.run(tensors)["logits"], answer)


def test_host_memory_is_page_locked() -> None:
    import ctypes

    from coalmine.serving._pinned import _cuda_runtime

    array = host_array((1024, 1024), np.dtype(np.float32), device=0)
    runtime = _cuda_runtime()
    assert runtime is not None
    flags = ctypes.c_uint(0)
    address = ctypes.c_void_p(array.ctypes.data)
    # Succeeds for page-locked memory alone.
    assert runtime.cudaHostGetFlags(ctypes.byref(flags), address) == 0


def test_two_models_with_graphs_side_by_side(network: Path, cpu: OnnxModel) -> None:
    """One is recorded while the other serves, as at a reload; neither may spoil the other."""
    options = RuntimeOptions(providers=GPU, require_gpu=True, gpu_batch_rows=4, cuda_graphs=True)
    first = OnnxModel(network, options)
    tensors = images(3)
    expected = cpu.run(tensors)["logits"]
    stop = threading.Event()

    def serve() -> int:
        count = 0
        while not stop.is_set():
            check(expected, first.run(tensors)["logits"])
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        serving = [pool.submit(serve) for _ in range(2)]
        second = OnnxModel(network, options)
        stop.set()
        assert all(each.result() for each in serving)
    check(expected, second.run(tensors)["logits"])
    first.close()
    second.close()


def test_a_network_that_graphs_cannot_have_runs_without(tmp_path: Path, caplog: Any) -> None:
    """Control flow, and an operator on the CPU: ONNX Runtime refuses to record either."""
    info = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])], "b", [], [info("n", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["a"])], "o", [], [info("a", TensorProto.FLOAT, None)]
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], then_branch=branch, else_branch=other),
        ],
        "g",
        [info("x", TensorProto.FLOAT, ["n", 2])],
        [info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    opened = OnnxModel(path, RuntimeOptions(providers=GPU, cuda_graphs=True))
    assert "runs without CUDA graphs" in caplog.text
    answer = opened.run({"x": np.ones((1, 2), np.float32)})["y"]
    np.testing.assert_array_equal(answer, [[-1, -1]])


def test_a_device_that_is_not_there(network: Path) -> None:
    with pytest.raises(ModelLoadError, match="a GPU is required, and none can be used"):
        OnnxModel(network, RuntimeOptions(providers=GPU, require_gpu=True, device=63))


def test_a_memory_limit_that_is_too_small(network: Path) -> None:
    options = RuntimeOptions(providers=("cuda",), require_gpu=True, gpu_memory_limit=2**20)
    with pytest.raises(ModelLoadError, match=r"(?i)memory|alloc"):
        OnnxModel(network, options)


@contextmanager
def server(network: Path, *arguments: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "coalmine.serving", str(network), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--name", "image", "--providers", "cuda,cpu", "--require-gpu", *arguments]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 100
        while True:
            assert process.poll() is None
            assert time.monotonic() < give_up
            try:
                if httpx.get(f"{url}/v2/health/ready").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_a_server_shows_its_gpu(network: Path) -> None:
    with server(network) as url:
        text = httpx.get(f"{url}/metrics").text
    samples = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("coalmine_gpu")
    )
    assert float(samples['coalmine_gpu_memory_used_bytes{device="0"}']) > 100e6
    assert 0 <= float(samples['coalmine_gpu_utilization_ratio{device="0"}']) <= 1


@pytest.mark.parametrize("processes", [1, 4])
def test_the_bar(network: Path, processes: int) -> None:
    """Prints the ratios; 85 % is wanted, at batch 32 and under batching of single images."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coalmine.apps.image.bench", "--model", str(network)),
            *("--require-gpu", "--seconds", "5", "--processes", str(processes)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ,
    )
    print(done.stdout)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["provider"] == "CUDAExecutionProvider"
