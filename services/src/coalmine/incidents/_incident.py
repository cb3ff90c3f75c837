"""An incident: one cause, opened, updated and closed by a monitor; what alerts are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ALERT_NAMES", "AffectedFeature", "Incident", "IncidentKind"]

IncidentKind = Literal["drift", "accuracy", "data_quality"]

#: The alert that an open incident of each kind raises, in the shipped Prometheus rules too.
ALERT_NAMES: dict[IncidentKind, str] = {
    "drift": "CoalmineDrift",
    "accuracy": "CoalmineAccuracyLoss",
    "data_quality": "CoalmineDataQuality",
}


class AffectedFeature(BaseModel):
    """One feature's part in an incident, largest first in the incident's list."""

    model_config = ConfigDict(frozen=True)

    name: str
    statistic: str
    score: float
    threshold: float
    direction: Literal["up", "down", "other"] = "other"
    sensor: str | None = None
    contribution: float | None = None
    """Its share of what all named features moved, each by its threshold."""

    shift: float | None = None
    """How far its mean is away, in standard deviations of the reference."""

    onset_at: float | None = None
    """Since when, as far as the evidence reaches back."""

    segments: tuple[str, ...] = ()
    """Where, as `column=value`; empty if everywhere, or if nobody knows yet."""


class Incident(BaseModel):
    """Times are seconds since the epoch, UTC, in the records' own time."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: IncidentKind
    model_name: str
    model_version: str
    summary: str
    onset_at: float
    """Since when, as far as the evidence reaches back."""

    opened_at: float
    updated_at: float
    closed_at: float | None = None
    features: tuple[AffectedFeature, ...] = ()
    evidence: dict[str, Any] = Field(default_factory=dict)

    @property
    def alertname(self) -> str:
        """The alert's name, as in the shipped rules."""
        return ALERT_NAMES[self.kind]
