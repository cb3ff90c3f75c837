"""A detector of alibi-detect as a detector of ours: windows, hysteresis, findings and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.incidents import AffectedFeature
from coalmine.modeldir import Column
from coalmine_alibi._attribution import Moves
from coalmine_alibi._check import Plan
from coalmine_alibi._judge import Floats, Judge, Judgement
from coalmine_alibi._library import seeded
from coalmine_monitors.extension import Finding, in_pieces

__all__ = ["AlibiDetector"]

#: Windows in a row without an alarm that end an incident.
CALM = 3


class AlibiDetector:
    """Tumbling windows of complete rows, each given to a judge. Its state has a fixed size.

    Rows that the judge cannot read (a value is missing, infinite or, where it takes 0 and 1,
    another) are left out and counted. An alarm opens an incident, `CALM` windows without end it.
    """

    def __init__(
        self,
        judge: Judge,
        plan: Plan,
        *,
        columns: tuple[Column, ...],
        moves: Moves,
        readable: Callable[[Floats], NDArray[np.bool_]],
    ) -> None:
        self._judge = judge
        self._plan = plan
        self._columns = columns
        self._moves = moves
        self._readable = readable
        self._rows: Floats = np.empty((0, len(columns)))
        self._at: Floats = np.empty(0)
        self._windows = 0
        self._skipped = 0
        self._quiet = 0
        self._last: dict[str, Any] | None = None
        self.finding: Finding | None = None
        self.report: Mapping[str, Any] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What `update` takes, in order."""
        return self._columns

    @property
    def windows(self) -> int:
        """Windows judged so far."""
        return self._windows

    @property
    def skipped(self) -> int:
        """Rows left out so far."""
        return self._skipped

    def fits(self, at: Floats) -> int:
        """How many of the rows to come `update` takes: until a window is full, if all are read."""
        return min(self._plan.window_rows - len(self._rows), len(at))

    def feed(self, rows: Floats, at: Floats) -> Iterator[int]:
        """Take any number of rows; it stops after each judged window."""
        return in_pieces(self, rows, at)

    def update(self, rows: Floats, at: Floats) -> None:
        """Take rows that fit [n, columns], NaN where missing, with their record times [n]."""
        readable = self._readable(rows)
        self._skipped += int((~readable).sum())
        self._rows = np.concatenate([self._rows, rows[readable]])
        self._at = np.concatenate([self._at, at[readable]])
        if len(self._rows) < self._plan.window_rows:
            return
        self._windows += 1
        with seeded(self._plan.seed, window=self._windows):
            judgement = self._judge.judge(self._rows)
        self._conclude(judgement)
        self._rows, self._at = self._rows[:0], self._at[:0]

    def _conclude(self, judgement: Judgement) -> None:
        start, end = float(self._at.min()), float(self._at.max())
        onset = float(self._at[judgement.first_row])
        if judgement.alarm:
            first = onset if self._last is None else self._last["onset"]
            self._quiet = 0
            self._last = {
                "onset": first,
                "features": [item.model_dump() for item in self._affected(judgement, onset=first)],
                "evidence": self._evidence(judgement),
            }
        elif self._last is not None:
            self._quiet += 1
            if self._quiet >= CALM:
                self._last, self._quiet = None, 0
        self.report = {
            "start": start,
            "end": end,
            "score": round(judgement.score, 6),
            "threshold": round(judgement.threshold, 6),
            "alarm": judgement.alarm,
            "detected": self._last is not None,
            "skipped_rows": self._skipped,
            "feature_statistic": self._statistic(judgement),
            "features": {
                self._columns[place].name: {"score": score, "threshold": threshold}
                for place, (score, threshold) in self._scores(judgement).items()
            },
            **judgement.details,
        }
        self.finding = self._finding(end)

    def _finding(self, end: float) -> Finding:
        last = self._last
        if last is None:
            return Finding(detected=False, end=end)
        features = tuple(AffectedFeature.model_validate(item) for item in last["features"])
        names = ", ".join(item.name for item in features) or "the features together"
        return Finding(
            detected=True,
            end=end,
            onset=last["onset"],
            summary=f"{self._plan.detector}: {names} moved away from the reference",
            features=features,
            evidence={**last["evidence"], "windows_without_alarm": self._quiet},
        )

    def _scores(self, judgement: Judgement) -> dict[int, tuple[float, float]]:
        """Score and threshold by column: the detector's own, else how far each column moved."""
        if judgement.features:
            found = dict(judgement.features)
        else:
            critical = self._moves.critical(len(self._rows))
            distances = self._moves.distances(self._rows)
            found = {place: (float(value), critical) for place, value in enumerate(distances)}
        return {place: (round(a, 6), round(b, 6)) for place, (a, b) in found.items()}

    def _affected(self, judgement: Judgement, *, onset: float) -> list[AffectedFeature]:
        found = [item for item in self._scores(judgement).items() if item[1][0] >= item[1][1]]
        found.sort(key=lambda item: -item[1][0])
        total = sum(score / threshold for _, (score, threshold) in found)
        return [
            AffectedFeature(
                name=self._columns[place].name,
                statistic=self._statistic(judgement),
                score=score,
                threshold=threshold,
                contribution=round(score / threshold / total, 6),
                onset_at=onset,
                **self._moves.of(self._rows, place, numeric=self._columns[place].type == "numeric"),
            )
            for place, (score, threshold) in found
        ]

    def _statistic(self, judgement: Judgement) -> str:
        """What the features' scores are: -log10 of the detector's p-value, or a distance."""
        return f"{self._plan.detector.lower()}_surprise" if judgement.features else "ks"

    def _evidence(self, judgement: Judgement) -> dict[str, Any]:
        return {
            "detector": f"alibi/{self._plan.detector}",
            "score": judgement.score,
            "threshold": judgement.threshold,
            "expected_run_length": self._plan.run_length,
            "window": self._windows,
            **judgement.details,
        }

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "rows": self._rows.tolist(),
            "at": self._at.tolist(),
            "windows": self._windows,
            "skipped": self._skipped,
            "quiet": self._quiet,
            "last": self._last,
            "report": dict(self.report),
            "judge": self._judge.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._rows = np.array(state["rows"], dtype=np.float64).reshape(-1, len(self._columns))
        self._at = np.array(state["at"], dtype=np.float64)
        self._windows = int(state["windows"])
        self._skipped = int(state["skipped"])
        self._quiet = int(state["quiet"])
        self._last = state["last"]
        self.report = state["report"]
        self._judge.restore(state["judge"])
