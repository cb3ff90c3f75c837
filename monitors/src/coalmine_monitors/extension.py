"""What a detector of others needs to become a monitor: the door for `monitors/alibi`.

A `Detector` judges windows of rows; `WindowMonitor` feeds it from the record log, keeps its state
and place in one transaction, and makes incidents and metrics of what it finds.
"""

from __future__ import annotations

from coalmine_monitors._alerts import AlertSender
from coalmine_monitors._catalog import Catalog, Deployed
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._incidents import Finding
from coalmine_monitors._metrics import capped, counter, gauge
from coalmine_monitors._rows import matrix
from coalmine_monitors._state import StateStore
from coalmine_monitors._windows import Detector, WindowMonitor, in_pieces
from coalmine_monitors._worker import Worker
from coalmine_monitors.drift import watched_columns

__all__ = [
    "AlertSender",
    "Catalog",
    "Deployed",
    "Detector",
    "Finding",
    "StateStore",
    "UnusableReferenceError",
    "WindowMonitor",
    "Worker",
    "capped",
    "counter",
    "gauge",
    "in_pieces",
    "matrix",
    "watched_columns",
]
