"""Closed-loop benchmarks against a running gateway or server, and the same model in process.

What is reported are ratios measured in one run: how much of what ONNX Runtime does in process is
left when the model is asked over a protocol. `run_bench` is what `coalmine bench` calls.
"""

from coalmine_loadtests.bench._errors import BenchError
from coalmine_loadtests.bench._http import HttpConnection, HttpError
from coalmine_loadtests.bench._load import Target, in_process_target, url_target
from coalmine_loadtests.bench._measure import BenchOptions, Case, Measured, Result, measure
from coalmine_loadtests.bench._run import run_bench

__all__ = [
    "BenchError",
    "BenchOptions",
    "Case",
    "HttpConnection",
    "HttpError",
    "Measured",
    "Result",
    "Target",
    "in_process_target",
    "measure",
    "run_bench",
    "url_target",
]
