"""What is a fault of the data, and what is not: every check, also on quiet streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.signal import lfilter

from coalmine.modeldir import Column
from coalmine_monitors.quality import QualityDetector, StreamChecks, build_rules
from coalmine_monitors.quality._stream import TIME, VOLUME

ROWS = 100
COLUMNS = (
    Column(name="x"),
    Column(name="mode", type="categorical", categories=("drive", "charge")),
)
START = 1_800_000_000.0


def stream_checks(**changes: Any) -> StreamChecks:
    settings = {"interval_s": 60.0, "factor": 4.0, "remembered": ROWS}
    return StreamChecks(COLUMNS, **{**settings, **changes})


def table(rng: np.random.Generator, rows: int, *, rho: float, step: float = 0.0) -> pa.Table:
    """A slow signal, rounded to `step`, and a mode that changes seldom."""
    noise = rng.standard_normal(rows + 500) * np.sqrt(1 - rho**2)
    x = lfilter([1], [1, -rho], noise)[500:]
    mode = np.cumsum(rng.random(rows) < 0.02) % 2
    return pa.table({"x": np.round(x / step) * step if step else x, "mode": mode})


def detector_of(reference: pa.Table, **stream: Any) -> QualityDetector:
    rules = build_rules(COLUMNS, (), reference, window_rows=ROWS)
    return QualityDetector(
        COLUMNS, rules, window_rows=ROWS, consecutive=2, stream=stream_checks(**stream)
    )


def run(detector: QualityDetector, rows: Any) -> list[dict[str, Any]]:
    """The reports of the windows that rows [n, 2] fill."""
    found = []
    for start in range(0, len(rows), ROWS):
        detector.update(rows[start : start + ROWS], np.arange(start, start + ROWS) * 0.01 + START)
        # A state that has been on disk is the same.
        detector.restore(detector.state())
        found.append(dict(detector.report))
    return found


def matrix_of(table: pa.Table) -> Any:
    return np.column_stack([table.column(name).to_numpy() for name in ("x", "mode")]).astype(float)


def checks(reports: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(fault["feature"], fault["check"]) for report in reports for fault in report["faults"]}


@pytest.mark.parametrize("step", [0.0, 0.5], ids=["fine", "coarse"])
@pytest.mark.parametrize("rho", [0.0, 0.9, 0.99])
def test_a_quiet_stream_has_no_incident_however_slow_it_is(rho: float, step: float) -> None:
    rng = np.random.default_rng(41)
    detector = detector_of(table(rng, 4000, rho=rho, step=step))
    reports = run(detector, matrix_of(table(rng, 10_000, rho=rho, step=step)))
    assert len(reports) == 100
    assert not any(report["detected"] for report in reports)


def test_a_sensor_that_repeats_a_value_is_stuck_also_across_windows() -> None:
    rng = np.random.default_rng(42)
    reference = table(rng, 4000, rho=0.9)
    rows = matrix_of(table(rng, 600, rho=0.9))
    rows[180:260, 0] = rows[180, 0]  # parts of two windows
    detector = detector_of(reference)
    reports = run(detector, rows)
    assert checks(reports) == {("x", "stuck")}
    assert [report["detected"] for report in reports] == [False] * 6, "80 rows are soon over"
    rows[180:420, 0] = rows[180, 0]
    reports = run(detector_of(reference), rows)
    assert checks(reports) == {("x", "stuck"), ("x", "constant")}


def test_unknown_categories_and_infinite_numbers_are_faults() -> None:
    rng = np.random.default_rng(43)
    detector = detector_of(table(rng, 4000, rho=0.0))
    rows = matrix_of(table(rng, 400, rho=0.0))
    rows[::20, 0] = np.inf
    rows[::10, 1] = 2
    reports = run(detector, rows)
    assert checks(reports) == {("x", "type"), ("mode", "unseen")}
    assert detector.finding is not None
    assert "10.0% of values are unknown categories" in detector.finding.summary
    assert {feature.name for feature in detector.finding.features} == {"x", "mode"}


def batch(
    at: Any, *, ids: Any = None, columns: dict[str, Any] | None = None, prefix: str = "r"
) -> pa.RecordBatch:
    """Answered requests of one row each."""
    at = np.asarray(at)
    count = len(at)
    columns = (
        {"x": np.zeros(count), "mode": np.zeros(count, dtype=int)} if columns is None else columns
    )
    fields = [
        pa.field("request_id", pa.string()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("row", pa.int32()),
    ]
    values: list[Any] = [
        [f"{prefix}{index}" for index in range(count)] if ids is None else ids,
        pa.array(np.round(at * 1e6).astype(np.int64)).cast(fields[1].type),
        np.zeros(count, dtype=np.int32),
    ]
    for name, of in columns.items():
        made = pa.array(of)
        fields.append(pa.field(name, made.type, metadata={"role": "feature"}))
        values.append(made)
    return pa.record_batch(values, schema=pa.schema(fields))


def test_a_request_that_is_there_twice_and_one_that_comes_late_are_faults() -> None:
    stream = stream_checks()
    at = START + np.arange(100) * 0.1
    stream.look(batch(at), own=True)
    assert stream.faults() == []
    stream.look(batch(at[:50]), own=True)
    (twice,) = stream.faults()
    assert (twice.feature, twice.check, twice.score) == (TIME, "duplicates", 1.0)
    stream.look(batch(at + 60, prefix="s"), own=True)
    stream.look(batch(at + 30, prefix="t"), own=True)  # another server, half a minute behind
    assert stream.faults() == []
    stream.look(batch(at + 1000, prefix="u"), own=True)
    stream.look(batch(at + 100, prefix="v"), own=True)
    (late,) = stream.faults()
    assert (late.feature, late.check, late.score) == (TIME, "order", 0.5)


def test_features_that_are_gone_new_or_of_another_kind_are_faults_of_their_own_version() -> None:
    at = START + np.arange(10) * 0.1
    stream = stream_checks()
    changed = {"x": ["a"] * 10, "extra": np.zeros(10)}
    stream.look(batch(at, columns=changed), own=False)
    assert stream.faults() == []
    stream.look(batch(at, columns=changed, prefix="s"), own=True)
    found = {(fault.feature, fault.check) for fault in stream.faults()}
    assert found == {("x", "type"), ("mode", "schema"), ("extra", "schema")}
    stream.look(batch(at, prefix="t"), own=True)
    assert stream.faults() == []


def volumes(counts: Any, stream: StreamChecks) -> list[Any]:
    """The volume's fault after each interval of so many rows; rows are counted, not looked at."""
    found = []
    for minute, count in enumerate(counts):
        at = START + 60 * minute + np.sort(np.linspace(0, 59.9, max(int(count), 0)))
        if count:
            stream.look(batch(at, prefix=f"{minute}-"), own=True)
        stream.restore(stream.state())
        found += [(minute, fault.direction) for fault in stream.faults() if fault.feature == VOLUME]
    return found


