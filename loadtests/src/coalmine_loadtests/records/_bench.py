"""`coalmine bench collector`: rows a second that one core takes in, durably, over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from coalmine.records import RecordLog, open_log
from coalmine_loadtests._files import write_whole
from coalmine_loadtests.records._load import Sender
from coalmine_loadtests.records._payload import Payload, tag_of
from coalmine_loadtests.serving._machine import on_core
from coalmine_loadtests.serving._process import PinnedProcess

__all__ = [
    "CollectorBench",
    "CollectorResult",
    "acknowledged_and_stored",
    "run_collector_bench",
    "write_json",
]

_READY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorBench:
    """What is measured."""

    seconds: float = 10.0
    rows: int = 1024
    """Of a batch; an emitter ships so many at once when it is busy."""

    features: int = 20
    senders: int = 4
    directory: Path | None = None
    """Where the log is made; its disk is what is measured. None: the temporary directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorResult:
    """What was found."""

    rows: int
    """Acknowledged, and found in the log afterwards, each once."""

    seconds: float
    rows_per_second: float
    cpu_seconds: float
    """Of the collector, user and system."""

    rows_per_cpu_second: float
    median_ms: float
    p99_ms: float
    bytes_per_row_sent: float
    bytes_per_row_on_disk: float
    refused: int
    """Answers of 429."""


def run_collector_bench(options: CollectorBench) -> CollectorResult:
    """Run a collector on core 0 and senders on core 1, then read the log back and compare.

    RuntimeError if a row that was acknowledged is not in the log once.
    """
    payloads = [
        Payload(rows=options.rows, features=options.features, seed=number)
        for number in range(options.senders)
    ]
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch, on_core(1):
        path = Path(scratch) / "records.db"
        with _collector(path, core=0) as (port, process):
            # A warm-up: imports, the file's first pages, the connection.
            warm = [Sender(100 + n, port, payload) for n, payload in enumerate(payloads)]
            _send(warm, seconds=0.5)
            before = process.cpu_seconds()
            senders = [Sender(n, port, payload) for n, payload in enumerate(payloads)]
            took = _send(senders, seconds=options.seconds)
            cpu = process.cpu_seconds() - before
        with contextlib.closing(open_log(f"sqlite:///{path}")) as log:
            rows = acknowledged_and_stored(log, [*warm, *senders])
            on_disk = log.stats().bytes / max(1, rows)
    measured = sum(len(sender.tags) for sender in senders) * options.rows
    times = sorted(second for sender in senders for second in sender.seconds) or [0.0]
    return CollectorResult(
        rows=measured,
        seconds=took,
        rows_per_second=measured / took,
        cpu_seconds=cpu,
        rows_per_cpu_second=measured / max(cpu, 1e-9),
        median_ms=1e3 * statistics.median(times),
        p99_ms=1e3 * times[int(0.99 * (len(times) - 1))],
        bytes_per_row_sent=len(payloads[0].body) / options.rows,
        bytes_per_row_on_disk=on_disk,
        refused=sum(sender.refused for sender in senders),
    )


def acknowledged_and_stored(log: RecordLog, senders: list[Sender]) -> int:
    """The rows in the log; RuntimeError if one was acknowledged and is not there, or is twice."""
    for sender in senders:
        if sender.failures:
            raise RuntimeError(f"the collector answered {sender.failures[0]}")
    rows, offset = 0, 0
    seen: dict[str, int] = {}
    sizes = {sender.payload.rows for sender in senders}
    while batches := log.read(offset, limit_rows=100_000):
        offset = batches[-1][0]
        for _, batch in batches:
            tag = tag_of(batch.column("request_id")[0].as_py())
            seen[tag] = seen.get(tag, 0) + 1
            rows += batch.num_rows
            if batch.num_rows not in sizes:
                raise RuntimeError(f"batch {tag} has {batch.num_rows} rows")
    acknowledged = {tag for sender in senders for tag in sender.tags}
    pending = {sender.pending for sender in senders}
    if lost := acknowledged - seen.keys():
        raise RuntimeError(f"{len(lost)} acknowledged batches are not in the log")
    if doubled := [tag for tag, count in seen.items() if count > 1]:
        raise RuntimeError(f"{len(doubled)} batches are in the log twice")
    if strange := seen.keys() - acknowledged - pending:
        raise RuntimeError(f"{len(strange)} batches are in the log that nobody sent")
    return rows


def _send(senders: list[Sender], *, seconds: float) -> float:
    stop = threading.Event()
    threads = [threading.Thread(target=sender.run, args=(stop,)) for sender in senders]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


@contextlib.contextmanager
def _collector(path: Path, *, core: int) -> Iterator[tuple[int, PinnedProcess]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = (
        sys.executable, "-m", "coalmine_loadtests.serving._collector", str(port),
        f"sqlite:///{path}",
    )  # fmt: skip
    with PinnedProcess(command, core=core, log=path.with_suffix(".txt")) as process:
        deadline = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
                break
            if process.ended is not None or time.monotonic() > deadline:
                raise RuntimeError(path.with_suffix(".txt").read_text("utf-8")[-2000:])
            time.sleep(0.05)
        yield port, process


def write_json(result: CollectorResult, path: Path) -> None:
    """The numbers, for other programs."""
    content = {**asdict(result), "cores": os.cpu_count()}
    write_whole(path, json.dumps(content, indent=2) + "\n")
