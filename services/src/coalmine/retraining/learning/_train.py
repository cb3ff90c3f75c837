"""Gradient boosting with Optuna, so that the same rows and seed give the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.retraining._errors import NotEnoughData
from coalmine.retraining.learning._imports import without_data_frames
from coalmine.retraining.learning._rows import class_indices, feature_matrix, values

if TYPE_CHECKING:
    import pyarrow as pa

#: One thread gives the same sums everywhere, and beside a busy model server it is also quicker:
#: LightGBM's threads wait for one another at each node (measured: 2 on 2 busy cores took 10 times
#: as long as 1).
THREADS = 1
MAX_ROUNDS = 60
_PATIENCE = 10
#: Bins of a feature's histogram: a quarter of the default costs no accuracy here, and a third less
#: time.
_BINS = 63
#: Trials learn from this many rows of history at most: they rank parameters, they are not served.
_TRIAL_ROWS = 5000
#: Share of feature values that are blanked in training, so that every split learns where a missing
#: value goes; without it LightGBM takes NaN for zero, which is wrong and converts differently.
_BLANKED = 0.01
_FOLDS = 3

DEFAULTS: Mapping[str, float] = {
    "learning_rate": 0.15,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "lambda_l2": 1.0,
    "feature_fraction": 0.8,
    "recent_weight": 4.0,
}


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """What siblings of a model say of rows that the model was trained on and they were not.

    What a model says of rows it has learned by heart is more certain than what it will say of any
    other, and useless as a reference.
    """

    rows: np.ndarray
    """Places in the table, int64 [k]."""

    probabilities: np.ndarray
    """[k, classes]."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A booster and how it was found."""

    booster: Any
    params: Mapping[str, float]
    rounds: int
    trials: int
    stopped_by: str
    """`trials` or `time`: which budget ended the search. By time, a repeat may differ."""

    tuning_loss: float
    recent: CrossFitted | None
    """For the recent rows that it was trained on, if there are any."""


