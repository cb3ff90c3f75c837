"""When a schedule is due, whatever the clock does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from coalmine.retraining._schedule import next_due, serve
from coalmine.spec import RetrainingSpec

START = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
HOUR = 3600.0


def served(schedule: str, times: list[float]) -> list[float]:
    """The hours since the start at which a run is asked for, when looked at these hours."""
    mark, found = START, []
    for hours in times:
        now = START + hours * HOUR
        due, mark = serve(schedule, mark=mark, now=now)
        if due:
            found.append(hours)
    return found


@pytest.mark.parametrize("schedule", ["6h", "0 */6 * * *"])
def test_each_due_time_is_served_once(schedule: str) -> None:
    looks = [tenth / 10 for tenth in range(1, 300)]
    assert served(schedule, looks) == [6.0, 12.0, 18.0, 24.0]


@pytest.mark.parametrize("schedule", ["6h", "0 */6 * * *"])
def test_missed_times_are_served_once_together_and_the_phase_is_kept(schedule: str) -> None:
    assert served(schedule, [1.0, 100.0, 101.0, 102.0, 107.9, 108.0]) == [100.0, 102.0, 108.0]


@pytest.mark.parametrize("schedule", ["6h", "0 */6 * * *"])
def test_a_clock_that_is_set_back_serves_no_time_twice(schedule: str) -> None:
    assert served(schedule, [6.0, 5.5, 5.9, 6.0, 6.1, 12.0]) == [6.0, 12.0]


@pytest.mark.parametrize("schedule", ["6h", "0 */6 * * *"])
def test_a_clock_that_was_years_ahead_does_not_silence_it(schedule: str) -> None:
    looks = [6.0, 1e6, 7.0, 9.0, 13.0]
    assert served(schedule, looks) == [6.0, 1e6, 13.0]


def test_what_is_no_schedule_is_named() -> None:
    for text in ("30s", "every day", "* * * * * *", "61 * * * *", "0 0 31 2 *", ""):
        with pytest.raises(ValidationError, match=r"schedule\n.*(24h|at least 1m)"):
            RetrainingSpec(pipeline="a:b", schedule=text)
    assert next_due("0 3 * * 1", START) == START + 51 * HOUR
