"""The serving benchmark: the same models through Coalmine and through its peers, side by side.

Every server runs in its own environment on one core, the load on another; every answer is compared
with ONNX Runtime in process before anything is measured, and spot-checked under the load. Two
ceilings stand beside: the model called in a loop, and a static answer from nginx. `coalmine bench
serving` calls `run_serving_bench`; `SERVERS` are the peers and their configurations.
"""

from coalmine_loadtests.serving._bars import BARS, judge
from coalmine_loadtests.serving._cells import CELLS
from coalmine_loadtests.serving._environments import Environments
from coalmine_loadtests.serving._errors import AbsentError, ServingBenchError, WrongAnswerError
from coalmine_loadtests.serving._main import run_serving_bench, run_soak, write_report
from coalmine_loadtests.serving._options import ServingBenchOptions
from coalmine_loadtests.serving._samples import Results
from coalmine_loadtests.serving._table import print_results
from coalmine_loadtests.serving.peers import SERVERS

__all__ = [
    "BARS",
    "CELLS",
    "SERVERS",
    "AbsentError",
    "Environments",
    "Results",
    "ServingBenchError",
    "ServingBenchOptions",
    "WrongAnswerError",
    "judge",
    "print_results",
    "run_serving_bench",
    "run_soak",
    "write_report",
]