def train_classifier(
    rows: pa.Table,
    *,
    features: tuple[str, ...],
    classes: tuple[str, ...],
    seed: int,
    trials: int,
    time_budget: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Trained:
    """Tune on `tune`, then train on `train` and `tune` together; `holdout` is never looked at.

    Where there are recent rows, they alone tune: the model is for the world as it is now.
    """
    fit = np.flatnonzero(np.isin(values(rows, "split"), ("train", "tune")))
    learner = _Learner(rows, features=features, classes=classes, seed=seed)
    if len(np.unique(learner.label[fit])) < 2:
        raise NotEnoughData(f"{len(fit)} labelled rows to learn from, and not of two classes")
    tune = fit[values(rows, "split")[fit] == "tune"]
    if learner.recent[tune].any():
        tune = tune[learner.recent[tune]]
    train = _trial_rows(learner, np.setdiff1d(fit, tune), seed=seed)
    budget = _Budget(trials=trials, seconds=time_budget, seed=seed, clock=clock)
    study, stopped_by = _search(learner, train=train, tune=tune, budget=budget)
    best = study.best_trial
    params, rounds = {"recent_weight": 1.0, **best.params}, int(best.user_attrs["rounds"])
    return Trained(
        booster=learner.fit(fit, params=params, rounds=rounds),
        params=params,
        rounds=rounds,
        trials=len(study.trials),
        stopped_by=stopped_by,
        tuning_loss=float(study.best_value),
        recent=_cross_fitted(
            learner, fit, group=values(rows, "group"), params=params, rounds=rounds
        ),
    )


class _Learner:
    """LightGBM over one table, with the settings that never change; rows are named by place."""

    def __init__(
        self,
        rows: pa.Table,
        *,
        features: tuple[str, ...],
        classes: tuple[str, ...],
        seed: int,
    ) -> None:
        with without_data_frames():
            import lightgbm

        self._lightgbm = lightgbm
        self.matrix = feature_matrix(rows, features)
        self.label = class_indices(rows, classes)
        self.recent = values(rows, "origin") == "recent"
        self._blanked = np.random.default_rng(seed).random(self.matrix.shape) < _BLANKED
        self._fixed = {
            "objective": "multiclass",
            "num_class": len(classes),
            "metric": "multi_logloss",
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "max_bin": _BINS,
            "num_threads": THREADS,
            "verbosity": -1,
        }

    def fit(self, train: np.ndarray, *, params: Mapping[str, float], rounds: int) -> Any:
        """A booster of a fixed number of rounds, its thresholds exact in float32."""
        data = self._dataset(train, params=params)
        booster = self._lightgbm.train(self._settings(params), data, num_boost_round=rounds)
        return self._lightgbm.Booster(model_str=_thresholds_in_float32(booster.model_to_string()))

    def trial(
        self, train: np.ndarray, tune: np.ndarray, *, params: Mapping[str, float]
    ) -> tuple[float, int]:
        """Loss on `tune`, and the number of rounds that gave it."""
        data = self._dataset(train, params=params)
        valid = self._lightgbm.Dataset(self.matrix[tune], self.label[tune], reference=data)
        booster = self._lightgbm.train(
            self._settings(params),
            data,
            num_boost_round=MAX_ROUNDS,
            valid_sets=[valid],
            callbacks=[self._lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        loss = booster.best_score["valid_0"]["multi_logloss"]
        return float(loss), int(booster.best_iteration or MAX_ROUNDS)

    def probabilities(self, booster: Any, rows: np.ndarray) -> np.ndarray:
        """Class probabilities, [rows, classes]."""
        return np.asarray(booster.predict(self.matrix[rows].astype(np.float64)))

    def _settings(self, params: Mapping[str, float]) -> dict[str, Any]:
        chosen = {key: value for key, value in params.items() if key != "recent_weight"}
        return {**self._fixed, **chosen, "num_leaves": int(params["num_leaves"])}

    def _dataset(self, rows: np.ndarray, *, params: Mapping[str, float]) -> Any:
        matrix = self.matrix[rows]
        matrix[self._blanked[rows]] = np.nan
        weight = np.where(self.recent[rows], params["recent_weight"], 1.0)
        return self._lightgbm.Dataset(matrix, self.label[rows], weight=weight)


def _trial_rows(learner: _Learner, train: np.ndarray, *, seed: int) -> np.ndarray:
    """All recent rows, and a sample of history."""
    history = train[~learner.recent[train]]
    if len(history) <= _TRIAL_ROWS:
        return train
    sample = np.random.default_rng(seed).choice(history, _TRIAL_ROWS, replace=False)
    return np.sort(np.concatenate([sample, train[learner.recent[train]]]))


@dataclass(frozen=True, slots=True)
class _Budget:
    trials: int
    seconds: float
    seed: int
    clock: Clock


def _search(
    learner: _Learner, *, train: np.ndarray, tune: np.ndarray, budget: _Budget
) -> tuple[Any, str]:
    """The finished study, and what ended it: `trials` or `time`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mixed = len(np.unique(learner.recent[train])) > 1

    def objective(trial: optuna.Trial) -> float:
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 0.08, 0.3, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 7, 23),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 5, 60, log=True),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 10.0, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.5, 1.0),
            "recent_weight": 1.0,
        }
        if mixed:  # how much more a row of the new world counts; measured, not assumed
            weights = [1.0, 4.0, 16.0, 64.0]  # the last all but forgets the history
            params["recent_weight"] = trial.suggest_categorical("recent_weight", weights)
        loss, rounds = learner.trial(train, tune, params=params)
        trial.set_user_attr("rounds", rounds)
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=budget.seed))
    study.enqueue_trial({k: v for k, v in DEFAULTS.items() if mixed or k != "recent_weight"})
    until = budget.clock.monotonic() + budget.seconds
    for _ in range(budget.trials):
        study.optimize(objective, n_trials=1)
        if budget.clock.monotonic() >= until:
            break
    return study, "trials" if len(study.trials) == budget.trials else "time"


def _cross_fitted(
    learner: _Learner,
    fit: np.ndarray,
    *,
    group: np.ndarray,
    params: Mapping[str, float],
    rounds: int,
) -> CrossFitted | None:
    """Siblings for the recent rows, left out in stretches of time made of whole groups."""
    recent = fit[learner.recent[fit]]
    if not len(recent):
        return None
    _, first, code = np.unique(group[recent], return_index=True, return_inverse=True)
    in_time = np.argsort(np.argsort(first))[code]
    fold = in_time * _FOLDS // len(first)
    parts = []
    for number in np.unique(fold):
        left_out = recent[fold == number]
        sibling = learner.fit(np.setdiff1d(fit, left_out), params=params, rounds=rounds)
        parts.append((left_out, learner.probabilities(sibling, left_out)))
    return CrossFitted(
        rows=np.concatenate([rows for rows, _ in parts]),
        probabilities=np.concatenate([probabilities for _, probabilities in parts]),
    )


def _thresholds_in_float32(model: str) -> str:
    """A LightGBM model whose thresholds are float32, with the same decisions on float32 features.

    `x <= t` holds for a float32 x exactly if x <= the largest float32 that is not above t. Left to
    the ONNX converter, t is rounded to the nearest, which may be a value of the data itself: rows
    that lie on it change sides.
    """
    lines = []
    for line in model.splitlines():
        if line.startswith("threshold="):
            given = np.array(line.removeprefix("threshold=").split(" "), dtype=np.float64)
            rounded = given.astype(np.float32)
            above = rounded.astype(np.float64) > given
            rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
            line = "threshold=" + " ".join(repr(float(value)) for value in rounded)
        elif line.startswith("tree_sizes="):
            continue  # byte counts of the trees, which have changed; the parser does without
        lines.append(line)
    return "\n".join(lines) + "\n"
