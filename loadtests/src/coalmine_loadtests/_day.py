"""How many vehicles upload at an hour of the day."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["users_at"]

#: (hour, share of the evening's peak)
_DAY = ((0, 0.1), (5, 0.1), (8, 0.8), (10, 0.4), (15, 0.4), (18, 1.0), (21, 0.3), (24, 0.1))


def users_at(hour: float, *, peak: int) -> int:
    """Vehicles at an hour (0 to 24), at least one, in straight lines between the known hours.

    >>> [users_at(hour, peak=50) for hour in (0, 6.5, 8, 12, 18, 24)]
    [5, 23, 40, 20, 50, 5]
    """
    for (start, low), (end, high) in pairwise(_DAY):
        if start <= hour <= end:
            share = low + (high - low) * (hour - start) / (end - start)
            return max(1, round(peak * share))
    raise ValueError(f"{hour} is not an hour of the day, 0 to 24")
