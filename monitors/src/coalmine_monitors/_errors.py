"""What can go wrong in a monitor::

MonitorError
├── UnusableReferenceError    nothing can be calibrated on a reference; the message says why
└── StateMovedError           another process has advanced the state: load it again
"""

from __future__ import annotations

__all__ = ["MonitorError", "StateMovedError", "UnusableReferenceError"]


class MonitorError(Exception):
    """The root of the tree."""


class UnusableReferenceError(MonitorError, ValueError):
    """A reference that nothing can be calibrated on; the message says why."""


class StateMovedError(MonitorError):
    """Another process has advanced the state: load it again."""
