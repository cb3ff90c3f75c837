"""The schema of records, and the public door."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pyarrow as pa
import pytest

import coalmine.records
from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import SchemaError, class_name, label_categories, record_schema


def _one(name: str, *, outputs: tuple[str, ...] = ("label",)) -> ModelCard:
    return ModelCard(
        name="m",
        inputs=(Tensor(name="x", datatype="FP64", shape=(-1,), columns=(Column(name=name),)),),
        outputs=tuple(
            Tensor(name=f"t{i}", datatype="INT64", shape=(-1, 1), columns=(Column(name=output),))
            for i, output in enumerate(outputs)
        ),
    )


def test_columns_are_named_and_typed_by_the_card(card: ModelCard) -> None:
    schema = record_schema(card)
    assert schema.names[:4] == ["request_id", "time", "model_name", "model_version"]
    assert schema.names[13:16] == ["caller_block", "f0", "f1"]
    assert schema.field("time").type == pa.timestamp("us", tz="UTC")
    assert schema.field("f0").type == pa.float32()
    assert schema.field("label").type == pa.int64()
    assert schema.field("f0").metadata == {b"role": b"feature"}
    assert json.loads(schema.field("label").metadata[b"categories"])[0] == "normal"
    assert label_categories(schema) == ("normal", "internal_short", "cooling_failure")


def test_a_tensor_without_columns_is_not_recorded() -> None:
    image = Tensor(name="image", datatype="UINT8", shape=(-1, 3, 8, 8))
    schema = record_schema(ModelCard(name="m", inputs=(image,), outputs=()))
    assert len(schema) == 14


@pytest.mark.parametrize("name", ["status", "row", "true_label", "day", "Model"])
def test_a_reserved_name_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match=f"column '{name}' has a name that records keep"):
        record_schema(_one(name))


def test_a_name_used_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match="column 'soc' is there 2 times"):
        record_schema(_one("soc", outputs=("soc",)))


@pytest.mark.parametrize(
    ("label", "name"),
    [("fault", "fault"), ("1", "fault"), ("7", "7"), ("", ""), ("\u00b2", "\u00b2")],
)
def test_a_label_is_a_name_or_an_index(label: str, name: str) -> None:
    assert class_name(label, ("normal", "fault")) == name


def test_a_class_named_by_a_number_is_not_taken_for_an_index() -> None:
    assert class_name("1", ("1", "0")) == "1"


def test_the_door_is_complete() -> None:
    names = coalmine.records.__all__
    assert all(hasattr(coalmine.records, name) for name in names)


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "sqlite3", "pandas", "pyarrow.parquet"])
def test_a_model_server_does_not_pay_for_what_it_does_not_use(
    module: str, loaded_modules: Callable[[], set[str]]
) -> None:
    assert module not in loaded_modules()


@pytest.fixture(scope="module")
def loaded_modules() -> Callable[[], set[str]]:
    code = "import sys, coalmine.records; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return lambda: set(run.stdout.split())
