"""The simulator's promise of speed and of bounded memory, on whatever machine this is."""

from __future__ import annotations

import tracemalloc
from time import perf_counter

import pytest

from coalmine.apps.ev_battery import Fleet, FleetConfig


@pytest.mark.slow
def test_a_million_windows_in_well_under_a_minute() -> None:
    fleet = Fleet(FleetConfig())
    started = perf_counter()
    windows = sum(len(fleet.uploads(12_500)) for _ in range(10))
    assert windows == 1_000_000
    assert perf_counter() - started < 45


def test_memory_grows_with_the_answer_alone() -> None:
    fleet = Fleet(FleetConfig())
    tracemalloc.start()
    telemetry = fleet.uploads(10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    answer = sum(values.nbytes for values in telemetry.raw.values())
    assert peak < answer + 200e6
