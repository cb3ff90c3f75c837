"""What `GET /v1/evidence` and `GET /v1/performance` answer.

A block is `block_s` seconds of *record* time of one (version, arm). Its numbers are totals, not
increments: an answer replaces an earlier one, and a block's labels grow as they come in late.
Answers about the same block must therefore never be added up.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = [
    "ArmDifference",
    "Block",
    "Callers",
    "ClassScores",
    "Evidence",
    "Measured",
    "Pair",
    "Performance",
    "PerformanceWindow",
]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Block(_Answer):
    """One block of one (version, arm). Requests are counted once each, labels once per instance."""

    time: float
    """Start of the block, seconds since the epoch; it ends `block_s` later."""

    version: str
    arm: str
    requests: int
    errors: int
    """Requests shed, or answered with a status of 400 or more; they are among `requests`."""

    latency_counts: tuple[int, ...]
    """Entry i counts edges[i-1] < latency <= edges[i]; one more entry counts the slower.
    Requests that were shed together count once here."""

    instances: int
    """Rows that were answered with a prediction."""

    labelled: int
    correct: int
    predictions: tuple[int, ...] | None = None
    """Rows by predicted class, as `Evidence.prediction_names` has them; None: not known."""


class Pair(_Answer):
    """Labelled instances that both `a` (stable or canary) and `b` (shadow) answered."""

    time: float
    a_version: str
    a_arm: str
    b_version: str
    b_arm: str
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int


class Callers(_Answer):
    """Callers of a (version, arm), as sums over them: n requests of one, e errors among these."""

    version: str
    arm: str
    callers: int
    requests: int
    errors: int
    requests_squared: int
    """The sum of n * n."""

    requests_errors: int
    """The sum of n * e."""

    errors_squared: int
    """The sum of e * e."""


class Evidence(_Answer):
    """Everything a rollout decision is made of, for blocks that start in [since, until)."""

    evaluated_to: float
    """Record time up to which records and labels are counted, 0 before the first record.

    Only blocks that end by then are listed.
    """

    block_s: float
    latency_edges_us: tuple[float, ...]
    blocks: tuple[Block, ...]
    pairs: tuple[Pair, ...]
    prediction_names: tuple[str, ...]
    """The predicted classes; of very many, the rarer ones together."""

    callers: tuple[Callers, ...] = ()
    """Since `since`, to a minute; a (version, arm) is missing whose callers nobody recorded."""

    label_coverage: float | None
    """Labelled share of the instances listed; None without instances."""


class Measured(_Answer):
    """A metric with its interval, which holds at 95 % over all time; None of too few rows."""

    value: float
    lower: float | None = None
    upper: float | None = None


class ClassScores(_Answer):
    """How well one class is told."""

    labelled: int
    precision: Measured
    recall: Measured
    f1: Measured


class PerformanceWindow(_Answer):
    """One stretch of time of one arm; the intervals allow for neighbours being alike."""

    time: float
    end: float
    arm: str
    instances: int
    labelled: int
    correct: int
    accuracy: float | None = None
    lower: float | None = None
    upper: float | None = None
    estimated: float | None = None
    """What the model's own confidence says, without labels; with its interval at 95 %."""

    estimated_lower: float | None = None
    estimated_upper: float | None = None
    mature: bool = True
    """Whether its labels are old enough to be all that will come; if not, nothing is scored."""

    label_coverage: float | None = None
    """Labelled share of the instances."""

    label_lag_s: float | None = None
    """Mean time from the answer to the truth."""

    metrics: dict[str, Measured] = {}
    """By name; which there are follows from the model's outputs."""

    classes: dict[str, ClassScores] = {}


class ArmDifference(_Answer):
    """A metric of an arm less that of the stable version, of the time they both answered in.

    The interval follows from the two of the metric, each at half the error (union bound).
    """

    arm: str
    version: str
    metric: str
    since: float
    until: float
    labelled: int
    labelled_stable: int
    value: float
    stable: float
    difference: float
    lower: float | None
    upper: float | None


class Performance(_Answer):
    """Performance over time of one version."""

    version: str | None
    task: str | None = None
    """`classification` or `regression`; None: its answers are neither classes nor a number."""

    metric: str | None = None
    """What an incident is about."""

    problem: str | None = None
    """Why nothing is watched, where it is not."""

    segment: str = ""
    """What `windows` are of: `feature=value`; empty: all rows."""

    segments: tuple[str, ...] = ()
    """What may be asked for."""
    baseline: float | None
    """The accuracy that the version's own evaluation found."""

    threshold: float | None
    """Accuracy below which an incident opens, once the evidence suffices."""

    evaluated_to: float
    log_evidence: float
    """Natural logarithm of the evidence that accuracy is below the threshold."""

    log_evidence_threshold: float
    estimate_valid: bool | None
    """Whether the labels that came since agree with what was estimated of their rows.

    False: the classes do not follow from the features as they did, and estimates are worth
    nothing until they do. None without estimates.
    """

    windows: tuple[PerformanceWindow, ...]
    differences: tuple[ArmDifference, ...] = ()
    """Of the other arms from stable."""
