"""The application's service file: it fits the transformer, and no simulated world breaks it."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from coalmine.apps.ev_battery import SCENARIO_WORLDS, SERVICE_FILE, Fleet, FleetConfig, World
from coalmine.spec import load_service
from coalmine_transformers.battery import FEATURES, BatteryTransformer

SERVICE = load_service(SERVICE_FILE)
CHECKS = [feature for feature in SERVICE.features if feature.role == "sensor_check"]
NATURAL_WORLDS = {
    **{name: world for name, world in SCENARIO_WORLDS.items() if name != "sensor-fault"},
    "all new": World(chemistry_share=1.0),
    "new and cold": World(chemistry_share=1.0, ambient_offset_c=-25),
    "hot": World(ambient_offset_c=15),
}


def features_of(world: World, *, uploads: int, seed: int = 8) -> np.ndarray:
    telemetry = Fleet(FleetConfig(seed=seed), world=world).uploads(uploads)
    matrix: np.ndarray = BatteryTransformer().preprocess(telemetry.raw)["features"]
    return matrix


def test_the_features_are_the_transformers_in_its_order_and_units() -> None:
    listed = [(feature.name, feature.unit) for feature in SERVICE.features]
    assert listed == [(feature.name, feature.unit) for feature in FEATURES]
    assert all(feature.range is not None for feature in SERVICE.features)


def test_the_transformer_can_be_loaded_by_its_path() -> None:
    assert SERVICE.transformer is not None
    module, name = SERVICE.transformer.split(":")
    assert getattr(import_module(module), name) is BatteryTransformer


@pytest.mark.parametrize("world", NATURAL_WORLDS.values(), ids=NATURAL_WORLDS)
def test_what_nature_does_is_within_the_ranges(world: World) -> None:
    matrix = features_of(world, uploads=4000)
    for index, feature in enumerate(SERVICE.features):
        assert feature.range is not None
        low, high = feature.range
        values = matrix[:, index]
        assert low <= np.nanmin(values) <= np.nanmax(values) <= high, feature.name
        assert np.isnan(values).mean() < feature.max_missing / 3, feature.name


@pytest.mark.parametrize("world", NATURAL_WORLDS.values(), ids=NATURAL_WORLDS)
def test_what_nature_does_leaves_the_sensor_checks_alone(world: World) -> None:
    reference = features_of(World(), uploads=1500, seed=9)
    live = features_of(world, uploads=1500)
    rows = SERVICE.monitors.quality.window_rows
    for check in CHECKS:
        index = [feature.name for feature in FEATURES].index(check.name)
        shift = [
            abs(np.nanmedian(live[start : start + rows, index]) - np.nanmedian(reference[:, index]))
            for start in range(0, len(live) - rows, rows)
        ]
        assert check.tolerance is not None
        assert max(shift) < check.tolerance / 3, check.name


def test_a_miscalibrated_pack_sensor_is_far_beyond_tolerance_whatever_the_chemistry() -> None:
    for share in (0.0, 0.5, 1.0):
        world = World(
            pack_voltage_gain=SCENARIO_WORLDS["sensor-fault"].pack_voltage_gain,
            chemistry_share=share,
        )
        index = [feature.name for feature in FEATURES].index("pack_voltage_residual")
        median = np.nanmedian(features_of(world, uploads=300)[:, index])
        assert CHECKS[0].name == "pack_voltage_residual"
        assert median > 5 * (CHECKS[0].tolerance or np.inf)
