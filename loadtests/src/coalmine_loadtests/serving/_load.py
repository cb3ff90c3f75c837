"""The load: wrk for HTTP and h2load for gRPC, both in C: the client's core is not the limit.

Both repeat one verified request. wrk counts every answer that is no 2xx or 3xx. h2load looks at no
trailer, but a gRPC error carries no message: the bytes of all answers together must be the bytes of
as many right answers, exactly.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._wire import Request

__all__ = ["TOOLS", "Load", "Loader", "missing_tools", "parse_h2load", "parse_wrk"]

_SCRIPT = Path(__file__).with_name("load.lua")
#: Program and the Debian package that has it.
TOOLS = {"wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}
_GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
_TIMEOUT_S = 20
_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a load generator saw. Times are of a request as the client sees it."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    told: str = ""
    """What went wrong, in words; empty if nothing did."""


def missing_tools(tools: Mapping[str, str] = TOOLS) -> str:
    """The programs that are not installed, with the packages that have them; empty if all are."""
    return ", ".join(
        f"{program} is not installed (Debian: apt-get install {package})"
        for program, package in tools.items()
        if shutil.which(program) is None
    )


@dataclass(frozen=True, slots=True)
class Loader:
    """Sends one request over and over to a server on this machine, from one core."""

    cell: Cell
    request: Request
    answer_bytes: int
    http_port: int
    grpc_port: int
    core: int
    scratch: Path

    def run(self, seconds: float, *, like: Load | None = None) -> Load:
        """Load for about so long; `like` is an earlier run, whose rate gRPC's is timed by."""
        if self.cell.protocol == "grpc":
            return self._grpc(seconds, like)
        return self._http(seconds)

    def _http(self, seconds: float) -> Load:
        body = self.scratch / "body"
        body.write_bytes(self.request.body)
        headers = [f"-H{name}: {value}" for name, value in self.request.headers.items()]
        # wrk knows whole seconds only, which is why a fraction is rounded up.
        whole = max(1, int(np.ceil(seconds)))
        command = [
            "wrk", "-t1", f"-c{self.cell.connections}", f"-d{whole}s", f"--timeout={_TIMEOUT_S}s",
            "-s", str(_SCRIPT), *headers,
            f"http://127.0.0.1:{self.http_port}{self.request.path}", "--", str(body),
        ]  # fmt: skip
        return parse_wrk(self._output(command, whole))

    def _grpc(self, seconds: float, like: Load | None) -> Load:
        body = self._message()
        # So many that the wanted time passes: with a number of requests instead of a duration
        # every one is answered in full, and the bytes can be counted.
        under_way = self.cell.connections * self.cell.streams
        like = like or self._h2load(body, requests=4 * under_way, seconds=seconds)
        requests = max(under_way, round(like.requests / like.seconds * seconds))
        return self._h2load(body, requests=requests, seconds=seconds)

    def _h2load(self, body: Path, *, requests: int, seconds: float) -> Load:
        log = self.scratch / "h2load.log"
        log.unlink(missing_ok=True)
        command = self._h2load_command(body, requests=requests, log=log)
        output = self._output(command, seconds)
        return parse_h2load(output, log, requests=requests, answer_bytes=5 + self.answer_bytes)

    def _message(self) -> Path:
        """The message in gRPC's frame: not compressed, and its length."""
        path = self.scratch / "message"
        path.write_bytes(struct.pack(">BI", 0, len(self.request.body)) + self.request.body)
        return path

    def _h2load_command(self, body: Path, *, requests: int, log: Path) -> list[str]:
        clients = min(self.cell.connections, requests)
        return [
            "h2load", "-t1", f"-n{requests}", f"-c{clients}", f"-m{self.cell.streams}",
            *(f"-H{header}" for header in _GRPC_HEADERS), "-d", str(body),
            f"--log-file={log}", f"http://127.0.0.1:{self.grpc_port}{self.request.path}",
        ]  # fmt: skip

    def _output(self, command: list[str], seconds: float) -> str:
        pinned = ["taskset", "-c", str(self.core), *command]
        try:
            done = subprocess.run(
                pinned, capture_output=True, text=True, check=False, timeout=seconds + _PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            raise ServingBenchError(
                f"{self.cell.name}: {command[0]} was not answered within {seconds + _PATIENCE_S} s"
            ) from None
        if done.returncode != 0:
            raise ServingBenchError(f"{command[0]} failed: {done.stderr or done.stdout}")
        return done.stdout


def parse_wrk(output: str) -> Load:
    """The line that `load.lua` prints."""
    line = re.search(r"^RESULT (\{.*\})$", output, re.M)
    if line is None:
        raise ServingBenchError(f"wrk told no result:\n{output[-1000:]}")
    content = orjson.loads(line[1])
    told = ", ".join(f"{n} {kind} errors" for kind, n in content["errors"].items() if n)
    return Load(
        requests=content["requests"],
        seconds=content["microseconds"] / 1e6,
        p50_ms=content["p50_us"] / 1e3,
        p99_ms=content["p99_us"] / 1e3,
        errors=sum(content["errors"].values()),
        told=told,
    )


_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m),", re.M)
_REQUESTS = re.compile(r"^requests: (\d+) total.*? (\d+) succeeded, (\d+) failed", re.M)
_STATUSES = re.compile(r"^status codes: (\d+) 2xx", re.M)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.M)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def parse_h2load(output: str, log: Path, *, requests: int, answer_bytes: int) -> Load:
    """What h2load printed, and the time of each request from its log.

    `answer_bytes` are those of one right answer with the five of gRPC's frame.
    """
    finished, counts = _FINISHED.search(output), _REQUESTS.search(output)
    statuses, data = _STATUSES.search(output), _DATA.search(output)
    if finished is None or counts is None or statuses is None or data is None:
        raise ServingBenchError(f"h2load told no result:\n{output[-1000:]}")
    wrong = requests - min(int(counts[2]), int(statuses[1]))
    told = f"{wrong} of {requests} calls failed" if wrong else ""
    missing = requests * answer_bytes - int(data[1])
    if not wrong and missing:
        wrong = max(1, round(abs(missing) / answer_bytes))
        told = f"the answers have {data[1]} bytes, not {requests} x {answer_bytes}"
    # Start of the request, status, and how long it took in microseconds.
    took = np.array([int(line.split()[2]) for line in log.read_text().splitlines()] or [0])
    p50, p99 = np.percentile(took, [50, 99]) / 1e3
    return Load(
        requests=int(counts[2]),
        seconds=float(finished[1]) * _UNITS[finished[2]],
        p50_ms=float(p50),
        p99_ms=float(p99),
        errors=wrong,
        told=told,
    )
