"""Statistics of all columns together: what they find, what they leave alone, whom they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from coalmine.modeldir import Column
from coalmine_monitors.detectors import Baseline, ShiftDetector
from coalmine_monitors.multivariate import STATISTICS, Encoder, calibrate

WINDOW = 250
NAMES = tuple(STATISTICS)


def columns(count: int) -> tuple[Column, ...]:
    return tuple(Column(name=f"f{index}") for index in range(count))


def stream(windows: int, *, features: int, rho: float, rng: np.random.Generator) -> Any:
    """An AR(1) process per feature, [rows, features]."""
    noise = rng.standard_normal((windows * WINDOW + 200, features)) * np.sqrt(1 - rho**2)
    return lfilter([1], [1, -rho], noise, axis=0)[200:]


def paired(rows: Any, correlation: float) -> Any:
    """With this correlation of the first two features; no margin shows it."""
    together = rows.copy()
    together[:, 1] = correlation * rows[:, 0] + np.sqrt(1 - correlation**2) * rows[:, 1]
    return together


def fitted(past: Any, *, names: tuple[str, ...] = NAMES) -> Any:
    made = calibrate(
        np.split(past, len(past) // WINDOW),
        columns(past.shape[1]),
        names=names,
        min_effect=0.0,
    )
    assert made is not None
    return made


def watching(past: Any, *, names: tuple[str, ...] = NAMES, run_length: int = 100) -> Any:
    joint, calm = fitted(past, names=names)
    baseline = Baseline.fit(calm.scores, floor=calm.floor, two_sided=calm.two_sided)
    return joint, ShiftDetector(baseline, run_length=run_length)


def alarm_after(past: Any, live: Any, *, names: tuple[str, ...] = NAMES) -> int | None:
    """Windows until the alarm, None if there is none."""
    joint, test = watching(past, names=names)
    for index, window in enumerate(live.reshape(-1, WINDOW, live.shape[1])):
        test.update(joint.scores(window))
        if test.alarm:
            return index + 1
    return None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_relation_that_turns_is_found_though_no_margin_moves(name: str, rho: float) -> None:
    rng = np.random.default_rng(31)
    past = paired(stream(30, features=5, rho=rho, rng=rng), 0.7)
    live = paired(stream(6, features=5, rho=rho, rng=rng), -0.7)
    after = alarm_after(past, live, names=(name,))
    assert after is not None
    assert after <= 6


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_runs_in_which_nothing_happens_have_the_declared_run_length(rho: float) -> None:
    """200 windows, of a declared run length of 100: two alarms are as declared."""
    rng = np.random.default_rng(32)
    alarms, watched = 0, 0
    for _ in range(2):
        rows = paired(stream(130, features=4, rho=rho, rng=rng), 0.5)
        after = alarm_after(rows[: 30 * WINDOW], rows[30 * WINDOW :])
        alarms += after is not None
        watched += after or 100
    assert watched / max(alarms, 1) >= 100


@pytest.mark.parametrize("statistic", range(len(NAMES)), ids=NAMES)
def test_the_features_whose_relation_turned_contribute_most(statistic: int) -> None:
    rng = np.random.default_rng(33)
    past = paired(stream(20, features=6, rho=0.0, rng=rng), 0.8)
    live = paired(stream(1, features=6, rho=0.0, rng=rng), -0.8)
    joint, _ = fitted(past)
    parts = joint.contributions(live, statistic=statistic, columns=6)
    assert set(np.argsort(-parts)[:2]) == {0, 1}
    assert parts[:2].min() > 5 * parts[2:].max()


def test_what_is_missing_is_no_change_of_a_relation() -> None:
    """Up to half of a column; beyond that there is nothing to compare."""
    rng = np.random.default_rng(34)
    past = paired(stream(30, features=4, rho=0.0, rng=rng), 0.9)
    live = paired(stream(30, features=4, rho=0.0, rng=rng), 0.9)
    live[rng.random(live.shape) < 0.3] = np.nan
    joint, test = watching(past, run_length=1000)
    for window in live.reshape(-1, WINDOW, 4):
        test.update(joint.scores(window))
        assert not test.alarm
    gone = live[:WINDOW].copy()
    gone[:, 2] = np.nan
    assert np.isnan(joint.scores(gone)).all()


def test_categories_and_constants_and_columns_without_a_value_are_taken_along() -> None:
    rng = np.random.default_rng(35)

    def made(windows: int, *, follows: bool) -> Any:
        number = rng.standard_normal(windows * WINDOW)
        kind = (number > 0.3) if follows else rng.random(number.size) < (1 - 0.618)
        never = np.full(number.size, np.nan)
        return np.column_stack([number, kind, np.full(number.size, 7.0), never])

    known = (
        Column(name="number"),
        Column(name="kind", type="categorical", categories=("a", "b")),
        Column(name="constant"),
        Column(name="never"),
    )
    windows = np.split(made(20, follows=True), 20)
    joint, calm = calibrate(windows, known, names=NAMES, min_effect=0.1) or pytest.fail("unusable")
    assert joint.encoder.used.tolist() == [0, 1]
    assert np.isfinite(calm.scores).all()
    loose = made(1, follows=False)
    loose[::7, 1] = 2.0  # no category that is known: the quality monitor's affair
    effects = joint.effects(joint.scores(loose))
    assert (effects > joint.threshold).all(), effects
    usual = joint.effects(joint.scores(made(1, follows=True)))
    assert (usual < joint.threshold).all(), usual


def test_one_column_has_no_relations() -> None:
    past = list(np.random.default_rng(36).standard_normal((20, WINDOW, 1)))
    assert calibrate(past, columns(1), names=NAMES, min_effect=0.2) is None


def test_what_is_drawn_for_a_missing_value_depends_on_its_row_alone() -> None:
    rng = np.random.default_rng(37)
    past = paired(rng.standard_normal((4000, 3)), 0.9)
    encoder = Encoder.fit(past, columns(3))
    rows = past[:50].copy()
    rows[::3, 1] = np.nan
    whole = encoder.encode(rows)
    pieces = np.concatenate([encoder.encode(rows[:20]), encoder.encode(rows[20:])])
    assert np.array_equal(whole, pieces)
    drawn = past.copy()
    drawn[:, 1] = np.nan
    points = encoder.encode(drawn)
    assert np.corrcoef(points[:, 0], points[:, 1])[0, 1] == pytest.approx(0.9, abs=0.03)
