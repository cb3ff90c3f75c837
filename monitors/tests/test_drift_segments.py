"""Drift in parts of the traffic: one incident that says where, and none for a change of the mix."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coalmine.modeldir import Column
from coalmine.spec import SegmentColumnSpec
from coalmine_monitors.drift import DriftDetector, Segments, build_reference, build_segments

COLUMNS = tuple(Column(name=name) for name in "abc")
MODE = Column(name="mode", type="categorical", categories=("drive", "charge", "park", "never"))
MODES = ("mode=drive", "mode=charge", "mode=park")
WINDOW = 300


def rows(windows: int, rng: np.random.Generator, *, mix: Any = (0.4, 0.4, 0.2)) -> Any:
    """Three numbers, the first of which lies elsewhere while parked, and the mode."""
    count = windows * WINDOW
    mode = rng.choice(3, count, p=mix)
    values = rng.standard_normal((count, 3))
    values[:, 0] += np.array([0.0, 0.0, 4.0])[mode]
    return np.column_stack([values, mode])


def detector(past: Any, *, alone: bool = False, run_length: int = 200) -> DriftDetector:
    names = [column.name for column in (*COLUMNS, MODE)]
    table = pa.table({name: past[:, index] for index, name in enumerate(names)})
    settings: dict[str, Any] = {"window_rows": WINDOW, "min_effect": 0.1}
    by = [(SegmentColumnSpec(feature="mode"), MODE)]
    return DriftDetector(
        build_reference(table, COLUMNS, **settings),
        window_rows=WINDOW,
        run_length=run_length,
        segments=build_segments(table, COLUMNS, by, alone=alone, **settings),
    )


def feed(watch: DriftDetector, live: Any) -> list[Any]:
    """The findings after each window."""
    findings = []
    for start in range(0, len(live), WINDOW):
        part = live[start : start + WINDOW]
        watch.update(part, start + np.arange(len(part), dtype=np.float64))
        findings.append(watch.finding)
    return findings


@pytest.fixture(scope="module")
def past() -> Any:
    return rows(40, np.random.default_rng(51))


def test_a_shift_in_one_segment_is_named_with_it(past: Any) -> None:
    watch, live = detector(past), rows(20, np.random.default_rng(52))
    live[8 * WINDOW :, 1] += 1.5 * (live[8 * WINDOW :, 3] == 2)
    findings = feed(watch, live)
    assert not any(finding.detected for finding in findings[:8])
    assert findings[12].detected, "a fifth of the rows has hardly an effect on all of them"
    (feature,) = findings[-1].features
    assert (feature.name, feature.direction, feature.segments) == ("b", "up", ("mode=park",))
    assert feature.shift == pytest.approx(1.5, abs=0.4)
    assert feature.onset_at == pytest.approx(8 * WINDOW, abs=WINDOW)
    assert findings[-1].summary.endswith("in mode=park")
    assert watch.report["segments"]["mode=park"]["drifting"] == ["b"]
    assert watch.report["segments"]["mode=drive"]["drifting"] == []


def test_a_shift_of_everything_is_one_finding_without_segments(past: Any) -> None:
    watch, live = detector(past), rows(16, np.random.default_rng(53))
    live[4 * WINDOW :, 2] -= 1.0
    findings = feed(watch, live)
    assert not any(finding.detected for finding in findings[:4])
    assert all(finding.detected for finding in findings[5:])
    (feature,) = findings[-1].features
    assert (feature.name, feature.direction, feature.segments) == ("c", "down", ())


def test_by_segment_a_change_of_the_mix_is_no_drift_and_a_shift_is(past: Any) -> None:
    mixed = rows(14, np.random.default_rng(54), mix=(0.1, 0.2, 0.7))
    together, apart = detector(past), detector(past, alone=True)
    assert feed(together, mixed)[-1].detected
    assert not any(finding.detected for finding in feed(apart, mixed))
    mixed[:, 1] += 1.0
    finding = feed(apart, mixed)[-1]
    assert [feature.name for feature in finding.features] == ["b"]


def test_a_segment_that_sends_nothing_any_more_does_not_hold_an_incident_open(past: Any) -> None:
    watch, live = detector(past), rows(12, np.random.default_rng(55))
    live[:, 1] += 1.5 * (live[:, 3] == 2)
    assert feed(watch, live)[-1].detected
    rest = rows(40, np.random.default_rng(56))
    rest = rest[rest[:, 3] != 2]
    rest = rest[: len(rest) // WINDOW * WINDOW]
    finding = feed(watch, rest)[-1]
    named = {feature.name for feature in finding.features}
    assert named == {"a"}, "what parked vehicles alone send is missing from all rows together"


def test_runs_with_segments_in_which_nothing_happens_keep_the_declared_length() -> None:
    rng, alarms, watched = np.random.default_rng(57), 0, 0
    for _ in range(4):
        watch = detector(rows(40, rng), run_length=60)
        found = [finding.detected for finding in feed(watch, rows(90, rng))]
        alarms += any(found)
        watched += found.index(True) + 1 if any(found) else len(found)
    assert watched / max(alarms, 1) >= 60


def test_verdicts_do_not_care_for_pieces_and_restarts(past: Any) -> None:
    live = rows(14, np.random.default_rng(58))
    live[6 * WINDOW :, 1] += 1.5 * (live[6 * WINDOW :, 3] == 1)
    states = []
    for most in (WINDOW, 70, 11):
        watch, at = detector(past), 0
        while at < len(live):
            size = min(most, watch.fits(np.arange(at, len(live), dtype=np.float64)))
            watch.update(live[at : at + size], np.arange(at, at + size, dtype=np.float64))
            at += size
            if most == 70:
                saved = json.loads(json.dumps(watch.state()))
                watch = detector(past)
                watch.restore(saved)
        states.append(watch.state())
    assert states[0] == states[1] == states[2]
    assert watch.finding is not None
    assert watch.finding.features[0].segments == ("mode=charge",)


def test_a_state_of_other_settings_is_forgotten(past: Any, caplog: Any) -> None:
    watch = detector(past)
    feed(watch, rows(3, np.random.default_rng(59)))
    other = detector(past[: len(past) // 2])
    other.restore(watch.state())
    assert other.windows == 0
    assert "evidence begins anew" in caplog.text


def test_parts_of_a_window_come_to_the_verdict_of_one_process(past: Any) -> None:
    rng, live = np.random.default_rng(60), rows(8, np.random.default_rng(61))
    live[:, 2] += 0.8
    one, many = detector(past), detector(past)
    feed(one, live)
    for start in range(0, len(live), WINDOW):
        who = rng.integers(0, 200, WINDOW)
        at = start + np.arange(WINDOW, dtype=np.float64)
        empty = many.partition()
        whole = empty
        for part in range(200):
            mine = empty.after(live[start:][:WINDOW][who == part], at[who == part])
            whole = whole + empty.restored(json.loads(json.dumps(mine.to_dict())))
        many.judge(whole)
    assert many.finding is not None
    assert many.finding.detected
    assert one.report["features"] == many.report["features"]
    assert one.finding is not None
    assert one.finding.features[0].score == many.finding.features[0].score


def test_segments_are_the_same_after_storage(past: Any) -> None:
    watch = detector(past)
    saved = json.loads(json.dumps(watch._segments.to_dict()))
    again = Segments.from_dict(saved)
    assert tuple(again.references or {}) == MODES, "nothing of `never` was seen"
    live = rows(1, np.random.default_rng(62))
    before, after = watch._segments.parts(live), again.parts(live)
    assert [name for name, _ in before] == [name for name, _ in after] == list(MODES)
    assert sum(len(mine) for _, mine in after) == WINDOW
