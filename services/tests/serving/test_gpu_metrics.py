"""GPU metrics: what NVML says becomes samples, and what it cannot say stops nothing."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from coalmine.serving._gpu import GpuCollector, management_library


class NvmlError(Exception):
    pass


class Nvml:
    """As much of `pynvml` as is read, for devices made of (used, total, percent)."""

    NVMLError = NvmlError

    def __init__(self, *devices: tuple[int, int, int]) -> None:
        self.devices = list(devices)
        self.lost: set[str] = set()

    def _check(self, function: str) -> None:
        if function in self.lost:
            raise NvmlError("GPU is lost")

    def nvmlDeviceGetCount(self) -> int:
        self._check("count")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._check(f"handle{index}")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._check(f"memory{handle}")
        used, total, _ = self.devices[handle]
        return SimpleNamespace(used=used, total=total)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._check(f"utilization{handle}")
        return SimpleNamespace(gpu=self.devices[handle][2], memory=0)


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def served(nvml: Nvml) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuCollector(nvml))
    return registry


def test_every_device_is_read_anew_at_each_scrape() -> None:
    nvml = Nvml((3 * 2**30, 80 * 2**30, 42), (0, 16 * 2**30, 0))
    registry = served(nvml)
    assert scrape(registry) == {
        'coalmine_gpu_memory_used_bytes{device="0"}': 3 * 2**30,
        'coalmine_gpu_memory_used_bytes{device="1"}': 0,
        'coalmine_gpu_memory_total_bytes{device="0"}': 80 * 2**30,
        'coalmine_gpu_memory_total_bytes{device="1"}': 16 * 2**30,
        'coalmine_gpu_utilization_ratio{device="0"}': 0.42,
        'coalmine_gpu_utilization_ratio{device="1"}': 0.0,
    }
    nvml.devices[0] = (5, 80 * 2**30, 100)
    assert scrape(registry)['coalmine_gpu_utilization_ratio{device="0"}'] == 1.0


def test_a_device_lost_in_the_middle_of_a_scrape(caplog: pytest.LogCaptureFixture) -> None:
    nvml = Nvml((1, 2, 3), (4, 8, 5))
    registry = served(nvml)
    nvml.lost = {"utilization0"}
    with caplog.at_level(logging.WARNING, logger="coalmine.serving"):
        for _ in range(3):
            samples = scrape(registry)
    assert 'coalmine_gpu_memory_used_bytes{device="0"}' in samples
    assert 'coalmine_gpu_utilization_ratio{device="0"}' not in samples
    assert samples['coalmine_gpu_utilization_ratio{device="1"}'] == 0.05
    assert len(caplog.records) == 1, "logged once, not at every scrape"
    nvml.lost = {"handle0"}
    assert [name for name in scrape(registry) if 'device="0"' in name] == []
    nvml.lost = {"count"}
    assert scrape(registry) == {}
    nvml.lost = set()
    assert len(scrape(registry)) == 6, "it is back"


def test_a_machine_without_the_library_has_no_such_metrics() -> None:
    nvml = management_library()
    if nvml is not None:
        pytest.skip("this machine has NVML; tests/gpu reads it")
    assert nvml is None
