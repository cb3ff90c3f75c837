"""`coalmine bench collector --kills N`: a collector that dies by `kill -9` again and again."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalmine.records import open_log
from coalmine_loadtests.records._bench import acknowledged_and_stored
from coalmine_loadtests.records._load import Sender
from coalmine_loadtests.records._payload import Payload

__all__ = ["KillResult", "run_kills"]

_READY_S = 180.0
#: A round lasts up to so long after the collector's first answer.
_LIFE_S = 0.25


@dataclass(frozen=True, slots=True)
class KillResult:
    """What was found; a row that is lost or doubled is an error instead."""

    kills: int
    in_flight: int
    """Kills that hit while a batch was sent and not yet answered."""

    batches: int
    rows: int
    """Acknowledged, and in the log once."""


def run_kills(
    kills: int,
    *,
    rows: int = 64,
    senders: int = 3,
    directory: Path | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> KillResult:
    """Kill a collector `kills` times at random moments under load, then compare with its log.

    What had no answer is sent again, as emitters do. RuntimeError if an acknowledged row is lost or
    a row is doubled. `told` hears the number of each round that is over.
    """
    # Of a server that has imported everything, so that a round costs a fork and no imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["coalmine_loadtests.serving._collector"])
    in_flight = 0
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        url = f"sqlite:///{scratch}/records.db"
        crowd = [
            Sender(number, 0, Payload(rows=rows, features=20, seed=number))
            for number in range(senders)
        ]
        for number in range(kills):
            in_flight += _round(context, url, crowd, life=random.uniform(0.0, _LIFE_S))
            told(number + 1)
        _round(context, url, crowd, life=None)
        with contextlib.closing(open_log(url)) as log:
            stored = acknowledged_and_stored(log, crowd)
            if log.stats().rows != stored:
                raise RuntimeError(f"the log counts {log.stats().rows} rows and has {stored}")
    batches = sum(len(sender.tags) for sender in crowd)
    if batches * rows != stored:
        raise RuntimeError(f"{batches} batches of {rows} rows were acknowledged, {stored} stored")
    return KillResult(kills=kills, in_flight=in_flight, batches=batches, rows=stored)


def _round(context: Any, url: str, crowd: list[Sender], *, life: float | None) -> bool:
    """One collector's life; without an end, until every batch has its answer."""
    from coalmine_loadtests.serving._collector import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = context.Process(target=serve, args=(port, url))
    process.start()
    try:
        _wait_until_ready(port, process)
        stop = threading.Event()
        for sender in crowd:
            sender.port = port
        threads = [threading.Thread(target=sender.run, args=(stop,)) for sender in crowd]
        for thread in threads:
            thread.start()
        if life is None:
            stop.wait(_LIFE_S)
            stop.set()
        else:
            time.sleep(life)
            process.kill()
            process.join()
        in_flight = any(sender.pending is not None for sender in crowd)
        for thread in threads:
            thread.join()
        return in_flight
    finally:
        process.kill()
        process.join()


def _wait_until_ready(port: int, process: Any) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
            return
        if not process.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the collector did not start")
        time.sleep(0.005)
