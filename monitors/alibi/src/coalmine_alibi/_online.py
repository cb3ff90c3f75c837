"""The online detectors: row by row, with thresholds for an expected run length."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from coalmine_alibi._check import Plan, least_bootstraps, refuse_few_bootstraps, simulated_steps
from coalmine_alibi._errors import AlibiConfigError
from coalmine_alibi._judge import Floats, Judgement
from coalmine_alibi._library import load_class
from coalmine_monitors.extension import UnusableReferenceError

__all__ = ["OnlineJudge", "make_online_detector"]

#: Of these it reads the newest entry at most, and keeps all.
_GROWING = ("test_stats", "drift_preds")


class OnlineJudge:
    """A detector with `predict(row)`. After an alarm it starts anew, as its thresholds suppose."""

    def __init__(self, detector: Any, *, prepare: Callable[[Floats], Any]) -> None:
        self._detector = detector
        self._inner = getattr(detector, "_detector", detector)
        self._prepare = prepare

    def judge(self, rows: Floats) -> Judgement:
        """Step through a block; the statistic nearest to its threshold tells of it."""
        best: tuple[float, float] = (-np.inf, np.nan)
        alarm: int | None = None
        for place, row in enumerate(self._prepare(rows)):
            data = self._detector.predict(row)["data"]
            self._forget()
            score, threshold = _nearest(data["test_stat"], data["threshold"])
            if not np.isnan(score) and (np.isnan(best[1]) or score - threshold > best[0] - best[1]):
                best = (score, threshold)
            if data["is_drift"]:
                alarm = place if alarm is None else alarm
                self._detector.reset_state()
        score, threshold = (0.0, 0.0) if np.isnan(best[1]) else best
        return Judgement(
            alarm=alarm is not None,
            score=score,
            threshold=threshold,
            first_row=alarm or 0,
            details={"rows_since_start": int(self._inner.t)},
        )

    def _forget(self) -> None:
        """Drop what it will not read again: it would keep every row it ever saw."""
        inner = self._inner
        for name in _GROWING:
            setattr(inner, name, getattr(inner, name)[-1:])
        if hasattr(inner, "xs"):
            inner.xs = inner.xs[-int(inner.max_ws) :]

    def state(self) -> dict[str, Any]:
        """The arrays alibi-detect itself would save, exactly."""
        return {
            key: _packed(getattr(self._inner, key))
            for key in self._inner.online_state_keys
            if hasattr(self._inner, key)
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up those arrays, as whatever the framework calls an array."""
        for key, packed in state.items():
            value = _unpacked(packed)
            if key == "t":
                value = int(value)
            elif self._inner.meta.get("backend") == "tensorflow" and key not in _GROWING:
                import tensorflow as tf

                value = tf.convert_to_tensor(value)
            elif self._inner.meta.get("backend") == "pytorch" and key not in _GROWING:
                import torch

                value = torch.from_numpy(value)
            setattr(self._inner, key, value)


def make_online_detector(plan: Plan, reference: Any) -> Any:
    """alibi-detect's object, its thresholds simulated: that takes seconds to minutes."""
    features = reference.shape[1]
    univariate = "window_sizes" in plan.options
    widest = max(plan.options.get("window_sizes", [plan.window_rows]))
    if len(reference) < 4 * widest:
        raise UnusableReferenceError(
            f"{plan.key}.window_rows: a window of {widest} rows takes a reference of "
            f"{4 * widest} complete rows, there are {len(reference)}"
        )
    try:
        refuse_few_bootstraps(plan, features=features)
    except AlibiConfigError as error:
        raise UnusableReferenceError(str(error)) from error
    options = {"verbose": False, **plan.options}
    least = least_bootstraps(
        plan.run_length, features=features if univariate else 1, steps=simulated_steps(plan)
    )
    options.setdefault("n_bootstraps", max(1000, 10 * least))
    if "sigma" in options:
        options["sigma"] = np.atleast_1d(np.asarray(options["sigma"], dtype=np.float32))
    if not univariate:
        options["window_size"] = plan.window_rows
    return load_class(plan.entry.module, plan.detector)(reference, plan.run_length, **options)


def _nearest(scores: Any, thresholds: Any) -> tuple[float, float]:
    """The score, of windows and features, that is farthest beyond its threshold."""
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    thresholds = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), scores.shape)
    beyond = scores - thresholds
    if np.isnan(beyond).all():
        return np.nan, np.nan  # no window is full yet
    place = np.unravel_index(int(np.nanargmax(beyond)), beyond.shape)
    return float(scores[place]), float(thresholds[place])


def _packed(value: Any) -> dict[str, Any]:
    array = np.ascontiguousarray(np.asarray(value))
    data = base64.b64encode(zlib.compress(array.tobytes(), 1)).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(np.shape(value)), "data": data}


def _unpacked(packed: Mapping[str, Any]) -> Any:
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, dtype=packed["dtype"]).reshape(packed["shape"]).copy()
