"""Whether rows lie elsewhere than others: how well a classifier tells the two apart.

The same trees say where the one kind is dense: what they give a row is the odds of the two kinds
there (Bickel, Brückner & Scheffer 2009, https://www.jmlr.org/papers/v10/bickel09a.html).
"""

from __future__ import annotations

import numpy as np

from coalmine.retraining.learning._imports import without_data_frames

_FOLDS = 4
_ROUNDS = 15
_SEED = 1
#: Standard errors to the upper 95 % limit.
_LIMIT = 1.645
#: Of two kinds that trees tell apart without fail: the odds stay finite.
_SURE = 1e-6
#: Few and small trees: what takes more to see is no move of the world.
_SETTINGS = {
    "objective": "binary",
    "num_leaves": 7,
    "learning_rate": 0.2,
    "min_data_in_leaf": 10,
    "max_bin": 63,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": _SEED,
    "verbosity": -1,
}


def told_apart(
    features: np.ndarray, here: np.ndarray, *, groups: np.ndarray
) -> tuple[float, float]:
    """Area under the ROC curve of "is it one of these?", 0.5 where they lie among the others.

    And its upper 95 % limit. `features` is [rows, features], `here` bool [rows] with some of both
    kinds. Each row is scored by trees that have seen none of its group (`groups`, [rows]), so that
    the windows of one upload do not give one another away; where there are fewer groups than folds,
    by trees that have not seen the row.
    """
    unit = _units(here, groups)
    score = _scores(features, here, unit)
    area = _area(score, here)
    error = _standard_error(area, len(np.unique(unit[here])), len(np.unique(unit[~here])))
    return area, area + _LIMIT * error


def density_ratio(features: np.ndarray, here: np.ndarray, *, groups: np.ndarray) -> np.ndarray:
    """How much denser "these" lie than the others at each row, float64 [rows]; 1 where alike.

    The arguments are those of `told_apart`; each kind counts as one, however many rows it has.
    """
    score = _scores(features, here, _units(here, groups)).clip(_SURE, 1 - _SURE)
    found: np.ndarray = score / (1 - score) * ((~here).sum() / here.sum())
    return found


def _scores(features: np.ndarray, here: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The probability of each row to be one of these, by trees that have not seen its unit."""
    with without_data_frames():
        import lightgbm

    fold = _folds(here, unit)
    score = np.zeros(len(here))
    matrix = features.astype(np.float64)
    for number in range(_FOLDS):
        out = fold == number
        data = lightgbm.Dataset(matrix[~out], label=here[~out].astype(np.float64))
        booster = lightgbm.train(dict(_SETTINGS), data, num_boost_round=_ROUNDS)
        score[out] = np.asarray(booster.predict(matrix[out]))
    return score


def _units(here: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """What is independent of one another: the groups, or where they are too few the rows."""
    _, group = np.unique(groups.astype(str), return_inverse=True)
    if min(len(np.unique(group[here])), len(np.unique(group[~here]))) < _FOLDS:
        return np.arange(len(here))
    found: np.ndarray = group
    return found


def _folds(here: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The fold of each row: whole units, and some of either kind in each."""
    kind = np.zeros(unit.max() + 1, dtype=bool)
    kind[unit[here]] = True
    order = np.random.default_rng(_SEED).permutation(len(kind))
    order = order[np.argsort(kind[order], kind="stable")]
    fold = np.empty(len(kind), dtype=np.int64)
    fold[order] = np.arange(len(kind)) % _FOLDS
    found: np.ndarray = fold[unit]
    return found


def _area(score: np.ndarray, here: np.ndarray) -> float:
    """By ranks (Mann and Whitney), a tie counting half."""
    _, level, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[level]
    n = int(here.sum())
    return float((rank[here].sum() - n * (n + 1) / 2) / (n * (len(here) - n)))


def _standard_error(area: float, these: int, others: int) -> float:
    """Of Hanley and McNeil (1982), the rows of a unit counting once: they are nearly one."""
    both = area / (2 - area) - area**2
    either = 2 * area**2 / (1 + area) - area**2
    variance = area * (1 - area) + (these - 1) * both + (others - 1) * either
    return float(np.sqrt(max(variance, 0.0) / (these * others)))
