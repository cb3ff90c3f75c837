"""Running the demo from a shell: state directory, ports, signals, report, exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coalmine.clock import SYSTEM_CLOCK
from coalmine.demo._options import DemoOptions

if TYPE_CHECKING:
    from coalmine.demo._live import View
    from coalmine.demo._play import Play

__all__ = ["run_demo"]

_OK, _NOT_AS_EXPECTED, _CANNOT_START, _INTERRUPTED = 0, 1, 2, 130
_INTERRUPTED_TEXT = "interrupted"
_PORTS = 10
#: Below the range that Linux hands out by itself, which another process could be given meanwhile.
_PORT_RANGE = range(20_000, 32_000, _PORTS)


def run_demo(options: DemoOptions) -> int:
    """Run one scenario; 0 if everything was as expected, 1 if not, 2 if it could not start.

    Blocks; to be called in the main thread, where Ctrl-C arrives. An interrupted run writes
    report.json with what it has seen, and gives 130.
    """
    from coalmine.demo._live import JsonLines, LiveView

    view: View = JsonLines() if options.headless or not sys.stdout.isatty() else LiveView()
    state = options.state or Path(tempfile.mkdtemp(prefix="coalmine-demo-"))
    code = _CANNOT_START
    try:
        code = asyncio.run(_perform(options, state=state, view=view))
    finally:
        if options.state is None:
            if code in (_OK, _INTERRUPTED) and not options.keep_state:
                shutil.rmtree(state, ignore_errors=True)
            else:
                print(f"state kept: {state}", file=sys.stderr)
    return code


async def _perform(options: DemoOptions, *, state: Path, view: View) -> int:
    from coalmine.demo._play import Play

    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    play = Play(options, state=state, port=options.port or free_ports(), view=view)
    with _stack_log(play):
        performing = asyncio.create_task(play.perform(), name="play")
        waiting = asyncio.create_task(interrupted.wait())
        await asyncio.wait({performing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if interrupted.is_set():
            performing.cancel()
        await asyncio.wait({performing})
    return await _conclude(play, problem=_problem_of(performing), view=view)


def _problem_of(performing: asyncio.Task[None]) -> str | None:
    """What ended the play early, in words; what is nobody's fault but ours is raised."""
    from coalmine.demo._play import CutShort
    from coalmine.stack import StackError

    if performing.cancelled():
        return _INTERRUPTED_TEXT
    error = performing.exception()
    if error is None:
        return None
    found = _leaves(error)
    if not all(isinstance(each, CutShort | StackError | TimeoutError) for each in found):
        raise error
    return "; ".join(str(each) or type(each).__name__ for each in found)


async def _conclude(play: Play, *, problem: str | None, view: View) -> int:
    """Write the report and say how it went; the exit code."""
    from coalmine.demo._collect import collect
    from coalmine.demo._report import write_json, write_pages

    story = collect(play, problem=problem, machine=_machine())
    directory = play.options.report
    path = write_json(story, directory)
    if problem != _INTERRUPTED_TEXT:  # whoever presses Ctrl-C does not wait for pictures
        path = await asyncio.to_thread(write_pages, story, directory)
    checks = {check.name: [check.ok, check.found] for check in story.checks}
    view.end({"report": str(path), "problem": problem, "checks": checks}, ok=story.ok)
    if problem == _INTERRUPTED_TEXT:
        return _INTERRUPTED
    if not play.ledger.answers:
        return _CANNOT_START
    return _OK if story.ok else _NOT_AS_EXPECTED


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


@contextmanager
def _stack_log(play: Play) -> Iterator[None]:
    """Show what the supervisor says, a killed part for one, in the story instead of on stderr."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            play.note(Event(SYSTEM_CLOCK.time(), "stack", record.getMessage()))

    from coalmine.demo._history import Event

    handler = Told(level=logging.WARNING)
    logger = logging.getLogger("coalmine")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def free_ports(count: int = _PORTS) -> int:
    """The first of `count` ports in a row that are free on loopback."""
    starts = list(_PORT_RANGE)
    random.shuffle(starts)
    for start in starts:
        if all(_is_free(port) for port in range(start, start + count)):
            return start
    raise OSError(f"no {count} free ports in a row below {_PORT_RANGE.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}"
