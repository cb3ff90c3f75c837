"""One guard: what it is held to, what was found, and what that shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["GuardResult", "Levels", "Metric", "Source"]

Metric = Literal["error_rate", "slow_rate", "tail_rate", "accuracy", "prediction_drift"]
Source = Literal["requests", "pairs", "labels", "predictions"]

#: A regression is not called on a loss below this part of the margin, however significant.
_SMALLEST_LOSS = 0.25
#: A margin over the whole range would let nothing at all pass for non-inferiority.
_WIDEST_MARGIN = 0.9


@dataclass(frozen=True, slots=True)
class Levels:
    """What one guard is held to."""

    margin: float
    exposure: float
    """The candidate's share of the traffic if it passes: users lose only this share of its loss."""

    worse: float
    """Significance of a regression."""

    within: float
    """Significance of non-inferiority."""

    @property
    def stage_margin(self) -> float:
        """The candidate's own loss that costs users the margin at this exposure."""
        return min(self.margin / self.exposure, _WIDEST_MARGIN)

    @property
    def needed(self) -> dict[str, float]:
        """What the evidence has to reach, as `GuardResult` has it."""
        return {
            "margin": self.stage_margin,
            "log_e_worse_needed": -math.log(self.worse),
            "log_e_within_needed": -math.log(self.within),
            "smallest_loss": self.margin * _SMALLEST_LOSS,
        }


class GuardResult(BaseModel):
    """One guard's evidence. Rates are shares of bad outcomes; logarithms are natural."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric
    source: Source
    samples: int
    """Requests, pairs, labels or predictions of the candidate."""

    candidate: float | None
    stable: float | None
    loss: float | None
    """How much worse the candidate is, compared within blocks; negative: better. None: no data.
    Of drift: how much the share of the class differs of which it differs most."""

    margin: float
    log_e_worse: float
    log_e_worse_needed: float
    log_e_within: float
    log_e_within_needed: float
    smallest_loss: float

    @property
    def regression(self) -> bool:
        """Whether the candidate is shown to be worse: significantly, and by enough to matter."""
        significant = self.log_e_worse >= self.log_e_worse_needed
        return significant and self.loss is not None and self.loss >= self.smallest_loss

    @property
    def non_inferior(self) -> bool:
        """Whether the candidate is shown to be worse by less than the margin."""
        return self.samples > 0 and self.log_e_within >= self.log_e_within_needed

    def describe(self) -> str:
        """One line for a person."""
        name = f"{self.metric} ({self.source})"
        if self.loss is None or self.candidate is None or self.stable is None:
            return f"{name}: no data"
        what = "bad" if self.source != "predictions" else "of one answer"
        return (
            f"{name}: {self.candidate:.2%} against {self.stable:.2%} {what} over {self.samples}, "
            f"loss {self.loss:+.2%}, margin {self.margin:.2%}; ln e-value "
            f"{self.log_e_worse:.1f} of {self.log_e_worse_needed:.1f} for worse, "
            f"{self.log_e_within:.1f} of {self.log_e_within_needed:.1f} for within the margin"
        )
