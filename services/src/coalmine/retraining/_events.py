"""What a run tells of itself: one JSON line per event in the run's directory.

The directory is named by the environment variable `COALMINE_RUN_DIR`, which the child process sets;
where it is not set, as on a cluster, the events go to the log alone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coalmine.clock import SYSTEM_CLOCK, Clock

RUN_DIR = "COALMINE_RUN_DIR"
RUN_PROCESS = "COALMINE_RUN_PROCESS"
_EVENTS_FILE = "events.jsonl"
_FOLLOW_SECONDS = 0.5
_log = logging.getLogger(__name__)


def emit_event(kind: str, **facts: Any) -> None:
    """Append an event; one write, so that lines of several processes do not mix."""
    line = json.dumps({"event": kind, **facts})
    _log.info("%s", line)
    directory = os.environ.get(RUN_DIR)
    if directory is None:
        return
    path = Path(directory) / _EVENTS_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def read_events(directory: Path) -> list[dict[str, Any]]:
    """The events so far; a line that is still being written is left out."""
    try:
        text = (directory / _EVENTS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    events = []
    for line in text.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:  # torn: the process was killed while it wrote
            continue
    return events


def read_events_of_run() -> list[dict[str, Any]]:
    """The events so far of the run that this process is a step of; none outside of one."""
    directory = os.environ.get(RUN_DIR)
    return [] if directory is None else read_events(Path(directory))


@contextmanager
def step(name: str, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[None]:
    """Mark the body as one step of the pipeline: when it began, how long it took, how it ended."""
    _follow_the_run()
    began = clock.monotonic()
    emit_event("step", name=name, state="started", time=clock.time())

    def ended(state: str, **facts: str) -> None:
        seconds = round(clock.monotonic() - began, 3)
        emit_event("step", name=name, state=state, seconds=seconds, **facts)

    try:
        yield
    except Exception as error:
        ended("failed", error=f"{type(error).__name__}: {error}")
        raise
    ended("done")


def _follow_the_run() -> None:
    """Die when the run's process dies: a step that outlives it would act for a run that is over.

    The step's parent is a shell between the two, so the kernel's parent-death signal does not help.
    """
    run = os.environ.get(RUN_PROCESS)
    if run is None:
        return

    def watch() -> None:
        while True:
            time.sleep(_FOLLOW_SECONDS)
            try:
                os.kill(int(run), 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, name="follow-the-run", daemon=True).start()
