"""What monitors find, and the alerts that are made of it.

`observe`, `due` and `delivered` follow what a receiver was told of open incidents; `webhook` and
`alertmanager` are the bodies it is told with.
"""

from __future__ import annotations

from coalmine.incidents._alerts import (
    Alert,
    Alerts,
    alertmanager,
    delivered,
    due,
    observe,
    webhook,
)
from coalmine.incidents._incident import ALERT_NAMES, AffectedFeature, Incident, IncidentKind

__all__ = [
    "ALERT_NAMES",
    "AffectedFeature",
    "Alert",
    "Alerts",
    "Incident",
    "IncidentKind",
    "alertmanager",
    "delivered",
    "due",
    "observe",
    "webhook",
]
