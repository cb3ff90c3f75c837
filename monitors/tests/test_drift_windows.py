"""Windows by time, seasons, and statistics of whole windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coalmine.modeldir import Column
from coalmine_monitors.drift import DriftDetector, Extension, Reference, build_reference
from coalmine_monitors.drift._tumbling import Tumbling

COLUMNS = (Column(name="x"), Column(name="y"))
HOUR = 3600.0
RATE = 100  # rows of an hour


def traffic(hours: int, rng: np.random.Generator, *, swing: float = 0.0, start: int = 0) -> Any:
    """Rows [n, 2] and their times; `x` has a daily season."""
    at = start * HOUR + np.arange(hours * RATE) * HOUR / RATE
    values = rng.standard_normal((len(at), 2))
    values[:, 0] += swing * np.sin(at * 2 * np.pi / (24 * HOUR))
    return values, at


def reference(values: Any, at: Any, **settings: Any) -> Reference:
    table = pa.table({"x": values[:, 0], "y": values[:, 1], "time": at})
    given: dict[str, Any] = {"window_rows": 80, "min_effect": 0.1, "seconds": HOUR}
    return build_reference(table, COLUMNS, **given | settings)


def feed(known: Reference, values: Any, at: Any, *, run_length: int = 100) -> Any:
    detector = DriftDetector(known, window_rows=80, seconds=HOUR, run_length=run_length)
    ends, verdicts = [], []
    while len(at):
        size, judged = detector.fits(at), detector.windows
        detector.update(values[:size], at[:size])
        if detector.windows > judged:
            ends.append(detector.report["end"])
            verdicts.append(detector.detected)
        values, at = values[size:], at[size:]
    return detector, ends, verdicts


def test_windows_end_with_the_hour_and_go_on_while_it_is_quiet() -> None:
    rng = np.random.default_rng(71)
    known = reference(*traffic(60, rng))
    values, at = traffic(12, rng, start=100)
    busy = np.ones(len(at), dtype=np.bool_)
    busy[3 * RATE : 5 * RATE] = rng.random(2 * RATE) < 0.2  # a quiet time
    detector, ends, _ = feed(known, values[busy], at[busy])
    assert [int(end // HOUR) - 100 for end in ends] == [0, 1, 2, 5, 6, 7, 8, 9, 10]
    assert detector.windows == 9


def test_the_reference_is_cut_as_the_traffic_is() -> None:
    at = np.sort(np.random.default_rng(72).uniform(0, 40 * HOUR, 4000))
    cuts = Tumbling(80, HOUR).cut(at)
    fed, start = [], 0
    tumbling, held, end = Tumbling(80, HOUR), 0, -np.inf
    for index, time in enumerate(at):
        if tumbling.over(time, held=held, end=end):
            fed.append(slice(start, index))
            start, held, end = index, 0, -np.inf
        end, held = tumbling.end(time, end=end), held + 1
    assert cuts == fed


@pytest.mark.parametrize("season", [None, 24 * HOUR])
def test_a_daily_season_is_no_drift_and_a_shift_against_it_is(season: float | None) -> None:
    rng = np.random.default_rng(73)
    known = reference(*traffic(24 * 6, rng, swing=1.5), season=season)
    assert known.warnings == ()
    values, at = traffic(24 * 4, rng, swing=1.5, start=24 * 10)
    detector, _, verdicts = feed(known, values, at)
    assert not any(verdicts)
    late = at >= (24 * 11 + 8) * HOUR
    values[late, 0] -= 1.0
    _, _, verdicts = feed(known, values, at)
    assert not any(verdicts[:31])
    if season is not None:
        assert any(verdicts[31:36]), "half the swing, at the time of day when it is lowest"


def test_phases_that_the_reference_has_not_seen_are_not_judged_and_that_is_said() -> None:
    rng = np.random.default_rng(74)
    past = traffic(10, rng, swing=2.0)
    kinds = {
        "declared": reference(*past, season=24 * HOUR, window_rows=40, seconds=HOUR / 2),
        "unknown": reference(*past, window_rows=40, seconds=HOUR / 2),
    }
    assert "the phases that it lacks are not judged" in kinds["declared"].warnings[0]
    assert "less than a day" in kinds["unknown"].warnings[0]
    alarms = {
        name: any(feed(known, *traffic(48, rng, swing=2.0, start=240), run_length=500)[2])
        for name, known in kinds.items()
    }
    assert alarms == {"declared": False, "unknown": True}


def test_statistics_of_whole_windows_make_evidence_too() -> None:
    """Two columns begin to hang together, and neither alone shows it."""
    rng = np.random.default_rng(75)

    def extend(windows: list[Any]) -> Extension:
        def measure(rows: Any) -> Any:
            return np.array([[np.corrcoef(part.T)[0, 1]] for part in rows])

        return Extension(
            names=("correlation",),
            past=measure(windows),
            floor=(np.zeros(1), np.zeros(1)),
            two_sided=np.array([True]),
            threshold=np.array([0.3]),
            measure=measure,
            effect=np.abs,
        )

    known = reference(*traffic(60, rng), extend=extend)
    assert known.names == ("x", "y", "correlation")
    values, at = traffic(40, rng, start=100)
    together = at >= 120 * HOUR
    values[together, 1] = values[together] @ [0.7, 0.71]
    detector, _, verdicts = feed(known, values, at)
    assert not any(verdicts[:20])
    assert all(verdicts[23:])
    assert detector.finding.features[0].name == "correlation"
    again = DriftDetector(known, window_rows=80, seconds=HOUR, run_length=100)
    again.restore(detector.state())
    assert again.state() == detector.state()
