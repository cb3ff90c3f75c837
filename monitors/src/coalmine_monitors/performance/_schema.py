"""What `GET /v1/evidence` and `GET /v1/performance` answer.

A block is `block_s` seconds of *record* time of one (version, arm). Its numbers are totals, not
increments: an answer replaces an earlier one, and a block's labels grow as they come in late.
Answers about the same block must therefore never be added up.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Block", "Evidence", "Pair", "Performance", "PerformanceWindow"]


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
    """Requests answered with a status of 400 or more; they are among `requests`."""

    latency_counts: tuple[int, ...]
    """Entry i counts edges[i-1] < latency <= edges[i]; one more entry counts the slower."""

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

    label_coverage: float | None
    """Labelled share of the instances listed; None without instances."""


class PerformanceWindow(_Answer):
    """Accuracy of one stretch of time; the interval allows for neighbours being alike."""

    time: float
    end: float
    arm: str
    instances: int
    labelled: int
    correct: int
    accuracy: float | None
    lower: float | None
    upper: float | None
    estimated: float | None = None
    """What the model's own confidence says, without labels; with its interval at 95 %."""

    estimated_lower: float | None = None
    estimated_upper: float | None = None


class Performance(_Answer):
    """Accuracy over time of one version."""

    version: str | None
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
