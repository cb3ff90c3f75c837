"""Whether a batch is run in place, on the event loop, or handed to a runner.

Handing over costs a request about 0.1 ms, so a cheaper model is faster in place, for the caller and
for all others. What is cheap is measured when the model is warmed up, and corrected when it turns
out to be wrong: data may be larger than the sample, and a transformer may wait for something.
"""

from __future__ import annotations

import math
from typing import Literal

from coalmine.serving._cpus import available_cpus

__all__ = ["InlineKind", "InlinePolicy"]

InlineKind = Literal["auto", "always", "never"]

#: What handing a batch to another thread and back costs a request, in seconds.
_HAND_OVER = 100e-6
#: On a single core a runner cannot run beside the event loop: it only takes turns with it.
_ONE_CORE = 1e-3
#: A batch that took so many seconds was not cheap: its data were large, its transformer waited, or
#: the machine had something better to do. It costs the model so much trust, and each cheap batch
#: gives a little back; who has lost all of it does not run in place until all is regained.
_TOO_LONG = 20e-3
_BEARABLE = 0.25
_REGAINED = 2e-3
#: As many as a batch has anyway: what follows a batch is paid once, and costs more than joining.
_MOST_ROWS = 4096


class InlinePolicy:
    """`rows`: the most that may be run in place now; 0: nothing."""

    __slots__ = ("_lost", "_rows", "_seconds", "rows")

    def __init__(self, rows: int, *, seconds: float = math.inf) -> None:
        self.rows = self._rows = rows
        self._seconds = seconds
        """What a batch may take and still be cheap; infinite if it always runs in place."""

        self._lost = 0.0

    @classmethod
    def measured(cls, one: float, per_row: float) -> InlinePolicy:
        """For a model that takes `one` seconds for one row and `per_row` for each further one."""
        limit = _HAND_OVER if available_cpus() > 1 else _ONE_CORE
        if one >= limit:
            return cls(0)
        rows = int(1 + (limit - one) / max(per_row, 1e-9))
        return cls(min(_MOST_ROWS, rows), seconds=_TOO_LONG)

    def observe(self, seconds: float) -> None:
        """Note how long a batch took, wherever it ran."""
        if seconds > self._seconds:
            self._lost += seconds
            if self._lost > _BEARABLE:
                self.rows = 0
        elif self._lost:
            self._lost = max(0.0, self._lost - _REGAINED)
            if not self._lost:
                self.rows = self._rows
