"""GPU memory and utilisation for Prometheus, read from NVIDIA's management library at each scrape.

A machine without the library or its driver has no such metrics. A device that is lost while the
server runs, or does not support a reading (a MIG slice has no utilisation), loses its own samples
alone: the scrape goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["GpuCollector", "management_library", "watch_gpus"]

_log = logging.getLogger("coalmine.serving")
_LABELS = ("device",)


def watch_gpus(registry: CollectorRegistry) -> None:
    """Show the GPUs of this machine, if it has any."""
    nvml = management_library()
    if nvml is not None:
        registry.register(GpuCollector(nvml))


def management_library() -> Any:
    """NVML, ready to be asked (the module `pynvml`); None where there is none."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.info("no GPU metrics: %s", error)
        return None
    return pynvml


class GpuCollector(Collector):
    """Reads every device that `nvml`, a module like `pynvml`, can see."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._complained: set[tuple[int, str]] = set()

    def describe(self) -> Iterable[Metric]:
        """Nothing is read at registration: a device may take a while to wake up."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families, with a sample for each device that answers."""
        used = GaugeMetricFamily(
            "coalmine_gpu_memory_used_bytes",
            "Memory of the GPU in use, by every process.",
            labels=_LABELS,
        )
        total = GaugeMetricFamily(
            "coalmine_gpu_memory_total_bytes", "Memory of the GPU.", labels=_LABELS
        )
        busy = GaugeMetricFamily(
            "coalmine_gpu_utilization_ratio",
            "Share of the last sample period (up to a second) in which a kernel ran.",
            labels=_LABELS,
        )
        for device in range(self._read(-1, "nvmlDeviceGetCount") or 0):
            handle = self._read(device, "nvmlDeviceGetHandleByIndex", device)
            if handle is None:
                continue
            memory = self._read(device, "nvmlDeviceGetMemoryInfo", handle)
            if memory is not None:
                used.add_metric((str(device),), memory.used)
                total.add_metric((str(device),), memory.total)
            rates = self._read(device, "nvmlDeviceGetUtilizationRates", handle)
            if rates is not None:
                busy.add_metric((str(device),), rates.gpu / 100)
        yield from (used, total, busy)

    def _read(self, device: int, function: str, *arguments: Any) -> Any:
        """What a function of NVML says; None if it fails, which is logged once."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError as error:
            if (device, function) not in self._complained:
                self._complained.add((device, function))
                _log.warning("GPU %d: %s: %s", device, function, error)
            return None
