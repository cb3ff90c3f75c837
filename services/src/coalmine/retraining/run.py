"""One run of the pipeline, in a process of its own: `python -m coalmine.retraining.run DIRECTORY`.

`DIRECTORY/run.json` says what to run. The process writes `result.json` when the pipeline has ended,
well or not; a process that leaves none has died. Its parent limits its time, and starts it again.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from coalmine.retraining._events import RUN_DIR, RUN_PROCESS, read_events
from coalmine.retraining._files import write_json
from coalmine.retraining._kfp import load_pipeline, run_locally
from coalmine.retraining._parameters import RunParameters

RUN_FILE = "run.json"
RESULT_FILE = "result.json"
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run what a directory's `run.json` says; 0 if the pipeline has ended by itself."""
    directory = Path(arguments[0])
    order = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
    _die_with_parent(order["parent"])
    os.environ[RUN_DIR] = str(directory)
    os.environ[RUN_PROCESS] = str(os.getpid())
    error: str | None = None
    try:
        pipeline = load_pipeline(order["pipeline"])
        run_locally(pipeline, RunParameters(**order["parameters"]), directory=directory)
    except Exception as problem:  # whatever a pipeline raises is the result of this run
        traceback.print_exc()
        error = f"{type(problem).__name__}: {problem}"
    write_json(directory / RESULT_FILE, _result(read_events(directory), error))
    return 0


def _result(events: list[dict[str, Any]], error: str | None) -> dict[str, Any]:
    """What the events of a run amount to."""
    decision: dict[str, Any] = next((e for e in events if e["event"] == "decision"), {})
    registered: dict[str, Any] = next((e for e in events if e["event"] == "registered"), {})
    failed = [e for e in events if e["event"] == "step" and e["state"] == "failed"]
    if error is None and decision.get("decision") == "promote" and "version" in registered:
        outcome = "promote"
    elif error is None and decision.get("decision") == "reject":
        outcome = "reject"
    else:
        outcome = "failed"
        error = failed[-1]["error"] if failed else error or "the pipeline ended without a decision"
    return {
        "outcome": outcome,
        "error": error,
        "version": registered.get("version"),
        "reasons": decision.get("reasons", []),
    }


def _die_with_parent(parent: int) -> None:
    """Be killed when the parent ends, however it ends; else nobody would limit this run's time."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent has ended")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
