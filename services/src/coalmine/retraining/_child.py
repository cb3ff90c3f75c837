"""The process that runs one attempt of a pipeline: limited in time, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from coalmine.retraining._files import write_json
from coalmine.retraining.run import RESULT_FILE, RUN_FILE

AttemptEnd = Literal["ended", "died", "timeout"]

_RUN_ID = "COALMINE_RUN_ID"


async def run_attempt(
    directory: Path,
    *,
    run_id: str,
    order: Mapping[str, Any],
    seconds: float,
    environment: Mapping[str, str],
) -> AttemptEnd:
    """Run `coalmine.retraining.run` in a new directory for at most `seconds`.

    `ended`: it has written its result. When this is cancelled the process is killed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RUN_FILE, {**order, "parent": os.getpid()})
    with (directory / "log.txt").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "coalmine.retraining.run",
            str(directory),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment, _RUN_ID: run_id},
            start_new_session=True,  # a group of its own, so that its steps can be killed with it
        )
    try:
        await asyncio.wait_for(process.wait(), timeout=max(seconds, 0.0))
    except TimeoutError:
        return "timeout"
    finally:
        # Also after a death: its steps may be alive, and would act for a run that is over.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
        # And what a step has started in a session of its own, as a daemon does.
        await asyncio.shield(asyncio.to_thread(kill_leftovers, run_id))
    return "ended" if (directory / RESULT_FILE).exists() else "died"


def kill_leftovers(run_id: str) -> int:
    """Kill what a retrainer that died has left of a run; how many processes that were."""
    killed = 0
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_RUN_ID) == run_id:
                process.kill()
                killed += 1
        except (psutil.Error, OSError):
            continue  # it has ended, or is not ours
    return killed
