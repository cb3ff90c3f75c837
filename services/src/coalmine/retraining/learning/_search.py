"""The search for parameters with Optuna: within a budget, pruned, resumable, and told of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.retraining.learning._family import Family, Lesson, Material, Tried
from coalmine.retraining.learning._space import Params, defaults

if TYPE_CHECKING:
    import optuna

#: Trials that are never pruned: a median of fewer says nothing.
_STARTUP_TRIALS = 2
_WARMUP_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search has come."""

    family: str
    trial: int
    of: int
    state: str
    """Of the trial: `complete`, or `pruned`."""

    loss: float | None
    best_loss: float
    seconds: float
    """Since the search began."""


def _tell_nobody(progress: Progress) -> None:
    """For a search that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a search may spend; the first of the two to be used up ends it."""

    trials: int
    seconds: float
    seed: int = 0
    study: Path | None = None
    """SQLite file in which the trials are kept: a search that died goes on where it was."""

    clock: Clock = SYSTEM_CLOCK
    tell: Callable[[Progress], None] = field(default=_tell_nobody)


@dataclass(frozen=True, slots=True)
class Found:
    """The best parameters of a search."""

    params: Params
    tried: Tried
    trials: int
    pruned: int
    stopped_by: Literal["trials", "time"]
    """Which budget ended the search. By time, a repeat may differ."""


def search(
    family: Family, lesson: Lesson, tune: np.ndarray, *, name: str, first: Tried, budget: Budget
) -> Found:
    """Look for the parameters of the least loss on `tune`; `first` is how the defaults did."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began = budget.clock.monotonic()
    study = _study(family, name=name, first=first, budget=budget)
    before = _seconds(study)
    stopped_by: Literal["trials", "time"] = "trials"
    _tell(study, name=name, budget=budget, seconds=0.0)  # the defaults: the first of the trials
    while len(_finished(study)) < budget.trials:
        spent = before + budget.clock.monotonic() - began
        if spent >= budget.seconds:
            stopped_by = "time"
            break
        # A seed for each trial, so that a search that was resumed finds what it would have found.
        study.sampler = optuna.samplers.TPESampler(seed=budget.seed + len(_finished(study)))
        study.optimize(_objective(family, lesson, tune), n_trials=1)
        _tell(study, name=name, budget=budget, seconds=budget.clock.monotonic() - began)
    best = study.best_trial
    pruned = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.PRUNED,))
    return Found(
        params=best.params,
        tried=Tried(float(study.best_value), int(best.user_attrs["rounds"])),
        trials=len(_finished(study)),
        pruned=len(pruned),
        stopped_by=stopped_by,
    )


def fingerprint(material: Material, lesson: Lesson, tune: np.ndarray) -> str:
    """Of what a search learns from: trials on other rows are no trials of this search."""
    arrays = (material.matrix, material.label, lesson.rows, lesson.weight, tune)
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def _study(family: Family, *, name: str, first: Tried, budget: Budget) -> Any:
    """The study of this name: new with its first trial, or as far as it had come."""
    import optuna

    storage = None
    if budget.study is not None:
        budget.study.parent.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{budget.study}"
    study = optuna.create_study(
        storage=storage,
        study_name=name if storage else None,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_WARMUP_ROUNDS
        ),
    )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process has died
    if not _finished(study):
        study.add_trial(
            optuna.trial.create_trial(
                params=defaults(family.space),
                distributions={key: value.distribution() for key, value in family.space.items()},
                value=first.loss,
                intermediate_values=dict(first.course),
                user_attrs={"rounds": first.rounds},
            )
        )
    return study


def _objective(family: Family, lesson: Lesson, tune: np.ndarray) -> Callable[[Any], float]:
    import optuna

    def objective(trial: optuna.Trial) -> float:
        params = {key: value.suggest(trial, key) for key, value in family.space.items()}

        def report(rounds: int, loss: float) -> None:
            trial.report(loss, rounds)
            if trial.should_prune():
                raise optuna.TrialPruned

        tried = family.trial(lesson, tune, params=params, report=report)
        trial.set_user_attr("rounds", tried.rounds)
        return tried.loss

    return objective


def _finished(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return list(study.get_trials(deepcopy=False, states=states))


def _seconds(study: Any) -> float:
    """What the trials of a study have taken."""
    durations = [trial.duration for trial in _finished(study) if trial.duration]
    return float(sum(duration.total_seconds() for duration in durations))


def _tell(study: Any, *, name: str, budget: Budget, seconds: float) -> None:
    finished = _finished(study)
    last = finished[-1]
    budget.tell(
        Progress(
            family=name.partition("-")[0],
            trial=len(finished),
            of=budget.trials,
            state=last.state.name.lower(),
            loss=last.value,
            best_loss=float(study.best_value),
            seconds=round(seconds, 3),
        )
    )
