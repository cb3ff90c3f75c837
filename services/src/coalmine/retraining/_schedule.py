"""When the schedule of the service file is due: pure functions, and nothing that waits.

A schedule is a cron expression of five fields, in UTC, or an interval such as `24h`. The store
keeps the latest due time that was served (the mark), in the transaction that records its trigger.
Times that were missed while nothing ran are served once, together. A clock that is set back serves
no time twice; one that was far in the future, and is mended, does not silence the schedule for so
long.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from coalmine.spec import parse_interval


def next_due(schedule: str, after: float) -> float:
    """The first due time later than `after`; both seconds since the epoch.

    >>> next_due("0 3 * * *", 1795255200.0) - 1795255200.0  # 10:00 to 03:00
    61200.0
    >>> next_due("6h", 1795255200.0) - 1795255200.0
    21600.0
    """
    interval = parse_interval(schedule)
    if interval is not None:
        return after + interval
    from cronsim import CronSim

    return float(next(CronSim(schedule, datetime.fromtimestamp(after, UTC))).timestamp())


def serve(schedule: str, *, mark: float, now: float) -> tuple[bool, float]:
    """Whether a time is due, and the mark from now on."""
    first = next_due(schedule, mark)
    if now < mark:
        # Set back. Wait for the time that is already served, unless that is further away than the
        # schedule's own step: then it is the mark that was wrong.
        return False, mark if mark <= next_due(schedule, now) else now
    if first > now:
        return False, mark
    interval = parse_interval(schedule)
    if interval is not None:  # keep its phase
        return True, mark + interval * math.floor((now - mark) / interval)
    return True, now
