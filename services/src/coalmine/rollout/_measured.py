"""What a source measured: the performance monitor's `GET /v1/evidence`, as far as it is used.

Other sources give the same, with None for what they cannot measure.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coalmine.rollout._errors import EvidenceUnavailable
from coalmine.rollout._evidence import Callers, Query

__all__ = ["Measured", "MeasuredBlock", "MeasuredCallers", "MeasuredPair", "parse_measured"]

_Count = Annotated[int, Field(ge=0)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class MeasuredBlock(_Answer):
    """One block of time of one version on one arm."""

    time: float
    version: str
    arm: str
    requests: _Count
    errors: _Count | None
    """None: not measured."""

    latency_counts: tuple[_Count, ...] | None
    """Requests by latency: entry i up to `latency_edges_us[i]`, the last one beyond all edges.
    None: not measured."""

    instances: _Count | None = None
    """Rows that were answered; None: the source does not say."""

    predictions: tuple[_Count, ...] | None = None
    """Rows by `prediction_names`; None: not measured."""

    labelled: _Count = 0
    correct: _Count = 0

    @model_validator(mode="after")
    def _parts_fit_their_whole(self) -> MeasuredBlock:
        if (self.errors or 0) > self.requests or self.correct > self.labelled:
            raise ValueError(
                f"block {self.time}: more errors than requests, or right than labelled"
            )
        return self


class MeasuredPair(_Answer):
    """Labelled instances of one block of time that two arms answered."""

    time: float
    a_version: str
    a_arm: str
    b_version: str
    b_arm: str
    both_right: _Count
    only_a: _Count
    only_b: _Count
    both_wrong: _Count


class MeasuredCallers(_Answer):
    """The callers of one version on one arm, since the asked time, as sums over them."""

    version: str
    arm: str
    callers: _Count
    requests: _Count
    errors: _Count
    requests_squared: _Count
    requests_errors: _Count
    errors_squared: _Count

    @property
    def sums(self) -> Callers:
        """Without whose they are."""
        return Callers(**self.model_dump(exclude={"version", "arm"}))


class Measured(_Answer):
    """Totals by block. A block's labels grow as they come in; a later answer replaces this one."""

    evaluated_to: float
    """Record time up to which everything is counted, seconds since the epoch; 0: nothing yet."""

    latency_edges_us: tuple[float, ...]
    blocks: tuple[MeasuredBlock, ...]
    pairs: tuple[MeasuredPair, ...] = ()
    prediction_names: tuple[str, ...] = ()
    """Classes, or bins of a number, that predictions are counted by."""

    callers: tuple[MeasuredCallers, ...] = ()
    """Without those of which no record says who called."""

    source: str = "performance monitor"
    """Who measured, for a person."""

    queries: tuple[Query, ...] = ()
    """What was asked to get this, for the ledger."""

    @model_validator(mode="after")
    def _counts_fit_their_names(self) -> Measured:
        for block in self.blocks:
            found, edges = block.latency_counts, self.latency_edges_us
            if found is not None and len(found) != len(edges) + 1:
                raise ValueError(
                    f"block {block.time}: {len(found)} latency counts for {len(edges)} edges, "
                    "there must be one more"
                )
            if block.predictions is not None:
                counted, names = len(block.predictions), len(self.prediction_names)
                if counted != names:
                    raise ValueError(f"block {block.time}: {counted} predictions, {names} names")
        return self


def parse_measured(content: bytes) -> Measured:
    """Read an answer; `EvidenceUnavailable` if it is not one."""
    try:
        return Measured.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "answer"
        raise EvidenceUnavailable(
            f"not the evidence that was agreed: {key}: {first['msg']}"
        ) from error
