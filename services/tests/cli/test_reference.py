"""`coalmine reference build`: with a real network, into a directory and into MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from coalmine.cli._app import app
from coalmine.modeldir import (
    MODEL_FILE,
    REFERENCE_FILE,
    Column,
    ModelCard,
    Tensor,
    load_card,
    write_card,
)
from coalmine.retraining import local_registry, register_directory

ROWS = 1200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that answers `fault` where the first of its two features is above its second."""
    directory = tmp_path_factory.mktemp("model")
    graph = helper.make_graph(
        [
            helper.make_node("Softmax", ["x"], ["scores"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    network.ir_version = 9
    (directory / MODEL_FILE).write_bytes(network.SerializeToString())
    onnx.checker.check_model(network)
    features = (Column(name="soc"), Column(name="hot"))
    classes = Column(name="label", type="categorical", categories=("fault", "normal"))
    scores = (Column(name="p_fault"), Column(name="p_normal"))
    card = ModelCard(
        name="toy",
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 2), columns=features),),
        outputs=(
            Tensor(name="label", datatype="INT64", shape=(-1,), columns=(classes,)),
            Tensor(name="scores", datatype="FP32", shape=(-1, 2), columns=scores),
        ),
    )
    write_card(directory, card)
    return directory


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def _table() -> pa.Table:
    """Rows out of order, with a time, a class and a column that the model knows nothing of."""
    rng = np.random.default_rng(3)
    soc, hot = rng.normal(size=(2, ROWS))
    order = rng.permutation(ROWS)
    return pa.table(
        {
            "hot": hot[order],
            "when": 1_700_000_000.0 + 300.0 * order,
            "soc": soc[order],
            "truth": np.where(soc > hot, "fault", "normal")[order],
            "vehicle": ["a"] * ROWS,
        }
    )


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["reference", "build", *map(str, arguments)])


def test_the_network_makes_the_predictions_and_the_rows_are_in_order(
    model: Path, tmp_path: Path
) -> None:
    pa.csv.write_csv(_table(), tmp_path / "train.csv")
    arguments = ("--model", model, "--label-column", "truth", "--time-column", "when")
    result = _run(tmp_path / "train.csv", *arguments, "--window-rows", "100", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["rows"], found["windows"], found["labelled"]) == (ROWS, 12, ROWS)
    assert found["seasons"] == {"daily": True, "weekly": False, "yearly": False}
    reference = pq.read_table(model / REFERENCE_FILE)
    assert (np.diff(reference["time"].to_numpy()) > 0).all()
    answered_fault = reference["label"].to_numpy() == 0
    assert (answered_fault == (reference["true_label"].to_numpy() == "fault")).all()
    assert np.allclose(reference["p_fault"].to_numpy() + reference["p_normal"].to_numpy(), 1)
    assert "vehicle" not in reference.column_names


def test_what_it_holds_is_printed(model: Path, tmp_path: Path) -> None:
    pq.write_table(_table(), tmp_path / "train.parquet")
    result = _run(tmp_path / "train.parquet", "--model", model, "--window-rows", "100")
    assert result.exit_code == 0, result.output
    assert "1,200 rows, 12 windows of 100, 0 rows with a true label" in result.output
    assert "whether it spans a season is not known" in result.output


def test_a_version_in_mlflow_gets_it(model: Path, tmp_path: Path) -> None:
    registry = local_registry("toy", state=tmp_path / "state")
    register_directory(registry, model, run="first", reason="a test")
    pq.write_table(_table(), tmp_path / "train.parquet")
    arguments = ("--model", "models:/toy@challenger", "--state", tmp_path / "state")
    for _ in range(2):  # again replaces it
        result = _run(tmp_path / "train.parquet", *arguments, "--window-rows", "100")
        assert result.exit_code == 0, result.output
        assert "written: models:/toy/1, reference.parquet" in result.output
    stored = registry.source("1", into=tmp_path)
    assert pq.read_table(stored / REFERENCE_FILE).num_rows == ROWS
    assert (tmp_path / "state" / "models" / "1" / REFERENCE_FILE).exists()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda t: t.drop_columns("soc"), (), "lacks features of the model 'toy': soc"),
        (lambda t: t, ("--label-column", "class"), "no label column 'class'"),
        (lambda t: t, ("--time-column", "at"), "no time column 'at'"),
        (lambda t: t.slice(0, 500), ("--window-rows", "100"), "500 rows are 5 windows of 100"),
        (lambda t: t.slice(0, 0), (), "the table has no rows"),
        (lambda t: t, ("--time-column", "vehicle"), "column 'vehicle' is of type string: times"),
        (
            lambda t: t.set_column(2, "soc", pa.array(["x"] * ROWS)),
            (),
            "column 'soc': the model takes numbers, the table has string",
        ),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    change: object, arguments: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    pq.write_table(change(_table()), tmp_path / "train.parquet")  # type: ignore[operator]
    result = _run(tmp_path / "train.parquet", "--model", model, *arguments)
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert not (model / REFERENCE_FILE).exists()
    assert load_card(model).name == "toy"


def test_a_file_of_another_kind_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no")
    (tmp_path / "train.xlsx").write_bytes(b"no")
    assert "cannot be read as parquet" in str(
        _run(tmp_path / "train.parquet", "--model", model).exception
    )
    assert ".csv, .parquet or .arrow" in str(
        _run(tmp_path / "train.xlsx", "--model", model).exception
    )
