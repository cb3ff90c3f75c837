"""What can go wrong in the benchmark of monitors::

MonitorBenchError    what the caller asked for cannot be done; the message says why
"""

from __future__ import annotations

__all__ = ["MonitorBenchError"]


class MonitorBenchError(Exception):
    """What the caller asked for cannot be done."""
