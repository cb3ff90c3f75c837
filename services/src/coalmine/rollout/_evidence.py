"""The evidence of a rollout: the candidate beside stable, block by block. All a verdict is made of.

`_select.py` makes it from what a source measured. What was not measured is None and never zero:
a verdict can tell a model that makes no errors from one whose errors nobody counted.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from coalmine.arms import Arm

__all__ = ["ArmCounts", "Block", "Callers", "Evidence", "PairBlock", "Query", "Split", "Window"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(_Frozen):
    """A stretch of time in which the candidate was on an arm and the routes were confirmed."""

    arm: Arm
    opened_at: float
    closed_at: float | None = None
    """Seconds since the epoch; None while it lasts."""

    weights: dict[Arm, int] = {}
    """Percent of the requests to each arm, as confirmed. With `baseline` among them, the candidate
    is judged against that second copy of stable, which is as young and as busy, and never against
    stable itself. Empty: not noted, so that the split cannot be checked."""

    def holds(self, time: float, end: float) -> bool:
        """Whether a block lies wholly inside."""
        return self.opened_at <= time and (self.closed_at is None or end <= self.closed_at)

    @property
    def reference(self) -> Arm:
        """The arm that the candidate is compared with."""
        return Arm.BASELINE if self.weights.get(Arm.BASELINE) else Arm.STABLE


class ArmCounts(_Frozen):
    """One arm in one block. None: not measured."""

    requests: int
    errors: int | None
    slow: int | None
    """Requests slower than `Evidence.slow_edge_us`."""

    tail: int | None = None
    """Requests slower than `Evidence.tail_edge_us`."""

    labelled: int = 0
    correct: int = 0
    predictions: tuple[int, ...] | None = None
    """Instances by predicted class or bin, as `Evidence.prediction_names` has them."""

    @property
    def wrong(self) -> int:
        """Labelled instances that were answered wrongly."""
        return self.labelled - self.correct


class Block(_Frozen):
    """Candidate and stable in the same block of time."""

    time: float
    arm: Arm
    """Where the candidate was: `shadow` or `canary`."""

    age: float
    """Seconds since the candidate first got traffic on this arm."""

    candidate: ArmCounts
    stable: ArmCounts
    reference: Arm = Arm.STABLE
    """Which copy of the stable version `stable` counts: `stable`, or its concurrent `baseline`."""


class PairBlock(_Frozen):
    """Labelled instances that both models answered, in one block of time."""

    time: float
    won: int
    """The candidate alone was right."""

    lost: int
    """Stable alone was right."""

    even: int


class Split(_Frozen):
    """How many requests each arm got in one window, beside the weights that were in force."""

    weights: dict[Arm, int]
    requests: dict[Arm, int]
    callers: dict[Arm, int] | None = None
    """Distinct sticky callers; None: not counted. Where callers stick to an arm, they are what was
    dealt out, and the requests of one caller are no independent draws."""


class Callers(_Frozen):
    """Sticky callers of an arm over the whole rollout, as sums over the callers.

    With n requests of a caller and e errors among them; enough to see by how much callers differ.
    """

    callers: int
    requests: int
    errors: int
    requests_squared: int
    requests_errors: int
    errors_squared: int


class Query(_Frozen):
    """What a source was asked, word for word, for the ledger."""

    name: str
    text: str


class Evidence(_Frozen):
    """All that a verdict is made of."""

    evaluated_to: float
    stage_seconds: float
    """How long the current stage has been watched, in record time."""

    slow_edge_us: float | None
    """The latency that few of stable's requests exceed (p95's bucket edge). None: not known yet."""

    tail_edge_us: float | None = None
    """The same at p99."""

    request_size: float | None
    """Instances of the largest requests, since these are alike; None: unknown."""

    blocks: tuple[Block, ...]
    pairs: tuple[PairBlock, ...]
    splits: tuple[Split, ...] = ()
    sticky: bool = False
    """Whether callers stick to an arm, so that a split is one of callers."""

    callers: dict[Arm, Callers] | None = None
    prediction_names: tuple[str, ...] = ()
    source: str = "performance monitor"
    queries: tuple[Query, ...] = ()
