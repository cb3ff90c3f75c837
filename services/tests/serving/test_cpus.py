"""Threads in a container: never more than its quota, whatever the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coalmine.serving._cpus import available_cpus, thread_count


def write(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
        ("100000 0", 8),
    ],
)
def test_the_second_version_of_control_groups(tmp_path: Path, quota: str, cpus: int) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota}\n"})
    assert available_cpus(root=root) == cpus


def test_the_tightest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod7/app\n",
            "sys/fs/cgroup/kubepods/pod7/app/cpu.max": "max 100000",
            "sys/fs/cgroup/kubepods/pod7/cpu.max": "300000 100000",
            "sys/fs/cgroup/kubepods/cpu.max": "700000 100000",
        },
    )
    assert available_cpus(root=root) == 3


@pytest.mark.parametrize("where", ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"])
@pytest.mark.parametrize("inside", ["", "/docker/0a1b"])
def test_the_first_version(tmp_path: Path, where: str, inside: str) -> None:
    # In a container the path of the host may be shown while the mount starts at the container's.
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/0a1b\n4:cpu,cpuacct:/docker/0a1b\n",
            f"{where}{inside}/cpu.cfs_quota_us": "250000",
            f"{where}{inside}/cpu.cfs_period_us": "100000",
        },
    )
    assert available_cpus(root=root) == 3


def test_no_quota_in_the_first_version(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert available_cpus(root=root) == 8


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert available_cpus(root=tmp_path) == 8


def test_this_machine() -> None:
    assert 1 <= available_cpus() <= 8


def test_what_is_asked_for_is_taken_and_the_rest_is_shared() -> None:
    cpus = available_cpus()
    assert thread_count(5, processes=2) == 5
    assert thread_count(0) == cpus
    assert thread_count(0, processes=cpus + 1) == 1
