"""The ceiling: ONNX Runtime in a process of its own, called in a loop, with nothing around it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._load import Load
from coalmine_loadtests.serving._models import INPUT, MODELS, random_rows
from coalmine_loadtests.serving._verify import open_session

__all__ = ["load_in_process"]

_WARM_UP_S = 0.2


def load_in_process(cell: Cell, model: Path, *, seconds: float, core: int) -> Load:
    """Calls of `cell.rows` rows on one core."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", __spec__.name]
    command += [cell.model, str(model), str(cell.rows), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServingBenchError(f"ONNX Runtime in process: {done.stderr.strip()[-500:]}")
    return Load(**orjson.loads(done.stdout))


def _main(name: str, model: str, rows: int, seconds: float) -> None:
    session = open_session(Path(model))
    feed = {INPUT: random_rows(MODELS[name], rows, np.random.default_rng(0))}
    until = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < until:
        session.run(None, feed)
    times = [time.perf_counter()]
    until = times[0] + seconds
    while times[-1] < until:
        session.run(None, feed)
        times.append(time.perf_counter())
    took = np.diff(times)
    p50, p99 = 1e3 * np.percentile(took, [50, 99])
    result = {
        "requests": len(took), "seconds": times[-1] - times[0],
        "p50_ms": float(p50), "p99_ms": float(p99), "errors": 0,
    }  # fmt: skip
    sys.stdout.buffer.write(orjson.dumps(result))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
