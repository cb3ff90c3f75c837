"""Data quality of one model version's features: rules, window by window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.incidents import AffectedFeature
from coalmine.modeldir import Column
from coalmine_monitors._incidents import Finding
from coalmine_monitors._windows import in_pieces
from coalmine_monitors.quality._rules import Fault, Rule, faults, longest_run
from coalmine_monitors.quality._stream import StreamChecks

__all__ = ["QualityDetector"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Streak:
    """A fault that has been seen lately: how long in a row, since when, and whether it is over."""

    fault: Fault
    since: float
    faulty: int = 1
    healthy: int = 0
    blamed: bool = False

    def again(self, fault: Fault, *, consecutive: int) -> _Streak:
        """After one more window with the fault."""
        faulty = self.faulty + 1
        blamed = self.blamed or faulty >= consecutive
        return replace(self, fault=fault, faulty=faulty, healthy=0, blamed=blamed)

    def gone(self) -> _Streak:
        """After a window without it."""
        return replace(self, faulty=0, healthy=self.healthy + 1)


class QualityDetector:
    """Checks windows; `consecutive` faulty ones blame a feature, as many healthy ones clear it."""

    def __init__(
        self,
        columns: tuple[Column, ...],
        rules: tuple[Rule, ...],
        *,
        window_rows: int,
        consecutive: int,
        stream: StreamChecks,
    ) -> None:
        self.stream = stream
        """Looks at the batches, before their rows are taken."""
        self.missing: Floats = np.zeros(len(columns))
        """Share of missing values of each feature in the last window."""
        self._columns = columns
        self._rules = rules
        self._window_rows = window_rows
        self._consecutive = consecutive
        self._rows: Floats = np.empty((0, len(columns)))
        self._start = 0.0
        self._end = 0.0
        self._streaks: dict[tuple[str, str], _Streak] = {}
        #: The value each feature ended the last window with, and how many times in a row.
        self._ends: list[tuple[float, int]] = [(np.nan, 0)] * len(columns)
        self._windows = 0
        self.finding: Finding | None = None
        self.report: Mapping[str, Any] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features watched."""
        return self._columns

    @property
    def room(self) -> int:
        """Rows until the present window is full."""
        return self._window_rows - len(self._rows)

    def fits(self, at: Floats) -> int:
        """How many of the rows to come, at record times [n], one `update` takes."""
        return min(len(at), self.room)

    def feed(self, rows: Floats, at: Floats) -> Iterator[int]:
        """Take any number of rows; it stops after each judged window."""
        return in_pieces(self, rows, at)

    @property
    def windows(self) -> int:
        """Windows judged so far."""
        return self._windows

    @property
    def detected(self) -> bool:
        """Whether some feature is blamed."""
        return any(streak.blamed for streak in self._streaks.values())

    def update(self, rows: Floats, at: Floats) -> None:
        """Take at most `room` rows [n, columns], NaN where missing, with their record times [n]."""
        if not len(rows):
            return
        low, high = float(at.min()), float(at.max())
        fresh = not len(self._rows)
        self._start = low if fresh else min(self._start, low)
        self._end = high if fresh else max(self._end, high)
        self._rows = np.vstack([self._rows, rows])
        if len(self._rows) >= self._window_rows:
            self._judge()

    def _judge(self) -> None:
        found: dict[tuple[str, str], Fault] = {
            (fault.feature, fault.check): fault for fault in self._faults()
        }
        self.missing = np.isnan(self._rows).mean(axis=0)
        self._streaks = self._after(found)
        self._windows += 1
        self._rows = self._rows[:0]
        self.report = {
            "start": self._start,
            "end": self._end,
            "detected": self.detected,
            "faults": [asdict(fault) for fault in found.values()],
        }
        self.finding = self._conclude()

    def _faults(self) -> list[Fault]:
        found: list[Fault] = []
        for index, rule in enumerate(self._rules):
            values = self._rows[:, index]
            last, length = self._ends[index]
            longest, length = longest_run(values, last=last, length=length)
            self._ends[index] = (float(values[-1]), length)
            found += faults(rule, values, run=longest)
        return found + self.stream.faults()

    def _after(self, found: dict[tuple[str, str], Fault]) -> dict[tuple[str, str], _Streak]:
        streaks: dict[tuple[str, str], _Streak] = {}
        for key, fault in found.items():
            old = self._streaks.get(key)
            if old is None or (not old.blamed and old.faulty == 0):
                new = _Streak(fault, since=self._start, blamed=self._consecutive == 1)
            else:
                new = old.again(fault, consecutive=self._consecutive)
            streaks[key] = new
        for key, old in self._streaks.items():
            gone = old.gone()
            if key not in found and old.blamed and gone.healthy < self._consecutive:
                streaks[key] = gone
        return streaks

    def _conclude(self) -> Finding:
        blamed = [streak for streak in self._streaks.values() if streak.blamed]
        if not blamed:
            return Finding(detected=False, end=self._end)
        blamed.sort(key=lambda streak: _rank(streak.fault))
        sensors = {rule.feature: rule.sensor for rule in self._rules}
        features = tuple(
            AffectedFeature(
                name=streak.fault.feature,
                statistic=streak.fault.check,
                score=streak.fault.score,
                threshold=streak.fault.threshold,
                direction=streak.fault.direction,
                sensor=sensors.get(streak.fault.feature),
            )
            for streak in blamed
        )
        return Finding(
            detected=True,
            end=self._end,
            onset=min(streak.since for streak in blamed),
            summary="; ".join(_sentence(feature) for feature in features),
            features=features,
            evidence={"windows": max(streak.faulty for streak in blamed), "window": self._windows},
        )

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON: at most one window of rows."""
        return {
            "rows": self._rows.tolist(),
            "start": self._start,
            "end": self._end,
            "streaks": [asdict(streak) for streak in self._streaks.values()],
            "windows": self._windows,
            "ends": [[None if last != last else last, length] for last, length in self._ends],
            "stream": self.stream.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._rows = np.array(state["rows"], dtype=np.float64).reshape(-1, len(self._columns))
        self._start = float(state["start"])
        self._end = float(state["end"])
        streaks = [
            _Streak(**{**streak, "fault": Fault(**streak["fault"])}) for streak in state["streaks"]
        ]
        self._streaks = {(item.fault.feature, item.fault.check): item for item in streaks}
        self._windows = int(state["windows"])
        self._ends = [
            (np.nan if last is None else float(last), int(length)) for last, length in state["ends"]
        ]
        self.stream.restore(state["stream"])


def _rank(fault: Fault) -> tuple[bool, float, str]:
    """Sort key: a check of redundant sensors says most of the cause, then what is farthest out."""
    excess = fault.score / max(fault.threshold, 1e-9)
    return fault.check != "sensor_check", -excess, fault.feature


def _sentence(feature: AffectedFeature) -> str:
    score, limit = feature.score, feature.threshold
    fell = feature.direction == "down"
    what = {
        "missing": f"{score:.1%} of values missing (limit {limit:.1%})",
        "range": f"{score:.1%} of values out of range (limit {limit:.1%})",
        "constant": "stuck at one value",
        "stuck": f"stuck at one value for {score:.0f} rows",
        "type": "not a number" if score == 1 else f"{score:.1%} of values are no finite numbers",
        "unseen": f"{score:.1%} of values are unknown categories (limit {limit:.1%})",
        "schema": "the records' features have changed",
        "volume": f"{score:.0f} rows in an interval, {'below' if fell else 'above'} {limit:.0f}",
        "order": f"{score:.1%} of rows come long after newer ones",
        "duplicates": f"{score:.1%} of requests are there twice",
        "sensor_check": f"off by {score:.3g} (tolerance {limit:.3g})",
    }[feature.statistic]
    look = "" if feature.sensor is None else f"; look at sensor {feature.sensor}"
    return f"{feature.name}: {what}{look}"
