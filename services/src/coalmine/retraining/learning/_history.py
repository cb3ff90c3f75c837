"""How much of the past still holds: measured on the newest labelled rows, not assumed.

After a drift the rows since its onset are few and right, those before are many and perhaps wrong.
Each way to mix them is tried once, with the parameters that are tried first anyway, and judged by
its loss on the newest labelled rows that the holdout leaves (prequential validation, Dawid 1984,
https://doi.org/10.2307/2981683): what fits those best is what the search goes on with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coalmine.retraining.learning._family import Family, Lesson, Material, Tried
from coalmine.retraining.learning._space import defaults

#: How much more than a row of history a recent row counts; None: history teaches nothing.
WINDOWS: Mapping[str, float | None] = {
    "since onset": None,
    "all": 1.0,
    "all, recent x 8": 8.0,
    "all, recent x 64": 64.0,
}
#: What there is to choose from without both a past and a present.
_ONLY = "all"


@dataclass(frozen=True, slots=True)
class History:
    """The window that was chosen, and what the others would have cost."""

    window: str
    tried: Mapping[str, Tried]
    """How each window did on the newest labelled rows."""

    rows: Mapping[str, int]
    """That each window has to learn from, in its trial."""

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "window": self.window,
            "loss": {window: tried.loss for window, tried in self.tried.items()},
            "rows": dict(self.rows),
        }

    def lesson(self, rows: np.ndarray, material: Material) -> Lesson:
        """These rows in the chosen mix."""
        return lesson_of(rows, material, window=self.window)


def choose_history(
    family: Family, material: Material, *, train: np.ndarray, tune: np.ndarray
) -> tuple[History, Lesson]:
    """Try the windows that the rows `train` allow; the best one, and its lesson."""
    mixed = len(np.unique(material.recent[train])) > 1
    found: dict[str, tuple[Tried, Lesson]] = {}
    for window in WINDOWS if mixed else (_ONLY,):
        lesson = lesson_of(train, material, window=window)
        if WINDOWS[window] is None and len(np.unique(material.label[lesson.rows])) < 2:
            continue  # the present is of one class so far: nothing to tell apart
        params = defaults(family.space)
        found[window] = family.trial(lesson, tune, params=params, report=_never_stop), lesson
    best = min(found, key=lambda window: found[window][0].loss)
    history = History(
        window=best,
        tried={window: tried for window, (tried, _) in found.items()},
        rows={window: len(lesson.rows) for window, (_, lesson) in found.items()},
    )
    return history, found[best][1]


def lesson_of(rows: np.ndarray, material: Material, *, window: str) -> Lesson:
    """These rows in the mix of a window."""
    more = WINDOWS[window]
    if more is None:
        rows = rows[material.recent[rows]]
        return Lesson(rows, np.ones(len(rows)))
    return Lesson(rows, np.where(material.recent[rows], more, 1.0))


def _never_stop(rounds: int, loss: float) -> None:
    """These trials are few, and each is compared at its best."""
