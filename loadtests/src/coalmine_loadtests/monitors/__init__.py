"""Drift monitors beside their peers: false alarms, delay, power, throughput and memory."""

from __future__ import annotations

from coalmine_loadtests.monitors._detectors import METHODS, Detectors
from coalmine_loadtests.monitors._errors import MonitorBenchError
from coalmine_loadtests.monitors._main import MonitorBenchOptions, run_monitor_bench
from coalmine_loadtests.monitors._report import print_results, write_report
from coalmine_loadtests.monitors._results import Results, joined, missed
from coalmine_loadtests.monitors._streams import StreamFile, read_stream
from coalmine_loadtests.monitors._worlds import NULLS, World, null_rows

__all__ = [
    "METHODS",
    "NULLS",
    "Detectors",
    "MonitorBenchError",
    "MonitorBenchOptions",
    "Results",
    "StreamFile",
    "World",
    "joined",
    "missed",
    "null_rows",
    "print_results",
    "read_stream",
    "run_monitor_bench",
    "write_report",
]
