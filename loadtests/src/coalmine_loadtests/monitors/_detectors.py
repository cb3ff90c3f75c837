"""The detectors that are compared, each in a process of its library's own environment."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from coalmine_loadtests.monitors._errors import MonitorBenchError
from coalmine_loadtests.serving._environments import PEERS, Environments, repository
from coalmine_loadtests.serving._errors import AbsentError

__all__ = ["METHODS", "OURS", "SHIPPED", "Detectors", "Method", "Worker"]

Floats = NDArray[np.float64]

OURS = "Coalmine"

#: What BLAS and others would do beside one core is not what is compared. Threads that wait for work
#: count as much as those that work.
_ONE_CORE = {
    f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "POLARS", "RAYON")
}


@dataclass(frozen=True, slots=True)
class Method:
    """A detector of a library."""

    library: str
    method: str
    lock: str | None
    """Name of the environment; None: this one."""

    script: str
    distribution: str
    batched: bool = True
    """Judges windows; else row after row."""

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.library if self == METHODS[0] else f"{self.library} {self.method}"


def _peer(
    library: str, method: str, lock: str, distribution: str, *, batched: bool = True
) -> Method:
    return Method(library, method, lock, f"peer_{lock}.py", distribution, batched)


METHODS = (
    Method(OURS, "evidence", None, "peer_coalmine.py", "coalmine-monitors"),
    _peer("alibi-detect", "KSDrift", "alibi", "alibi-detect"),
    _peer("alibi-detect", "CVMDriftOnline", "alibi", "alibi-detect", batched=False),
    _peer("Evidently", "DataDriftPreset", "evidently", "evidently"),
    _peer("NannyML", "univariate JS", "nannyml", "nannyml"),
    _peer("NannyML", "PCA", "nannyml", "nannyml"),
    _peer("river", "ADWIN", "river", "river", batched=False),
    _peer("river", "PageHinkley", "river", "river", batched=False),
    _peer("river", "KSWIN", "river", "river", batched=False),
    _peer("Frouros", "KSTest", "frouros", "frouros"),
    _peer("Frouros", "CVMTest", "frouros", "frouros"),
)

#: Coalmine as a service file has it that says nothing: with the statistics of all columns together.
SHIPPED = Method(OURS, "as shipped", None, "peer_coalmine.py", "coalmine-monitors")


class Worker:
    """One process; asked one thing at a time."""

    def __init__(self, process: subprocess.Popen[bytes], *, scratch: Path, log: Path) -> None:
        self._process = process
        self._scratch = scratch
        self._log = log

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def ask(self, do: str, *, arrays: Mapping[str, Floats], **command: Any) -> dict[str, Any]:
        """The answer; MonitorBenchError with what the library said if it has none."""
        for name, array in arrays.items():
            path = self._scratch / f"{name}.npy"
            np.save(path, array.astype(np.float32))
            command[name] = str(path)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(orjson.dumps({"do": do, **command}) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            told = self._log.read_text("utf-8", "replace").strip()[-600:]
            raise MonitorBenchError(f"the process ended: {told or 'without a word'}")
        answer: dict[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise MonitorBenchError(str(answer["error"]))
        return answer


class Detectors:
    """Starts workers, and knows which libraries cannot be had here."""

    def __init__(
        self, *, environments: Path | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._environments = Environments(directory=environments, tell=tell)
        self._tell = tell
        self._kept: dict[str, Worker] = {}
        self._open = ExitStack()

    def __enter__(self) -> Detectors:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.clear()
        self._open.close()

    def available(self, methods: tuple[Method, ...]) -> tuple[Method, ...]:
        """Those whose environment is there or can be made; of the others it is told why not."""
        broken: dict[str | None, str] = {}
        for lock in dict.fromkeys(method.lock for method in methods):
            try:
                self._environments.python(lock)
            except AbsentError as error:
                broken[lock] = str(error)
                self._tell(f"{lock}: left out: {error}")
        return tuple(method for method in methods if method.lock not in broken)

    def version(self, method: Method) -> str:
        """Of the library."""
        return self._environments.versions(method.lock, (method.distribution,))[method.distribution]

    def worker(self, method: Method) -> Worker:
        """The process of the method's library; a new one if the last has ended.

        Kept, as importing a library may take longer than what it is asked.
        """
        kept = self._kept.get(method.script)
        if kept is None or kept.has_ended:
            kept = self._kept[method.script] = self._open.enter_context(self.fresh(method))
        return kept

    @contextmanager
    def fresh(self, method: Method) -> Iterator[Worker]:
        """A process that has done nothing yet, ended with the block."""
        script = repository() / PEERS / "monitors" / method.script
        python = self._environments.python(method.lock)
        with tempfile.TemporaryDirectory(prefix="coalmine-bench-") as scratch:
            log = Path(scratch) / "stderr.txt"
            with log.open("wb") as told:
                process = subprocess.Popen(
                    [str(python), str(script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=told,
                    env={
                        **os.environ,
                        **_ONE_CORE,
                        "PYTHONWARNINGS": "ignore",
                        "MPLBACKEND": "Agg",
                    },
                    # Ctrl-C is ours to handle; the worker ends with its pipe.
                    start_new_session=True,
                )
                try:
                    yield Worker(process, scratch=Path(scratch), log=log)
                finally:
                    process.kill()
                    process.communicate()
