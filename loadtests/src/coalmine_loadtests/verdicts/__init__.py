"""The rollout benchmark: simulated worlds, judged by us and by the rules that others judge with.

Every run of a world is one candidate beside a concurrent baseline, looked at once a minute. The
same counts go to `coalmine.rollout.decide` and to threshold rules, an Argo Rollouts analysis, a
Flagger analysis and a Kayenta-style judge. `coalmine bench rollout` calls `run_rollout_bench`.
"""

from coalmine_loadtests.verdicts._main import (
    RolloutBenchError,
    RolloutBenchOptions,
    read_results,
    run_rollout_bench,
    write_rollout_report,
)
from coalmine_loadtests.verdicts._report import print_table
from coalmine_loadtests.verdicts._results import missed
from coalmine_loadtests.verdicts._scenarios import SCENARIOS

__all__ = [
    "SCENARIOS",
    "RolloutBenchError",
    "RolloutBenchOptions",
    "missed",
    "print_table",
    "read_results",
    "run_rollout_bench",
    "write_rollout_report",
]
