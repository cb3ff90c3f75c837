"""The shape of a fleet's day."""

from __future__ import annotations

import pytest

from coalmine_loadtests._day import users_at


def test_the_evening_is_the_peak_and_nobody_is_lost() -> None:
    day = [users_at(quarter / 4, peak=40) for quarter in range(97)]
    assert max(day) == 40
    assert day.index(40) == 4 * 18
    assert min(day) == 4
    assert users_at(3, peak=1) == 1


@pytest.mark.parametrize("hour", [-0.1, 24.1])
def test_an_hour_that_is_none(hour: float) -> None:
    with pytest.raises(ValueError, match="is not an hour"):
        users_at(hour, peak=10)
