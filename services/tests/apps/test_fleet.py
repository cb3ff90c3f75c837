"""The simulated fleet: who sends what, when, and what the workshop says later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coalmine.apps.ev_battery import (
    CLASSES,
    MIX_WORLD,
    SCENARIO_WORLDS,
    Fleet,
    FleetConfig,
    Telemetry,
    World,
    reference_stream,
    training_history,
)
from coalmine.protocol import Array
from coalmine_transformers.battery import FEATURES, STEP_SECONDS, STEPS, BatteryTransformer

CONFIG = FleetConfig(vehicles=400, seed=3)


def feature(telemetry: Telemetry, name: str) -> Array:
    matrix = BatteryTransformer().preprocess(telemetry.raw)["features"]
    column: Array = matrix[:, [feature.name for feature in FEATURES].index(name)]
    return column


def test_an_upload_is_consecutive_windows_of_one_vehicle_in_one_condition() -> None:
    telemetry = Fleet(CONFIG).uploads(50, windows_per_upload=8)
    assert len(telemetry) == 400
    window_days = STEPS * STEP_SECONDS / 86_400
    for upload in telemetry.each_upload():
        assert len(upload) == 8
        assert len(set(upload.vehicle)) == len(set(upload.label)) == 1
        assert len(set(upload.label_delay_days)) == 1
        assert np.diff(upload.day) == pytest.approx(window_days)
    assert [int(upload.upload[0]) for upload in telemetry.each_upload()] == list(range(50))


def test_raw_tensors_are_what_the_transformer_takes() -> None:
    telemetry = Fleet(CONFIG).uploads(5)
    for spec in BatteryTransformer.inputs:
        assert telemetry.raw[spec.name].shape == (40, *spec.shape[1:])
        assert telemetry.raw[spec.name].dtype == np.float32
        assert telemetry.raw[spec.name].flags.c_contiguous
        assert not np.isinf(telemetry.raw[spec.name]).any()


def test_the_same_seed_is_the_same_stream_and_another_is_not() -> None:
    first, again = (Fleet(CONFIG).uploads(20) for _ in range(2))
    other = Fleet(replace(CONFIG, seed=4)).uploads(20)
    for name, values in first.raw.items():
        np.testing.assert_array_equal(values, again.raw[name])
        assert not np.array_equal(values, other.raw[name])
    np.testing.assert_array_equal(first.label, again.label)


def test_a_stream_continues_in_time_and_in_numbers() -> None:
    fleet = Fleet(CONFIG)
    first, second = fleet.uploads(30), fleet.uploads(30)
    assert second.upload[0] == 30
    assert fleet.day == second.day[-1] > first.day[-1] > 0
    assert len(fleet.uploads(0)) == 0
    assert fleet.uploads(1).upload[0] == 60


def test_history_covers_the_year_and_the_reference_leads_to_the_live_stream() -> None:
    history = training_history(CONFIG, 4001)
    reference = reference_stream(CONFIG, 4000)
    assert len(history) == 4008
    assert len(reference) == 4000
    assert np.ptp(history.day) > 360
    assert history.day.max() < reference.day.min()
    assert abs(reference.day.max()) < 0.05
    assert len(set(history.vehicle)) > 250
    for telemetry in (history, reference):
        ends = telemetry.day[7::8]
        assert (np.diff(ends) >= 0).all()
    air = feature(history, "coolant_temperature")
    assert np.nanquantile(air, 0.05) < 5
    assert np.nanquantile(air, 0.95) > 24
    assert 12 < np.nanmedian(feature(reference, "coolant_temperature")) < 22


def test_a_vehicle_keeps_its_condition_for_days_not_for_ever() -> None:
    config = replace(CONFIG, vehicles=20, uploads_per_day=100)
    telemetry = Fleet(config).uploads(6000)
    day, label = telemetry.day[7::8], telemetry.label[7::8]
    for vehicle in range(20):
        mine = telemetry.vehicle[7::8] == vehicle
        changes = np.flatnonzero(np.diff(label[mine]))
        assert len(changes) <= 6
        assert (np.diff(day[mine][changes]) > 10).all()
    assert len(set(label)) == len(CLASSES)


@pytest.mark.parametrize("world", [World(), MIX_WORLD])
def test_class_shares_are_the_worlds(world: World) -> None:
    telemetry = Fleet(replace(CONFIG, vehicles=20_000), world=world).uploads(20_000)
    shares = np.bincount(telemetry.label, minlength=len(CLASSES)) / len(telemetry)
    assert shares == pytest.approx(world.class_shares(), abs=0.015)


def test_the_workshop_takes_days_and_its_early_findings_are_not_of_one_kind() -> None:
    telemetry = Fleet(replace(CONFIG, vehicles=5000)).uploads(20_000)
    delay = telemetry.label_delay_days
    assert 0 < delay.min() < 0.5
    assert np.median(delay) == pytest.approx(2, rel=0.05)
    assert delay.max() == 10
    early = delay < 1.5
    shares = np.bincount(telemetry.label[early], minlength=6) / early.sum()
    assert shares == pytest.approx(np.bincount(telemetry.label) / len(telemetry), abs=0.01)


def test_readings_go_missing_rarely() -> None:
    telemetry = Fleet(CONFIG).uploads(2000)
    for values in telemetry.raw.values():
        lost = np.isnan(values.reshape(len(values), -1)).any(axis=1).mean()
        assert 0.0005 < lost < 0.005
    whole = Fleet(replace(CONFIG, missing_share=0)).uploads(100)
    assert not any(np.isnan(values).any() for values in whole.raw.values())


def test_windows_of_an_upload_are_alike() -> None:
    telemetry = Fleet(replace(CONFIG, missing_share=0)).uploads(500)
    rise = feature(telemetry, "temperature_rise").reshape(-1, 8)
    assert np.corrcoef(rise[:, 0], rise[:, 1])[0, 1] > 0.6


@pytest.mark.parametrize(
    ("fault", "name", "sign"),
    [
        ("internal_short", "weakest_cell_deviation", -1),
        ("cooling_failure", "temperature_rise", 1),
        ("overcharge", "voltage_max", 1),
        ("capacity_fade", "resistance_25c", 1),
    ],
)
def test_a_fault_shows_where_physics_says(fault: str, name: str, sign: int) -> None:
    telemetry = Fleet(replace(CONFIG, vehicles=4000)).uploads(4000)
    values = sign * feature(telemetry, name)
    sick = telemetry.label == CLASSES.index(fault)
    healthy = telemetry.label == CLASSES.index("normal")
    assert np.nanmedian(values[sick]) > np.nanquantile(values[healthy], 0.75)


def test_sensor_bias_moves_residuals_both_ways() -> None:
    telemetry = Fleet(replace(CONFIG, vehicles=4000)).uploads(4000)
    sick = telemetry.label == CLASSES.index("sensor_bias")
    residual = feature(telemetry, "pack_voltage_residual")
    assert np.nanstd(residual[sick]) > 2.5 * np.nanstd(residual[~sick])
    assert abs(np.nanmedian(residual)) < 0.005


def test_a_new_world_comes_to_the_same_vehicles_with_the_next_upload() -> None:
    fleet = Fleet(CONFIG)
    before = fleet.uploads(400)
    fleet.set_world(World(chemistry_share=0.5))
    after = fleet.uploads(400)
    assert after.upload[0] == 400
    new = {
        int(upload.vehicle[0]): float(np.nanmedian(upload.raw["cell_voltage"])) < 3.4
        for upload in after.each_upload()
        if 0.4 < np.nanmean(upload.raw["soc"]) < 0.8
    }
    assert 0.3 < np.mean(list(new.values())) < 0.7
    known = dict(zip(before.vehicle.tolist(), before.label.tolist(), strict=True))
    found = dict(zip(after.vehicle.tolist(), after.label.tolist(), strict=True))
    both = known.keys() & found.keys()
    assert len(both) > 100
    assert all(known[vehicle] == found[vehicle] for vehicle in both)


def test_the_cold_makes_cells_resist() -> None:
    mild = Fleet(CONFIG).uploads(500)
    cold = Fleet(CONFIG, world=SCENARIO_WORLDS["cold"]).uploads(500)
    colder = np.nanmedian(feature(mild, "temperature_mean") - feature(cold, "temperature_mean"))
    assert 8 < colder < 22
    ratio = np.nanmedian(feature(cold, "resistance")) / np.nanmedian(feature(mild, "resistance"))
    assert ratio > 1.3
    assert np.nanmedian(feature(cold, "resistance_25c")) == pytest.approx(
        np.nanmedian(feature(mild, "resistance_25c")), rel=0.05
    )


@pytest.mark.parametrize(
    "world",
    [
        {"mix": {"normal": 1.0}},
        {"mix": dict.fromkeys(CLASSES, 0.5)},
        {"chemistry_share": 1.5},
    ],
)
def test_an_impossible_world_is_refused(world: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"chemistry_share|mix"):
        World(**world)  # type: ignore[arg-type]


def test_every_scenario_of_the_demo_has_its_world() -> None:
    assert set(SCENARIO_WORLDS) == {"chemistry", "cold", "sensor-fault", "bad-candidate", "none"}
    assert SCENARIO_WORLDS["none"] == SCENARIO_WORLDS["bad-candidate"] == World()
