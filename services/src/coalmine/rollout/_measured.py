"""The performance monitor's answer to `GET /v1/evidence`, as far as a rollout uses it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coalmine.rollout._errors import EvidenceUnavailable

__all__ = ["Measured", "MeasuredBlock", "MeasuredPair", "parse_measured"]

_Count = Annotated[int, Field(ge=0)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class MeasuredBlock(_Answer):
    """One block of time of one version on one arm."""

    time: float
    version: str
    arm: str
    requests: _Count
    errors: _Count
    latency_counts: tuple[_Count, ...]
    """Requests by latency: entry i up to `latency_edges_us[i]`, the last one beyond all edges."""

    instances: _Count | None = None
    """Rows that were answered; None: the monitor does not say."""

    labelled: _Count = 0
    correct: _Count = 0

    @model_validator(mode="after")
    def _parts_fit_their_whole(self) -> MeasuredBlock:
        if self.errors > self.requests or self.correct > self.labelled:
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


class Measured(_Answer):
    """Totals by block. A block's labels grow as they come in; a later answer replaces this one."""

    evaluated_to: float
    """Record time up to which everything is counted, seconds since the epoch; 0: nothing yet."""

    latency_edges_us: tuple[float, ...]
    blocks: tuple[MeasuredBlock, ...]
    pairs: tuple[MeasuredPair, ...] = ()

    @model_validator(mode="after")
    def _latencies_fit_the_edges(self) -> Measured:
        for block in self.blocks:
            if len(block.latency_counts) != len(self.latency_edges_us) + 1:
                raise ValueError(
                    f"block {block.time}: {len(block.latency_counts)} latency counts for "
                    f"{len(self.latency_edges_us)} edges, there must be one more"
                )
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
