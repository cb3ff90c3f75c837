"""`python -m`: a collector for the records of a measured server, with nothing else around it."""

from __future__ import annotations

import os
import sys

import uvicorn

from coalmine.clock import SYSTEM_CLOCK
from coalmine.records import create_collector, open_log

__all__ = ["serve"]


def serve(port: int, url: str) -> None:
    """Collect into the log at a URL until told to end."""
    # In life it has another machine, and here the load's core: it may have what the load leaves.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    app = create_collector(open_log(url), clock=SYSTEM_CLOCK)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
