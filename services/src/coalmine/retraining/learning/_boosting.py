"""Gradient boosting with LightGBM, so that the same rows and seed give the same model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.retraining.learning._family import Lesson, Material, Report, Tried
from coalmine.retraining.learning._imports import without_data_frames
from coalmine.retraining.learning._onnx import PARITY_TOLERANCE, export_onnx
from coalmine.retraining.learning._space import Dimension, Params, Space

#: One thread gives the same sums everywhere, and beside a busy model server it is also quicker:
#: LightGBM's threads wait for one another at each node (measured: 2 on 2 busy cores took 10 times
#: as long as 1).
THREADS = 1
MAX_ROUNDS = 60
_PATIENCE = 10
#: A trial is compared with the others after so many rounds each.
_REPORT_EVERY = 10
#: Bins of a feature's histogram: a quarter of the default costs no accuracy here, and a third less
#: time.
_BINS = 63
#: Share of feature values that are blanked in training, so that every split learns where a missing
#: value goes; without it LightGBM takes NaN for zero, which is wrong and converts differently.
_BLANKED = 0.01

SPACE: Space = {
    "learning_rate": Dimension(0.08, 0.3, default=0.15, log=True),
    "num_leaves": Dimension(7, 23, default=15, whole=True),
    "min_data_in_leaf": Dimension(5, 60, default=20, whole=True, log=True),
    "lambda_l2": Dimension(0.1, 10.0, default=1.0, log=True),
    "feature_fraction": Dimension(0.5, 1.0, default=0.8),
}


@dataclass(frozen=True, slots=True)
class BoostedTrees:
    """A booster whose thresholds are exact in float32, as the exported network's are."""

    booster: Any
    features: int
    classes: int

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Class probabilities [rows, classes]."""
        return np.asarray(self.booster.predict(matrix.astype(np.float64)))

    def export(self, path: Path) -> None:
        """Write it as ONNX."""
        export_onnx(self.booster, features=self.features, classes=self.classes, path=path)

    def save(self, directory: Path) -> None:
        """Write `lightgbm.txt`."""
        text = self.booster.model_to_string()
        (directory / "lightgbm.txt").write_text(text, encoding="utf-8")


class Boosting:
    """LightGBM over one table, with the settings that never change."""

    space = SPACE
    tolerance = PARITY_TOLERANCE

    def __init__(self, material: Material) -> None:
        with without_data_frames():
            import lightgbm

        self._lightgbm = lightgbm
        self._material = material
        shape = material.matrix.shape
        self._blanked = np.random.default_rng(material.seed).random(shape) < _BLANKED
        self._fixed = {
            "objective": "multiclass",
            "num_class": material.classes,
            "metric": "multi_logloss",
            "seed": material.seed,
            "deterministic": True,
            "force_row_wise": True,
            "feature_pre_filter": False,  # one data set serves trials of any `min_data_in_leaf`
            "max_bin": _BINS,
            "num_threads": THREADS,
            "verbosity": -1,
        }
        self._binned: tuple[Lesson, np.ndarray, Any, Any] | None = None

    def trial(self, lesson: Lesson, tune: np.ndarray, *, params: Params, report: Report) -> Tried:
        """Learn until the loss on `tune` has not fallen for some rounds."""
        data, valid = self._bins(lesson, tune)
        course: dict[int, float] = {}

        def follow(state: Any) -> None:
            rounds = state.iteration + 1
            if rounds % _REPORT_EVERY == 0:
                course[rounds] = state.evaluation_result_list[0][2]
                report(rounds, course[rounds])

        booster = self._lightgbm.train(
            self._settings(params),
            data,
            num_boost_round=MAX_ROUNDS,
            valid_sets=[valid],
            callbacks=[follow, self._lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        loss = float(booster.best_score["valid_0"]["multi_logloss"])
        return Tried(loss, int(booster.best_iteration or MAX_ROUNDS), course)

    def fit(self, lesson: Lesson, *, params: Params, rounds: int) -> BoostedTrees:
        """A booster of a fixed number of rounds."""
        booster = self._lightgbm.train(
            self._settings(params), self._dataset(lesson), num_boost_round=rounds
        )
        exact = self._lightgbm.Booster(model_str=_thresholds_in_float32(booster.model_to_string()))
        return BoostedTrees(exact, self._material.matrix.shape[1], self._material.classes)

    def _settings(self, params: Params) -> dict[str, Any]:
        return {**self._fixed, **params}

    def _bins(self, lesson: Lesson, tune: np.ndarray) -> tuple[Any, Any]:
        """The data sets of a lesson, made once for all trials of it: binning is a third of one."""
        known = self._binned
        if known is None or known[0] is not lesson or known[1] is not tune:
            data = self._dataset(lesson)
            material = self._material
            valid = self._lightgbm.Dataset(
                material.matrix[tune], material.label[tune], reference=data, free_raw_data=False
            )
            known = self._binned = (lesson, tune, data, valid)
        return known[2], known[3]

    def _dataset(self, lesson: Lesson) -> Any:
        matrix = self._material.matrix[lesson.rows]
        matrix[self._blanked[lesson.rows]] = np.nan
        return self._lightgbm.Dataset(
            matrix,
            self._material.label[lesson.rows],
            weight=lesson.weight,
            params=self._fixed,
            free_raw_data=False,
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
