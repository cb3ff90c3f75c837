"""What serving costs a network that keeps a GPU busy: `python -m coalmine.apps.image.bench`.

The same network, on the same provider, in this process through ONNX Runtime alone (batches of
`--rows`, from one thread and from two; the better counts) and then behind a server through gRPC:
in batches of `--rows`, and as single images that the server batches itself. Answers are compared
first. Prints images a second and their ratios, and the same as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from coalmine.apps.image._load import Load, answer, measure
from coalmine.apps.image._network import SIDE, write_network
from coalmine.clock import SYSTEM_CLOCK
from coalmine.protocol import Array

__all__ = ["in_process", "main", "served"]

_PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_READY = 300.0  # TensorRT builds its engines in minutes
_MAX_BODY = 256 * 1024**2


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 if an answer is wrong or a ratio is below `--require`."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        network = options.model or write_network(Path(made))
        images = np.random.default_rng(1).normal(size=(options.rows, 3, SIDE, SIDE))
        images = images.astype(np.float32)
        expected, provider, alone = in_process(network, options, images)
        with served(network, options) as port:
            got = answer(port, images)
            off = float(np.abs(got - expected).max() / expected.std())
            if off > options.tolerance:
                print(f"wrong answers: off by {off:.3g} standard deviations", file=sys.stderr)
                return 1
            shared = {"port": port, "processes": options.clients, "seconds": options.seconds}
            batches = Load(rows=options.rows, streams=options.batches_in_flight, **shared)
            singles = Load(rows=1, streams=options.images_in_flight, **shared)
            rates = {"batches": measure(batches, images), "singles": measure(singles, images)}
    ratios = {name: rate / alone for name, rate in rates.items()}
    print(f"{provider}, batches of {options.rows}, images a second:")
    print(f"  ONNX Runtime in process   {alone:10.1f}")
    for name, rate in rates.items():
        print(f"  gRPC, {name:<19} {rate:10.1f}   {ratios[name]:.0%}")
    print(json.dumps({"provider": provider, "in_process": alone, **rates, "ratios": ratios}))
    return 1 if min(ratios.values()) < options.require else 0


def in_process(
    network: Path, options: argparse.Namespace, images: Array
) -> tuple[Array, str, float]:
    """The logits, the provider, and images a second of ONNX Runtime without a server."""
    import onnxruntime as ort  # not needed for --help

    if "cpu" not in options.providers[:1] and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    providers = [_PROVIDERS[name] for name in options.providers]
    usable = [name for name in providers if name in ort.get_available_providers()]
    session = ort.InferenceSession(str(network), providers=usable)
    expected: Array = session.run(None, {"image": images})[0]
    rates = [_rate(session, images, options.seconds, threads=threads) for threads in (1, 2)]
    return expected, session.get_providers()[0], max(rates)


def _rate(session: Any, images: Array, seconds: float, *, threads: int) -> float:
    until = SYSTEM_CLOCK.monotonic() + seconds
    done = [0] * threads

    def run(number: int) -> None:
        while True:
            session.run(None, {"image": images})
            if SYSTEM_CLOCK.monotonic() > until:
                return
            done[number] += 1

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) * len(images) / seconds


@contextmanager
def served(network: Path, options: argparse.Namespace) -> Iterator[int]:
    """A server of the network, in a process of its own; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "coalmine.serving", str(network), "--name", "image"),
        *("--port", str(port), "--providers", ",".join(options.providers)),
        *("--gpu-batch-rows", str(options.rows), "--max-body", str(_MAX_BODY)),
        *("--processes", str(options.processes)),
        *(["--require-gpu"] if options.require_gpu else []),
        *(["--cuda-graphs"] if options.cuda_graphs else []),
    ]
    process = subprocess.Popen(command)
    try:
        give_up = SYSTEM_CLOCK.monotonic() + _READY
        while not _ready(port):
            if process.poll() is not None or SYSTEM_CLOCK.monotonic() > give_up:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            threading.Event().wait(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").is_success
    except httpx.TransportError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m coalmine.apps.image.bench",
        description="Compare a served network with ONNX Runtime in process.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, help="model.onnx as written before (default: written anew)")
    add("--providers", type=lambda text: tuple(text.split(",")), default=("cuda", "cpu"))
    add("--require-gpu", action="store_true", help="fail where there is no GPU")
    add("--cuda-graphs", action="store_true")
    add("--rows", type=int, default=32, help="images in a batch")
    add("--seconds", type=float, default=10.0, help="length of each measurement")
    add("--processes", type=int, default=1, help="server processes")
    add("--clients", type=int, default=4, help="client processes")
    add("--batches-in-flight", type=int, default=2, help="of each client")
    add("--images-in-flight", type=int, default=32, help="of each client, as single images")
    add("--tolerance", type=float, default=0.05, help="standard deviations; TF32 rounds coarsely")
    add("--require", type=float, default=0.0, help="lowest ratio that passes, 0.85 say")
    return parser


if __name__ == "__main__":
    sys.exit(main())
