"""Telemetry as files: what is written is read back, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from coalmine.apps.ev_battery import (
    Fleet,
    FleetConfig,
    Telemetry,
    TelemetryError,
    read_telemetry,
    write_telemetry,
)

TELEMETRY = Fleet(FleetConfig(vehicles=30, seed=1, missing_share=0.2)).uploads(12)


def assert_same(found: Telemetry, expected: Telemetry) -> None:
    for name in ("vehicle", "upload", "day", "label", "label_delay_days"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name, values in expected.raw.items():
        assert found.raw[name].dtype == np.float32
        np.testing.assert_array_equal(found.raw[name], values)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_brings_every_number_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fleet.{suffix}"
    write_telemetry(path, TELEMETRY)
    assert_same(read_telemetry(path), TELEMETRY)


def test_columns_have_readable_names() -> None:
    names = TELEMETRY.table().column_names
    assert names[:5] == ["vehicle", "upload", "day", "label", "label_delay_days"]
    assert {"cell_voltage_t00_c0", "temperature_t15_s2", "current_t00", "soc"} < set(names)
    assert TELEMETRY.table().column("label")[0].as_py() == TELEMETRY.label_names[0]


def test_rows_may_come_in_any_order() -> None:
    shuffled = TELEMETRY.table().take(np.random.default_rng(0).permutation(len(TELEMETRY)))
    assert_same(Telemetry.from_table(shuffled), TELEMETRY)


def test_uploads_are_put_in_order_of_time_not_of_their_number() -> None:
    table = TELEMETRY.table()
    renumbered = table.set_column(1, "upload", pa.array(1000 - TELEMETRY.upload))
    found = Telemetry.from_table(renumbered)
    np.testing.assert_array_equal(found.day, TELEMETRY.day)


def test_the_delay_may_be_left_out() -> None:
    table = TELEMETRY.table().drop_columns(["label_delay_days"])
    assert not Telemetry.from_table(table).label_delay_days.any()


def test_whole_numbers_and_double_precision_are_fine() -> None:
    table = TELEMETRY.table()
    place = table.column_names.index("coolant_temperature_t03")
    table = table.set_column(place, "coolant_temperature_t03", pa.array([20] * len(TELEMETRY)))
    assert (Telemetry.from_table(table).raw["coolant_temperature"][:, 3] == 20).all()


@pytest.mark.parametrize("column", ["vehicle", "label", "day", "cell_voltage_t07_c3", "soc"])
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(TelemetryError, match=f"missing column: {column}$"):
        Telemetry.from_table(TELEMETRY.table().drop_columns([column]))


def test_many_missing_columns_are_counted() -> None:
    table = TELEMETRY.table().select(["vehicle", "upload"])
    with pytest.raises(TelemetryError, match=r"missing column: day, label, .* and \d+ more"):
        Telemetry.from_table(table)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", ["normal", "rust"], r"column label: row 1 is 'rust'; allowed: normal, internal"),
        ("label", ["normal", None], r"column label: row 1 is None; allowed"),
        ("label", [0, 1], r"column label: row 0 is 0; allowed: normal"),
        ("vehicle", [1, None], r"column vehicle: row 1 is empty"),
        ("vehicle", [1.5, 2.0], r"column vehicle: double is not a number"),
        ("current_t01", ["1", "much"], r"column current_t01: string is not a number"),
        ("soc", [0.5, float("inf")], r"column soc: row 1 is infinite"),
        ("day", [0.5, float("nan")], r"column day: row 1 is not a number"),
    ],
)
def test_a_wrong_value_is_named(column: str, values: list[object], message: str) -> None:
    table = TELEMETRY.table().slice(0, 2)
    place = table.column_names.index(column)
    with pytest.raises(TelemetryError, match=message):
        Telemetry.from_table(table.set_column(place, column, pa.array(values)))


def test_no_rows_is_no_telemetry() -> None:
    with pytest.raises(TelemetryError, match="no rows"):
        Telemetry.from_table(TELEMETRY.table().slice(0, 0))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b"not parquet"), ("a.csv", b"a,b\n1,2,3\n"), ("a.xlsx", b""), ("a.csv", b"")],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TelemetryError, match=name):
        read_telemetry(path)
    with pytest.raises(TelemetryError, match="absent"):
        read_telemetry(tmp_path / "absent.parquet")


def test_a_column_without_any_reading_is_a_dead_sensor(tmp_path: Path) -> None:
    path = tmp_path / "dead.csv"
    table = TELEMETRY.table()
    place = table.column_names.index("temperature_t00_s1")
    dead = pa.nulls(len(TELEMETRY), pa.float32())
    pyarrow.csv.write_csv(table.set_column(place, "temperature_t00_s1", dead), path)
    assert np.isnan(read_telemetry(path).raw["temperature"][:, 0, 1]).all()


def test_a_parquet_file_of_another_tool_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pandas.parquet"
    pq.write_table(pa.Table.from_pandas(TELEMETRY.table().to_pandas()), path)
    assert_same(read_telemetry(path), TELEMETRY)


def test_selecting_and_joining() -> None:
    halves = [TELEMETRY.select(slice(0, 40)), TELEMETRY.select(slice(40, None))]
    assert_same(Telemetry.concat(halves), TELEMETRY)
    normal = TELEMETRY.select(TELEMETRY.label == 0)
    assert set(normal.label_names) == {"normal"}
    assert list(TELEMETRY.select(slice(0, 0)).each_upload()) == []
