"""The machine: its two cores, and what the numbers were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalmine.clock import SYSTEM_CLOCK
from coalmine_loadtests.serving._errors import ServingBenchError

__all__ = ["Cores", "check_cores", "machine", "on_core"]


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves, and which one everything else runs on."""

    server: int = 0
    load: int = 1


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process on the core of the load: it verifies, and spot-checks, meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def check_cores(cores: Cores) -> None:
    """`ServingBenchError` unless there are two cores to pin to."""
    usable = os.sched_getaffinity(0)
    wanted = {cores.server, cores.load}
    if len(wanted) < 2 or not wanted <= usable:
        raise ServingBenchError(
            f"the server and the load need a core each: asked for {cores.server} and "
            f"{cores.load}, usable are {sorted(usable)}"
        )


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "measured": SYSTEM_CLOCK.time(),
    }
