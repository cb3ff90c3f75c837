"""How many CPUs this process may use: its affinity mask, and the quota of its control group.

A container with a quota of two CPUs on a machine of 64 sees 64 of them. Threads beyond the quota
are stopped by the kernel in the middle of a batch, for tens of milliseconds at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["available_cpus", "thread_count"]


def thread_count(asked: int, *, processes: int = 1) -> int:
    """ONNX Runtime's threads for one process of `processes` on this machine.

    `asked` is a number of threads, or 0 for this process's share of the CPUs: at least one.
    """
    return asked or max(1, available_cpus() // processes)


def available_cpus(*, root: Path = Path("/")) -> int:
    """CPUs of the affinity mask, or fewer if a quota says so; a part of a CPU counts as one.

    `root` is where `/proc` and `/sys` are.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in CPUs, of this process's control group and of those around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            bases, read = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            bases, read = ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"], _quota_v1
        else:
            continue
        for base in bases:
            for group in _upwards(path):
                quota = read(root / base / group)
                if quota is not None:
                    yield quota


def _upwards(path: str) -> Iterator[str]:
    """The group and its ancestors. In a container the path may name groups outside the mount."""
    group = PurePosixPath(path.lstrip("/"))
    yield str(group)
    for parent in group.parents:
        yield str(parent)


def _quota_v2(directory: Path) -> float | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(directory: Path) -> float | None:
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
