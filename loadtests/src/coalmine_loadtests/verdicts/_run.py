"""Running the scenarios: every run has a seed of its own, so that any part gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import active_children

import numpy as np

from coalmine.rollout import Evidence, PairBlock, Policy, decide
from coalmine_loadtests.verdicts._rules import RULES, Fate
from coalmine_loadtests.verdicts._scenarios import LABEL_SCENARIOS, SCENARIOS
from coalmine_loadtests.verdicts._worlds import simulate

__all__ = ["Found", "Job", "execute", "jobs_of"]

#: Runs of one job: some seconds of work.
_CHUNK = 25
_LABELS_A_LOOK, _MOST_LABELS = 50, 8000


@dataclass(frozen=True, slots=True)
class Job:
    """Some runs of one scenario. Labels are numbered on after the worlds."""

    scenario: int
    runs: range
    seed: int
    rules: tuple[str, ...]


@dataclass(slots=True)
class Found:
    """What came of a job: fates by rule, or labels needed."""

    scenario: int
    fates: dict[str, list[Fate]] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)


def jobs_of(scenarios: Iterable[int], *, runs: int, seed: int, rules: tuple[str, ...]) -> list[Job]:
    """The jobs, shortest scenarios mixed with the longest, so that progress is even."""
    starts = range(0, runs, _CHUNK)
    return [
        Job(scenario, range(start, min(start + _CHUNK, runs)), seed, rules)
        for start in starts
        for scenario in scenarios
    ]


def execute(jobs: list[Job], *, processes: int, progress: Callable[[Job], None]) -> Iterator[Found]:
    """Do all of it, here or in processes; Ctrl-C ends them."""
    if processes == 1:
        for job in jobs:
            yield _do(job)
            progress(job)
        return
    with ProcessPoolExecutor(processes) as pool:
        try:
            waiting = {pool.submit(_do, job): job for job in jobs}
            for future in as_completed(waiting):
                yield future.result()
                progress(waiting[future])
        except BaseException:
            # A pool waits for its jobs, a minute each; none has anything to put in order.
            for worker in active_children():
                worker.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _do(job: Job) -> Found:
    found = Found(job.scenario)
    for run in job.runs:
        rng = np.random.default_rng([job.seed, job.scenario, run])
        if job.scenario >= len(SCENARIOS):
            found.labels.append(_labels_until_found(job.scenario - len(SCENARIOS), rng))
            continue
        world = simulate(SCENARIOS[job.scenario].world, rng)
        for rule in job.rules:
            found.fates.setdefault(rule, []).append(RULES[rule](world))
    return found


def _labels_until_found(number: int, rng: np.random.Generator) -> int:
    """Pairs labelled until the shadow stage is a regression; beyond the most: not found."""
    scenario, policy = LABEL_SCENARIOS[number], Policy()
    chances = (scenario.won, scenario.lost, 1 - scenario.won - scenario.lost)
    pairs: list[PairBlock] = []
    for look in range(_MOST_LABELS // _LABELS_A_LOOK):
        won, lost, even = rng.multinomial(_LABELS_A_LOOK, chances).tolist()
        pairs.append(PairBlock(time=float(look), won=won, lost=lost, even=even))
        evidence = Evidence(
            evaluated_to=look + 1.0, stage_seconds=look + 1.0, slow_edge_us=None,
            request_size=1.0, blocks=(), pairs=tuple(pairs), source="simulation",
        )  # fmt: skip
        if decide(evidence, policy).kind == "regression":
            return _LABELS_A_LOOK * (look + 1)
    return _MOST_LABELS + _LABELS_A_LOOK
