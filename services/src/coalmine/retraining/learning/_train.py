"""Training: how much history, which parameters, which kind of model; then the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coalmine.modeldir import MODEL_FILE
from coalmine.retraining._errors import NotEnoughData
from coalmine.retraining.learning._family import (
    Family,
    FamilyName,
    Lesson,
    Material,
    Model,
    Report,
    Tried,
)
from coalmine.retraining.learning._history import History, choose_history
from coalmine.retraining.learning._rows import values
from coalmine.retraining.learning._search import Budget, Found, fingerprint, search
from coalmine.retraining.learning._space import Space, defaults, parse_params

if TYPE_CHECKING:
    import pyarrow as pa

#: Trials learn from this many rows of history at most: they rank parameters, they are not served.
_TRIAL_ROWS = 5000
_FOLDS = 3
FAMILIES: tuple[FamilyName, ...] = ("lightgbm", "mlp")


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
    """A model and how it was found."""

    model: Model
    family: FamilyName
    tolerance: float
    """Of the parity check of its export."""

    found: Found
    history: History
    losses: Mapping[str, float]
    """The least loss of each kind of model that was a candidate."""

    recent: CrossFitted | None
    """For the recent rows that it was trained on, if there are any."""


def installed_families(wanted: tuple[FamilyName, ...] = FAMILIES) -> tuple[FamilyName, ...]:
    """Those of the candidates whose library is here; the first is always."""
    return tuple(name for name in wanted if name != "mlp" or find_spec("torch") is not None)


def space_of(name: FamilyName) -> Space:
    """What a search of a kind of model may try; it needs none of their libraries."""
    from coalmine.retraining.learning import _boosting, _mlp

    return _mlp.SPACE if name == "mlp" else _boosting.SPACE


def make_family(name: FamilyName, material: Material) -> Family:
    """A kind of model over a table."""
    if name == "mlp":
        from coalmine.retraining.learning._mlp import Perceptron

        return Perceptron(material)
    from coalmine.retraining.learning._boosting import Boosting

    return Boosting(material)


def train_classifier(
    rows: pa.Table,
    *,
    features: tuple[str, ...],
    classes: tuple[str, ...],
    budget: Budget,
    families: tuple[FamilyName, ...] = ("lightgbm",),
) -> Trained:
    """Tune on `tune`, then train on `train` and `tune` together; `holdout` is never looked at.

    Where there are recent rows, they alone tune: the model is for the world as it is now. The
    budget is shared out evenly among the kinds of model; the one with the least loss is trained.
    """
    material = Material.of(rows, features=features, classes=classes, seed=budget.seed)
    train, tune = learning_rows(rows, material)
    candidates = {name: make_family(name, material) for name in families}
    # The first kind says how much of the past holds: that is a question of the data.
    history, lesson = choose_history(candidates[families[0]], material, train=train, tune=tune)
    share = replace(
        budget,
        trials=max(1, budget.trials // len(families)),
        seconds=budget.seconds / len(families),
    )
    found: dict[FamilyName, Found] = {}
    for name, family in candidates.items():
        first = history.tried[history.window]
        if name != families[0]:
            first = family.trial(lesson, tune, params=defaults(family.space), report=_go_on)
        study = f"{name}-{fingerprint(material, lesson, tune)}"
        found[name] = search(family, lesson, tune, name=study, first=first, budget=share)
    best = min(found, key=lambda name: found[name].tried.loss)
    return _train(
        candidates[best], material, _fit_rows(rows), name=best, found=found, history=history
    )


def try_parameters(
    rows: pa.Table,
    *,
    features: tuple[str, ...],
    classes: tuple[str, ...],
    family: FamilyName,
    seed: int,
    given: Mapping[str, str],
    report: Report,
    out: Path | None = None,
) -> Tried:
    """One trial of the search, with parameters that someone else has chosen; its loss on `tune`.

    With `out` the model is then trained on all rows, as the pipeline's is, and exported there.
    """
    material = Material.of(rows, features=features, classes=classes, seed=seed)
    train, tune = learning_rows(rows, material)
    candidate = make_family(family, material)
    params = parse_params(given, candidate.space)
    history, lesson = choose_history(
        make_family("lightgbm", material), material, train=train, tune=tune
    )
    tried = candidate.trial(lesson, tune, params=params, report=report)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        whole = history.lesson(_fit_rows(rows), material)
        candidate.fit(whole, params=params, rounds=tried.rounds).export(out / MODEL_FILE)
    return tried


def learning_rows(rows: pa.Table, material: Material) -> tuple[np.ndarray, np.ndarray]:
    """The rows of trials: what they learn from, and what tells how well."""
    fit = _fit_rows(rows)
    if len(np.unique(material.label[fit])) < 2:
        raise NotEnoughData(f"{len(fit)} labelled rows to learn from, and not of two classes")
    tune = fit[values(rows, "split")[fit] == "tune"]
    if material.recent[tune].any():
        tune = tune[material.recent[tune]]
    train = np.setdiff1d(fit, tune)
    if not len(tune) or not len(train):
        raise NotEnoughData(f"{len(train)} rows to learn from and {len(tune)} to tune on")
    return _trial_rows(material, train), tune


def _fit_rows(rows: pa.Table) -> np.ndarray:
    return np.flatnonzero(np.isin(values(rows, "split"), ("train", "tune")))


def _trial_rows(material: Material, train: np.ndarray) -> np.ndarray:
    """All recent rows, and a sample of history."""
    history = train[~material.recent[train]]
    if len(history) <= _TRIAL_ROWS:
        return train
    sample = np.random.default_rng(material.seed).choice(history, _TRIAL_ROWS, replace=False)
    return np.sort(np.concatenate([sample, train[material.recent[train]]]))


def _train(
    family: Family,
    material: Material,
    fit: np.ndarray,
    *,
    name: FamilyName,
    found: Mapping[FamilyName, Found],
    history: History,
) -> Trained:
    lesson = history.lesson(fit, material)
    best = found[name]
    return Trained(
        model=family.fit(lesson, params=best.params, rounds=best.tried.rounds),
        family=name,
        tolerance=family.tolerance,
        found=best,
        history=history,
        losses={name: found[name].tried.loss for name in found},
        recent=_cross_fitted(family, material, lesson, found=best),
    )


def _cross_fitted(
    family: Family, material: Material, lesson: Lesson, *, found: Found
) -> CrossFitted | None:
    """Siblings for the recent rows, left out in stretches of time made of whole groups."""
    recent = lesson.rows[material.recent[lesson.rows]]
    if not len(recent):
        return None
    _, first, code = np.unique(material.group[recent], return_index=True, return_inverse=True)
    in_time = np.argsort(np.argsort(first))[code]
    fold = in_time * _FOLDS // len(first)
    parts = []
    for number in np.unique(fold):
        left_out = recent[fold == number]
        kept = ~np.isin(lesson.rows, left_out)
        rest = Lesson(lesson.rows[kept], lesson.weight[kept])
        sibling = family.fit(rest, params=found.params, rounds=found.tried.rounds)
        parts.append((left_out, sibling.predict(material.matrix[left_out])))
    return CrossFitted(
        rows=np.concatenate([rows for rows, _ in parts]),
        probabilities=np.concatenate([probabilities for _, probabilities in parts]),
    )


def _go_on(rounds: int, loss: float) -> None:
    """The defaults are tried to the end."""