@pytest.mark.parametrize("kind", ["slow", "seasonal", "sparse"])
def test_traffic_that_does_what_it_always_does_is_no_fault(kind: str) -> None:
    rng = np.random.default_rng(44)
    minutes = np.arange(800)
    slow = np.exp(lfilter([1], [1, -0.95], rng.standard_normal(800) * 0.12))
    level = {
        "slow": 20 * slow,
        "seasonal": 15 * (1.1 + np.cos(2 * np.pi * minutes / 360)),
        "sparse": np.full(800, 2.0),
    }[kind]
    assert volumes(rng.poisson(level), stream_checks()) == []


def test_a_surge_a_fall_and_a_silence_are_faults_once_there_is_a_past() -> None:
    rng = np.random.default_rng(45)
    usual = rng.poisson(80, 40)
    early = [*usual[:10], 800, *usual[:5]]
    assert volumes(early, stream_checks()) == []
    surge = [*usual, 800, 800, 80, 80]
    assert {direction for _, direction in volumes(surge, stream_checks())} == {"up"}
    fall = [*usual, 3, 3, 3, 80, 80]
    assert {direction for _, direction in volumes(fall, stream_checks())} == {"down"}
    silence = [*usual, 0, 0, 0, 80, 80]
    assert {direction for _, direction in volumes(silence, stream_checks())} == {"down"}
    assert volumes(surge, stream_checks(factor=None)) == []
