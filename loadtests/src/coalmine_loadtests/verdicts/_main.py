"""The benchmark from its options to its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.verdicts._report import write_docs, write_plot
from coalmine_loadtests.verdicts._results import Results
from coalmine_loadtests.verdicts._rules import RULES
from coalmine_loadtests.verdicts._run import Job, execute, jobs_of
from coalmine_loadtests.verdicts._scenarios import LABEL_SCENARIOS, SCENARIOS

__all__ = [
    "RolloutBenchError",
    "RolloutBenchOptions",
    "read_results",
    "run_rollout_bench",
    "write_rollout_report",
]


class RolloutBenchError(Exception):
    """What the caller asked for cannot be done."""


@dataclass(frozen=True, slots=True)
class RolloutBenchOptions:
    """What to simulate."""

    runs: int = 300
    seed: int = 1
    worlds: tuple[str, ...] = ()
    """Names of worlds, `labels` for those of accuracy; empty: all."""

    rules: tuple[str, ...] = ()
    """Beginnings of names of rules; empty: all."""

    processes: int = 1


def run_rollout_bench(options: RolloutBenchOptions, *, console: Console) -> Results:
    """Simulate; `RolloutBenchError` for a name that is none.

    Interrupted, it returns what is complete so far.
    """
    numbers, rules = _numbers(options.worlds), _rules(options.rules)
    jobs = jobs_of(numbers, runs=options.runs, seed=options.seed, rules=rules)
    results = Results(seed=options.seed)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("runs", total=sum(len(job.runs) for job in jobs))

        def advance(job: Job) -> None:
            shown.update(task, advance=len(job.runs), description=_name(job.scenario))

        try:
            for found in execute(jobs, processes=options.processes, progress=advance):
                results.add(found)
        except KeyboardInterrupt:
            shown.stop()
            results.interrupted = True
            console.print("interrupted: what follows is of the runs until now")
    return results


def read_results(paths: Sequence[Path]) -> Results:
    """Results of several runs as one, each cell as the run with the most of it found it."""
    try:
        first, *others = [Results.read(path) for path in paths]
    except ValueError as error:
        raise RolloutBenchError(str(error)) from error
    for other in others:
        first.merge(other)
    return first


def write_rollout_report(
    results: Results, *, json: Path | None, docs: Path | None, plots: Path | None
) -> list[Path]:
    """Write what was asked for, and return it; `RolloutBenchError` if a document has no place."""
    written: list[Path] = []
    if json is not None:
        results.write(json)
        written.append(json)
    drawn = [p for p in [write_plot(results, plots) if plots is not None else None] if p]
    written += drawn
    if docs is not None:
        try:
            text = write_docs(docs.read_text("utf-8"), results, plots=drawn, path=docs)
        except ValueError as error:
            raise RolloutBenchError(str(error)) from error
        write_whole(docs, text)
        written.append(docs)
    return written


def _name(scenario: int) -> str:
    labelled = scenario - len(SCENARIOS)
    return SCENARIOS[scenario].name if labelled < 0 else f"labels {LABEL_SCENARIOS[labelled].name}"


def _numbers(worlds: Sequence[str]) -> list[int]:
    everything = range(len(SCENARIOS) + len(LABEL_SCENARIOS))
    found: list[int] = []
    for world in worlds:
        matching = [n for n in everything if _name(n) == world or _name(n).split(" ")[0] == world]
        if not matching:
            names = ", ".join([*(s.name for s in SCENARIOS), "labels"])
            raise RolloutBenchError(f"--world {world}: there is none such; there are {names}")
        found += matching
    return sorted(set(found)) or list(everything)


def _rules(rules: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for rule in rules:
        matching = [name for name in RULES if name.lower().startswith(rule.lower())]
        if not matching:
            raise RolloutBenchError(
                f"--rule {rule}: there is none such; there are {'; '.join(RULES)}"
            )
        found += matching
    return tuple(name for name in RULES if not rules or name in found)
