"""The life of an incident: opened by an alarm, updated while it lasts, closed when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coalmine.incidents import AffectedFeature, Incident, IncidentKind

__all__ = ["Finding", "close", "follow"]


@dataclass(frozen=True)
class Finding:
    """What a detector says after a window. Times are record times."""

    detected: bool
    """Whether something is wrong, hysteresis included."""

    end: float
    """End of the window."""

    onset: float = 0.0
    summary: str = ""
    features: tuple[AffectedFeature, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


def follow(
    incident: Incident | None,
    finding: Finding,
    *,
    kind: IncidentKind,
    model: str,
    version: str,
    monitor: str | None = None,
) -> Incident | None:
    """The incident after a finding; None while nothing is wrong and nothing was.

    The id comes from record time, so replaying a log gives the same incidents. `monitor` is part of
    it where several monitors open incidents of one kind.
    """
    if not finding.detected:
        return None if incident is None else close(incident, at=finding.end)
    # An alert is named after the feature it was opened for, whatever the ranking becomes later.
    named = finding.features[0].name if finding.features else ""
    first = named if incident is None else incident.evidence.get("first_feature", named)
    changes: dict[str, Any] = {
        "updated_at": finding.end,
        "summary": finding.summary,
        "features": finding.features,
        "evidence": {**finding.evidence, "first_feature": first},
    }
    if incident is not None:
        return incident.model_copy(update=changes)
    return Incident(
        id=f"{model}-{version}-{(monitor or kind).replace('/', '-')}-{round(finding.end * 1e6):x}",
        kind=kind,
        model_name=model,
        model_version=version,
        onset_at=finding.onset,
        opened_at=finding.end,
        **changes,
    )


def close(incident: Incident, *, at: float) -> Incident:
    """The incident, over."""
    return incident.model_copy(update={"closed_at": at, "updated_at": at})
