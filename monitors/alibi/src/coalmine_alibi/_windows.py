"""The drift detectors of windows: each block is tested against the reference by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from coalmine_alibi._check import Plan
from coalmine_alibi._judge import Floats, Judgement, surprise
from coalmine_alibi._library import load_class

__all__ = ["WindowJudge", "make_window_detector"]


class WindowJudge:
    """A detector with `predict(window)`, that `make` gives.

    One that trains a network goes on from where the last window left its optimiser, so that its
    verdicts would depend on all windows before: it is made again for each.
    """

    def __init__(
        self, make: Callable[[], Any], plan: Plan, *, prepare: Callable[[Floats], Any]
    ) -> None:
        self._make = make if plan.detector == "SpotTheDiffDrift" and plan.saved is None else None
        self._detector = detector = make()
        self._inner = getattr(detector, "_detector", detector)
        self._plan = plan
        self._prepare = prepare

    def judge(self, rows: Floats) -> Judgement:
        """Test a window against the reference."""
        if self._make is not None:
            self._detector = self._make()
        data = self._detector.predict(self._prepare(rows))["data"]
        p_values = np.asarray(data["p_val"], dtype=np.float64)
        if p_values.ndim and p_values.size > 1:
            return self._by_feature(data, p_values)
        p_value, level = float(p_values.reshape(-1)[0]), 1 / self._plan.run_length
        if self._plan.entry.permutes:
            # The share of permutations beyond is 0 where none is; the window itself is one of them.
            count = int(self._inner.n_permutations)
            p_value = (round(p_value * count) + 1) / (count + 1)
        details = {"p_value": p_value, "distance": _number(data.get("distance"))}
        if "diffs" in data:
            details["diffs"] = np.asarray(data["diffs"]).astype(float).round(4).tolist()
        features = {} if p_values.ndim == 0 else {0: (surprise(p_value), surprise(level))}
        return Judgement(
            alarm=p_value <= level,
            score=surprise(p_value),
            threshold=surprise(level),
            features=features,
            details=details,
        )

    def _by_feature(self, data: Mapping[str, Any], p_values: Floats) -> Judgement:
        level = float(np.asarray(data["threshold"]).reshape(-1)[0])
        distances = np.asarray(data["distance"], dtype=np.float64)
        smallest = int(np.argmin(p_values))
        return Judgement(
            alarm=bool(data["is_drift"]),
            score=surprise(p_values[smallest]),
            threshold=surprise(level),
            features={
                place: (surprise(p_value), surprise(level))
                for place, p_value in enumerate(p_values)
            },
            details={"p_value": float(p_values[smallest]), "distance": float(distances[smallest])},
        )

    def state(self) -> dict[str, Any]:
        """Nothing: windows are judged each by itself."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


def make_window_detector(plan: Plan, reference: Any, *, categorical: tuple[int, ...]) -> Any:
    """alibi-detect's object; `reference` is as `predict` will get its windows."""
    options = dict(plan.options)
    options.setdefault("p_val", 1 / plan.run_length)
    if plan.entry.permutes:
        options.setdefault("n_permutations", max(100, 2 * plan.run_length - 1))
        if "sigma" in options:
            options["sigma"] = np.atleast_1d(np.asarray(options["sigma"], dtype=np.float32))
    if plan.detector == "ClassifierDrift":
        options |= {"model": _classifier(options["model"], seed=plan.seed), "backend": "sklearn"}
    if plan.detector in ("ClassifierDrift", "SpotTheDiffDrift"):
        options["seed"] = plan.seed
        if "n_folds" in options:
            options["train_size"] = None
    if plan.detector == "TabularDrift" and categorical:
        # Those there are: a category that neither reference nor window has breaks the test.
        options["categories_per_feature"] = dict.fromkeys(categorical)
    return load_class(plan.entry.module, plan.detector)(reference, **options)


def _classifier(name: str, *, seed: int) -> Any:
    if name == "logistic_regression":
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if name == "gradient_boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(random_state=seed)
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, min_samples_leaf=5, random_state=seed)


def _number(value: Any) -> float | None:
    return None if value is None else float(np.asarray(value).reshape(-1)[0])
