"""The battery transformer: physics by hand, missing readings, rows that know nothing of others."""

from __future__ import annotations

import json
from timeit import repeat

import numpy as np
import orjson
import pytest

from coalmine.protocol import Array, Signature, Tensors, decode_v1
from coalmine_transformers import Transformer
from coalmine_transformers.battery import (
    CELLS,
    FEATURES,
    SENSORS,
    STEP_SECONDS,
    STEPS,
    BatteryTransformer,
)

TRANSFORMER = BatteryTransformer()


def windows(count: int, seed: int = 0) -> Tensors:
    """Plausible readings: 3.7 V cells of 2 mOhm under a changing current, at 25 degC."""
    rng = np.random.default_rng(seed)
    current = rng.normal(20, 40, (count, STEPS))
    cell = 3.7 - 2e-3 * current[:, :, None] + np.zeros(CELLS)
    raw = {
        "cell_voltage": cell,
        "temperature": np.full((count, STEPS, SENSORS), 25.0),
        "current": current,
        "pack_voltage": cell.sum(axis=2),
        "coolant_temperature": np.full((count, STEPS), 20.0),
        "soc": rng.random(count),
    }
    return {name: values.astype(np.float32) for name, values in raw.items()}


def features(raw: Tensors) -> dict[str, Array]:
    matrix = TRANSFORMER.preprocess(raw)["features"]
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(raw["soc"]), len(FEATURES))
    return {feature.name: matrix[:, index] for index, feature in enumerate(FEATURES)}


def test_it_is_a_transformer_with_a_schema_for_the_server() -> None:
    assert isinstance(TRANSFORMER, Transformer)
    assert {spec.name: spec.shape for spec in TRANSFORMER.inputs} == {
        name: (-1, *values.shape[1:]) for name, values in windows(1).items()
    }
    answer = {"label": np.array([1])}
    assert TRANSFORMER.postprocess(answer) is answer


def test_feature_names_are_unique_and_have_units() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert all(feature.unit for feature in FEATURES)


def test_resistance_is_found_from_voltage_and_current() -> None:
    found = features(windows(50))
    assert found["resistance"] == pytest.approx(2.0, rel=0.01)
    assert found["resistance_25c"] == pytest.approx(2.0, rel=0.01)
    assert found["resistance_spread"] == pytest.approx(0.0, abs=0.01)
    heat = CELLS * 2e-3 * found["current_rms"] ** 2
    assert found["joule_heat"] == pytest.approx(heat, rel=0.01)


def test_resistance_25c_takes_the_cold_out() -> None:
    raw = windows(20)
    raw["temperature"] = np.full_like(raw["temperature"], -5.0)
    assert np.all(features(raw)["resistance_25c"] < 0.8)


def test_a_resting_battery_gives_no_wild_resistance() -> None:
    raw = windows(20)
    noise = np.random.default_rng(1).normal(0, 0.0015, raw["cell_voltage"].shape)
    raw["current"] = np.zeros_like(raw["current"])
    raw["cell_voltage"] = (3.7 + noise).astype(np.float32)
    assert np.all(np.abs(features(raw)["resistance"]) < 0.5)


def test_slopes_are_per_minute() -> None:
    raw = windows(1)
    minutes = np.arange(STEPS, dtype=np.float32) * STEP_SECONDS / 60
    raw["temperature"] = np.repeat((20 + 0.5 * minutes)[None, :, None], SENSORS, axis=2)
    raw["cell_voltage"] = np.repeat((3.7 - 0.003 * minutes)[None, :, None], CELLS, axis=2)
    found = features(raw)
    assert found["temperature_slope"] == pytest.approx(0.5, rel=1e-4)
    assert found["voltage_slope"] == pytest.approx(-3.0, rel=1e-3)


def test_a_weak_cell_stands_out() -> None:
    raw = windows(1)
    raw["cell_voltage"][:, :, 2] -= 0.060
    found = features(raw)
    assert found["weakest_cell_deviation"] == pytest.approx(-50, abs=0.1)
    assert found["voltage_spread"] == pytest.approx(60, abs=0.1)


def test_redundant_sensors_are_compared() -> None:
    raw = windows(1)
    raw["pack_voltage"] *= np.float32(1.03)
    raw["temperature"] += np.array([-2, 0, 2], np.float32)  # a gradient is no fault
    found = features(raw)
    assert found["pack_voltage_residual"] == pytest.approx(0.03 * 22.2, rel=0.05)
    assert found["temperature_residual"] == pytest.approx(0, abs=1e-5)
    raw["temperature"][:, :, 1] += 3
    assert features(raw)["temperature_residual"] == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("name", [spec.name for spec in BatteryTransformer.inputs])
def test_a_missing_reading_spares_the_other_features_and_rows(name: str) -> None:
    raw = windows(3)
    raw[name].reshape(3, -1)[1, 0] = np.nan
    matrix = TRANSFORMER.preprocess(raw)["features"]
    lost = np.isnan(matrix)
    assert lost[1].any()
    assert not lost[1].all()
    assert not lost[[0, 2]].any()
    whole = TRANSFORMER.preprocess(windows(3))["features"]
    np.testing.assert_array_equal(matrix[~lost], whole[~lost])


def test_a_window_with_nothing_in_it_is_all_missing() -> None:
    raw = {name: np.full_like(values, np.nan) for name, values in windows(2).items()}
    assert np.isnan(TRANSFORMER.preprocess(raw)["features"]).all()


def test_an_empty_batch_is_an_empty_answer() -> None:
    raw = {name: values[:0] for name, values in windows(1).items()}
    assert TRANSFORMER.preprocess(raw)["features"].shape == (0, len(FEATURES))


def test_a_window_has_the_same_features_alone_as_in_any_batch() -> None:
    raw = windows(64)
    together = TRANSFORMER.preprocess(raw)["features"]
    for row in range(0, 64, 7):
        alone = TRANSFORMER.preprocess({k: v[row : row + 1] for k, v in raw.items()})["features"]
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_inputs_are_not_changed_and_may_be_read_only() -> None:
    raw = windows(4)
    before = {name: values.copy() for name, values in raw.items()}
    for values in raw.values():
        values.flags.writeable = False
    TRANSFORMER.preprocess(raw)
    for name, values in raw.items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("dumps", [json.dumps, orjson.dumps])
def test_v1_nested_lists_bring_float32_back_exactly(dumps: object) -> None:
    raw = windows(8, seed=5)
    raw["cell_voltage"] += np.float32(1e-7) * np.arange(CELLS, dtype=np.float32)
    raw["current"][0, 0] = np.finfo(np.float32).tiny
    raw["current"][1, 1] = np.nextafter(np.float32(1), np.float32(2))
    instances = [{name: values[row].tolist() for name, values in raw.items()} for row in range(8)]
    assert callable(dumps)
    text = dumps({"instances": instances})
    body = text if isinstance(text, bytes) else text.encode()
    call = decode_v1(body, Signature(TRANSFORMER.inputs, ()))
    for name, values in raw.items():
        assert call.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(call.tensors[name], values)


def test_an_upload_costs_less_than_a_millisecond() -> None:
    raw = windows(8)
    best = min(repeat(lambda: TRANSFORMER.preprocess(raw), number=10, repeat=30)) / 10
    assert best < 1e-3
