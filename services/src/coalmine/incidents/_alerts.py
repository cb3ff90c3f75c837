"""Incidents as alerts, for Alertmanager or in its webhook's format; pure functions, frozen state.

An alert is delivered once when its incident opens, again every `repeat` seconds while it is open,
and once more, resolved, when it is not. What could not be delivered stays due.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from coalmine.incidents._incident import Incident

__all__ = ["REPEAT", "Alert", "Alerts", "alertmanager", "delivered", "due", "observe", "webhook"]

#: Seconds; as in the shipped Alertmanager configuration.
REPEAT = 300.0
_NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Alert:
    """One incident's alert, and what the receiver was told of it."""

    monitor: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    """Seconds since the epoch, UTC, as `ends_at` and `told_at`."""

    ends_at: float | None = None
    told_at: float | None = None
    """When the receiver was last told; None: never."""

    @property
    def fingerprint(self) -> str:
        """Identifies the set of labels."""
        text = "\0".join(f"{key}\0{self.labels[key]}" for key in sorted(self.labels))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


Alerts = Mapping[str, Alert]


def observe(alerts: Alerts, incidents: Iterable[Incident], *, monitor: str, now: float) -> Alerts:
    """The alerts after one monitor has named its open incidents."""
    found = {incident.id: incident for incident in incidents}
    after = dict(alerts)
    for key, incident in found.items():
        fresh = _alert(incident, monitor)
        known = after.get(key)
        after[key] = fresh if known is None else replace(known, annotations=fresh.annotations)
    for key, alert in alerts.items():
        if alert.monitor == monitor and key not in found and alert.ends_at is None:
            after[key] = replace(alert, ends_at=now)
    return after


def due(alerts: Alerts, *, now: float, repeat: float = REPEAT) -> tuple[str, ...]:
    """The alerts to deliver now. One that ended untold is told as firing first, then resolved."""
    return tuple(
        key
        for key, alert in alerts.items()
        if alert.told_at is None or alert.ends_at is not None or now - alert.told_at >= repeat
    )


def delivered(alerts: Alerts, key: str, *, now: float) -> Alerts:
    """The alerts after one was delivered; a resolved one is forgotten."""
    after = dict(alerts)
    if _is_resolved(after[key]):
        del after[key]
    else:
        after[key] = replace(after[key], told_at=now)
    return after


def webhook(alert: Alert, *, external_url: str, generator_url: str) -> dict[str, Any]:
    """The body to post for an alert."""
    status = "resolved" if _is_resolved(alert) else "firing"
    grouping = {name: alert.labels[name] for name in ("alertname", "incident")}
    group = ", ".join(f'{name}="{value}"' for name, value in grouping.items())
    ends_at = alert.ends_at if status == "resolved" else None
    return {
        "version": "4",
        "groupKey": f"{{}}:{{{group}}}",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "coalmine",
        "groupLabels": grouping,
        "commonLabels": dict(alert.labels),
        "commonAnnotations": dict(alert.annotations),
        "externalURL": external_url,
        "alerts": [
            {
                "status": status,
                "labels": dict(alert.labels),
                "annotations": dict(alert.annotations),
                "startsAt": _rfc3339(alert.starts_at),
                "endsAt": _NEVER if ends_at is None else _rfc3339(ends_at),
                "generatorURL": generator_url,
                "fingerprint": alert.fingerprint,
            }
        ],
    }


def alertmanager(alert: Alert, *, expires_at: float, generator_url: str) -> dict[str, Any]:
    """An alert as `POST /api/v2/alerts` of Alertmanager takes it, in a list.

    One that fires is over at `expires_at` unless it is told again before: whoever tells may die.
    """
    ends_at = alert.ends_at if _is_resolved(alert) else None
    ends_at = expires_at if ends_at is None else ends_at
    return {
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        # Records may be from a machine whose clock is ahead; an alert cannot end before it starts.
        "startsAt": _rfc3339(min(alert.starts_at, ends_at)),
        "endsAt": _rfc3339(ends_at),
        "generatorURL": generator_url,
    }


def _is_resolved(alert: Alert) -> bool:
    return alert.ends_at is not None and alert.told_at is not None


def _alert(incident: Incident, monitor: str) -> Alert:
    labels = {
        "alertname": incident.alertname,
        "model_name": incident.model_name,
        "revision": incident.model_version,
        "incident": incident.id,
    }
    # Since when the world is different, which is before the monitor could be sure of it.
    annotations = {"summary": incident.summary, "onset": _rfc3339(incident.onset_at)}
    if incident.features:
        labels["feature"] = incident.features[0].name
        annotations["features"] = ", ".join(feature.name for feature in incident.features)
        if incident.features[0].sensor:
            annotations["sensor"] = incident.features[0].sensor
    return Alert(monitor, labels, annotations, incident.opened_at)


def _rfc3339(time: float) -> str:
    return (
        datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
