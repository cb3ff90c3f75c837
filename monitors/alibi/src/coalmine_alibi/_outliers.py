"""The outlier detectors: more rows than usual that are unlike the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from coalmine_alibi._check import Plan
from coalmine_alibi._judge import Floats, Judgement, surprise
from coalmine_alibi._library import load_class
from coalmine_monitors.extension import UnusableReferenceError

__all__ = ["OutlierJudge", "make_outlier_detector"]

#: Share of the reference's own rows that counts as outliers: the usual rate, not an alarm.
USUAL_SHARE = 0.05
#: Mahalanobis learns from every row it scores, and would take drift for the usual.
_LEARNT = ("mean", "C", "n", "clip")


class OutlierJudge:
    """A fitted detector with `score(rows)`; `calibration` are rows of the reference it never saw.

    A row is an outlier if its score is above the calibration's 95 % quantile. A window alarms if it
    has more of them than calibration and window, shuffled, would give it once in `run_length`
    windows (a hypergeometric tail).
    """

    def __init__(
        self,
        detector: Any,
        plan: Plan,
        *,
        calibration: Floats,
        prepare: Callable[[Floats], Any],
    ) -> None:
        self._detector = detector
        self._plan = plan
        self._prepare = prepare
        # In blocks as windows are, since some scores depend on the rows around.
        whole = len(calibration) // plan.window_rows
        if not whole:
            raise UnusableReferenceError(
                f"{plan.key}.window_rows: half of the reference, {len(calibration)} complete rows, "
                f"is less than one window of {plan.window_rows}"
            )
        blocks = np.split(calibration[: whole * plan.window_rows], whole)
        scores = np.concatenate([self._scores(block) for block in blocks])
        self._limit = float(np.quantile(scores, 1 - USUAL_SHARE))
        self._usual = int((scores > self._limit).sum())
        self._calibrated = len(scores)

    def _scores(self, rows: Floats) -> Floats:
        learnt = {
            name: copy.copy(getattr(self._detector, name))
            for name in _LEARNT
            if hasattr(self._detector, name)
        }
        ready = self._prepare(rows)
        if self._plan.detector == "SpectralResidual":
            scores = self._detector.score(ready[:, 0], np.arange(len(ready)))
        else:
            scores = self._detector.score(ready)
        for name, value in learnt.items():
            setattr(self._detector, name, value)
        return np.asarray(scores, dtype=np.float64).reshape(-1)

    def judge(self, rows: Floats) -> Judgement:
        """Count the outliers of a window."""
        outliers = self._scores(rows) > self._limit
        found, count = int(outliers.sum()), len(rows)
        p_value = float(
            hypergeom.sf(found - 1, self._calibrated + count, self._usual + found, count)
        )
        level = 1 / self._plan.run_length
        return Judgement(
            alarm=p_value <= level,
            score=surprise(p_value),
            threshold=surprise(level),
            details={
                "p_value": p_value,
                "outlier_ratio": found / count,
                "usual_outlier_ratio": self._usual / self._calibrated,
            },
        )

    def state(self) -> dict[str, Any]:
        """Nothing: windows are judged each by itself."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


def make_outlier_detector(plan: Plan, rows: Any) -> Any:
    """alibi-detect's object, fitted on `rows`."""
    options = dict(plan.options)
    # A threshold that nobody reads; without one it complains.
    named = {"IForest", "Mahalanobis", "SpectralResidual"}
    if plan.detector in named:
        options["threshold"] = 0.0
    if plan.detector == "Mahalanobis":
        options["n_components"] = min(options.get("n_components", 3), rows.shape[1])
    if plan.detector == "PCA" and options["n_components"] >= rows.shape[1]:
        raise UnusableReferenceError(
            f"{plan.key}.options.n_components: {options['n_components']} of {rows.shape[1]} "
            "features leave nothing to be unlike; give fewer"
        )
    if plan.detector == "SpectralResidual" and rows.shape[1] != 1:
        raise UnusableReferenceError(
            f"{plan.key}.features: SpectralResidual sees one series, name one feature"
        )
    if plan.detector == "SVM":
        from alibi_detect.utils.pytorch.kernels import GaussianRBF

        options["kernel"] = GaussianRBF()
        # Its other way asks scikit-learn for a method that it no longer has.
        options["optimization"] = "bgd"
    detector = load_class(plan.entry.module, plan.detector)(**options)
    if plan.detector == "Mahalanobis":
        detector.score(rows)  # which is how it learns
    elif plan.detector != "SpectralResidual":
        detector.fit(rows)
    return detector
