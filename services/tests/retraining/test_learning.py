"""Learning and judging: what is learned is right, exported exactly, and judged without mercy."""

from __future__ import annotations

import json
import subprocess
import sys
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coalmine.modeldir import Column, load_card, model_digest
from coalmine.retraining import DataInvalid, ModelInvalid, NotEnoughData, learning
from coalmine.retraining.learning import Expect, Gate
from coalmine.retraining.learning._boosting import BoostedTrees

from .learning_tables import CLASSES, FEATURES, drifted, rows


def split(new: pa.Table) -> pa.Table:
    return learning.split_recent(new)


@pytest.fixture(scope="module")
def trained() -> learning.Trained:
    return train(trials=3)


def train(*, rows: pa.Table | None = None, **budget: Any) -> learning.Trained:
    return learning.train_classifier(
        drifted() if rows is None else rows,
        features=FEATURES,
        classes=CLASSES,
        budget=learning.Budget(**{"trials": 3, "seconds": 60.0, "seed": 3, **budget}),
    )


@pytest.fixture(scope="module")
def network(trained: learning.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    trained.model.export(path)
    return path


def card(training_data: str = "sha256:0") -> Any:
    return learning.classifier_card(
        name="m",
        features=tuple(Column(name=name) for name in FEATURES),
        classes=CLASSES,
        training_data=training_data,
        metrics={"accuracy": 0.9},
    )


def test_no_upload_is_torn_apart_and_the_newest_judge() -> None:
    found = split(rows(403, seed=1, origin="recent"))
    parts: dict[str, set[str]] = {}
    for name in ("train", "tune", "holdout"):
        parts[name] = set(learning.having(found, split=name)["group"].to_pylist())
    assert not parts["train"] & parts["tune"]
    assert not parts["tune"] & parts["holdout"]
    times = [learning.having(found, split=n)["time"] for n in ("train", "tune", "holdout")]
    latest = [max(time.to_pylist()) for time in times]
    assert latest == sorted(latest)
    assert 0.25 < learning.having(found, split="holdout").num_rows / 403 < 0.35


def test_without_any_label_there_is_nothing_to_learn() -> None:
    blank = rows(8, seed=1, origin="recent")
    blank = blank.set_column(3, "true_label", pa.nulls(8, pa.string()))
    with pytest.raises(NotEnoughData, match="none of the recent rows"):
        split(blank)


def test_the_new_world_is_learned_and_judged_on_rows_never_seen(
    trained: learning.Trained, network: Path
) -> None:
    holdout = learning.having(drifted(), split="holdout")
    said, _ = learning.Network(network).predict(learning.feature_matrix(holdout, FEATURES))
    report = learning.classification_report(
        learning.class_indices(holdout, CLASSES), said, classes=CLASSES
    )
    assert report["accuracy"] > 0.85
    assert (trained.found.trials, trained.found.stopped_by) == (3, "trials")


def test_a_time_budget_ends_the_search() -> None:
    found = train(trials=50, seconds=0.0).found
    assert (found.trials, found.stopped_by) == (1, "time")


def test_the_same_rows_and_seed_give_the_same_bytes(network: Path, tmp_path: Path) -> None:
    """In another process, where hashes and addresses differ."""
    learning.write_rows(drifted(), tmp_path / "rows.parquet")
    script = f"""
from pathlib import Path
from coalmine.retraining import learning
rows = learning.read_rows(Path({str(tmp_path / "rows.parquet")!r}))
trained = learning.train_classifier(
    rows, features={FEATURES!r}, classes={CLASSES!r},
    budget=learning.Budget(trials=3, seconds=60.0, seed=3))
trained.model.export(Path({str(tmp_path / "again")!r}))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "again").read_bytes() == network.read_bytes()


def test_the_network_has_the_promised_tensors_and_warns_of_nothing(
    network: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    (given,), (label, probabilities) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("features", "tensor(float)", [3])
    assert (label.name, label.type, len(label.shape)) == ("label", "tensor(int64)", 1)
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape[1:] == [3]
    for batch in (1, 7, 64):
        said, shares = session.run(None, {"features": np.zeros((batch, 3), np.float32)})
        assert (said.shape, shares.shape, said.dtype) == ((batch,), (batch, 3), np.int64)
    assert "Warning" not in capfd.readouterr().err
    assert "W:onnxruntime" not in capfd.readouterr().err


def test_parity_holds_also_with_values_missing_and_on_the_thresholds(
    trained: learning.Trained, network: Path
) -> None:
    assert isinstance(trained.model, BoostedTrees)
    matrix = learning.feature_matrix(learning.having(drifted(), split="holdout"), FEATURES)
    # The thresholds themselves: where a float32 and a double round apart.
    thresholds = [
        float(value)
        for line in trained.model.booster.model_to_string().splitlines()
        if line.startswith("threshold=")
        for value in line.removeprefix("threshold=").split()
        if abs(float(value)) > 1.1e-35  # what is nearer to zero, LightGBM takes for zero
    ][:300]
    edge = np.repeat(np.array(thresholds, np.float32)[:, None], 3, axis=1)
    inputs = learning.parity_inputs(np.concatenate([matrix, edge]), seed=1)
    assert np.isnan(inputs).any(axis=1).sum() > len(matrix)
    native = trained.model.predict(inputs)
    parity = learning.check_parity(learning.Network(network), inputs, native)
    assert parity.passed, parity
    # A model that says something else for missing values does not pass.
    native[np.isnan(inputs).any(axis=1)] = np.roll(native[np.isnan(inputs).any(axis=1)], 1, axis=1)
    broken = learning.check_parity(learning.Network(network), inputs, native)
    assert not broken.passed
    assert broken.label_mismatches > 0


def test_a_network_with_other_tensors_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelInvalid, match="'features'"):
        learning.Network(tmp_path / "x.onnx")


def test_the_reference_shows_the_new_models_outputs_out_of_sample(
    trained: learning.Trained, network: Path, tmp_path: Path
) -> None:
    table = drifted()
    learning.write_model(tmp_path / "m", network=network, card=card())
    digest = model_digest(tmp_path / "m")
    count = learning.build_reference(
        table, tmp_path / "m", cross_fitted=trained.recent, window_rows=50
    )
    assert model_digest(tmp_path / "m") == digest
    reference = pq.read_table(tmp_path / "m" / "reference.parquet")
    assert count == reference.num_rows == 1200
    names = [c.name for c in (*load_card(tmp_path / "m").feature_columns(),)]
    outputs = [c.name for c in load_card(tmp_path / "m").output_columns()]
    assert reference.column_names == [*names, *outputs, "true_label"]
    recent = learning.having(table, origin="recent")
    assert reference["a"].to_numpy() == pytest.approx(recent["a"].to_numpy(), nan_ok=True)
    assert reference["true_label"].null_count == 200
    said, shares = learning.Network(network).predict(learning.feature_matrix(recent, FEATURES))
    unseen = np.isin(recent["split"].to_numpy(), ("holdout", "unlabelled"))
    shown = reference["probability_ok"].to_numpy()
    assert shown[unseen] == pytest.approx(shares[unseen, 0])
    assert not np.allclose(shown[~unseen], shares[~unseen, 0])
    labelled = ~unseen
    truth = learning.class_indices(recent, CLASSES)
    as_shown = (reference["label"].to_numpy() == truth)[labelled].mean()
    by_heart = (said == truth)[labelled].mean()
    holdout = (said == truth)[recent["split"].to_numpy() == "holdout"].mean()
    # What it has learned by heart would make every later day look like drift.
    assert as_shown < by_heart
    assert as_shown == pytest.approx(holdout, abs=0.06)
    with pytest.raises(NotEnoughData, match="20 windows are needed"):
        learning.build_reference(table, tmp_path / "m", cross_fitted=None, window_rows=100)


def test_a_training_set_is_known_by_its_content(tmp_path: Path) -> None:
    table = drifted()
    digest = learning.store_training_set(table, data=tmp_path)
    assert learning.store_training_set(table, data=tmp_path) == digest
    assert [p.name for p in tmp_path.iterdir()] == [f"{digest.removeprefix('sha256:')}.parquet"]
    kept = learning.read_rows(learning.training_set_path(digest, data=tmp_path))
    assert kept.num_rows == 4000  # what has no label cannot train
    changed = learning.with_texts(table, origin="history")
    assert learning.store_training_set(changed, data=tmp_path) != digest


# -- the gate ------------------------------------------------------------------------------------

PARITY = {"passed": True, "rows_with_missing": 5, "label_mismatches": 0, "max_difference": 1e-7}
EVALUATION: dict[str, Any] = {
    "candidate": {"accuracy": 0.95, "rows": 1000},
    "champion": {"accuracy": 0.80, "rows": 1000},
    "paired": {"p_not_better": 1e-9},
}


def test_a_better_model_is_promoted() -> None:
    found = learning.decide(EVALUATION, PARITY, Gate())
    assert found.decision == "promote"
    assert "0.9500 on 1000 holdout rows against the champion's 0.8000" in found.reasons[0]
    first = learning.decide({**EVALUATION, "champion": None}, PARITY, Gate())
    assert (first.decision, first.reasons[0][:11]) == ("promote", "first model")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paired": {"p_not_better": 0.06}}, "not shown to be better than the champion"),
        ({"paired": {"p_not_better": nan}}, "no paired comparison"),
        ({"paired": {}}, "no paired comparison"),
        ({"paired": None}, "no paired comparison"),
        ({"candidate": {"accuracy": nan, "rows": 1000}}, "accuracy is nan"),
        ({"candidate": {"accuracy": None, "rows": 1000}}, "accuracy is None"),
        ({"candidate": {"accuracy": True, "rows": 1000}}, "accuracy is True"),
        ({"candidate": {"accuracy": 0.95, "rows": 199}}, "199 holdout rows"),
        ({"candidate": {"accuracy": 0.95, "rows": nan}}, "nan holdout rows"),
        ({"candidate": None}, "0 holdout rows"),
        ({"champion": {"accuracy": nan}}, "the champion's accuracy is nan"),
        ({"champion": {}}, "the champion's accuracy is None"),
    ],
)
def test_what_is_missing_or_no_number_is_a_reason_to_reject(
    change: dict[str, Any], reason: str
) -> None:
    found = learning.decide({**EVALUATION, **change}, PARITY, Gate())
    assert found.decision == "reject"
    assert reason in " ".join(found.reasons)


@pytest.mark.parametrize(
    "parity",
    [
        {},
        {**PARITY, "passed": False},
        {**PARITY, "passed": "yes"},
        {**PARITY, "rows_with_missing": 0},
    ],
)
def test_without_parity_shown_nothing_is_promoted(parity: dict[str, Any]) -> None:
    found = learning.decide(EVALUATION, parity, Gate())
    assert found.decision == "reject"
    assert "exported network" in found.reasons[0]


def test_rows_of_one_upload_cast_one_vote() -> None:
    ok = np.ones(80, dtype=bool)
    one_upload = learning.compare(ok, ~ok, groups=np.zeros(80))
    assert (one_upload.votes_new, one_upload.p_not_better) == (1, 0.5)
    ten = learning.compare(ok, ~ok, groups=np.arange(80) // 8)
    assert ten.p_not_better == pytest.approx(2.0**-10)
    assert ten.p_not_worse == 1.0
    equal = learning.compare(ok, ok, groups=np.arange(80))
    assert (equal.p_not_better, equal.p_not_worse) == (1.0, 1.0)


def test_the_sign_test_keeps_its_level() -> None:
    rng = np.random.default_rng(5)
    rejected = 0
    for _ in range(400):
        new, old = rng.random((2, 200)) < 0.9
        p_value = learning.compare(new, old, groups=np.arange(200) // 4).p_not_better
        rejected += p_value <= 0.05
    assert rejected / 400 <= 0.07


# -- validation ----------------------------------------------------------------------------------

EXPECTED = {
    "soc": Expect(lowest=0.0, highest=1.0, max_missing=0.1, max_outside=0.01),
    "label": Expect(kind="text", values=("ok", "bad")),
}


def test_good_data_passes_with_a_report() -> None:
    table = pa.table({"soc": [0.1, None, *[0.5] * 20], "label": ["ok"] * 22})
    report = learning.validate_table(table, EXPECTED, title="Telemetry")
    assert report.startswith("# Telemetry: passed")
    assert "| soc | 4.55% | 0.1 | 0.5 | 0.5 |" in report


@pytest.mark.parametrize(
    ("columns", "finding"),
    [
        ({"soc": [0.5, 7.0], "label": ["ok", "ok"]}, "'soc' has more than 1.0% outside [0, 1]"),
        ({"soc": [None, 0.5], "label": ["ok", "ok"]}, "'soc' has more than 10.0% missing"),
        ({"soc": [0.5, 0.5], "label": ["ok", "odd"]}, "'label' has other values than ok, bad"),
        ({"soc": [0.5], "label": [None]}, "'label' has more than 0.0% missing"),
        ({"label": ["ok"]}, "column 'soc' is missing"),
        ({"soc": ["x", "y"], "label": ["ok", "ok"]}, "'soc' is not of type"),
    ],
)
def test_bad_data_fails_and_says_which_column(columns: dict[str, list[Any]], finding: str) -> None:
    with pytest.raises(DataInvalid) as caught:
        learning.validate_table(pa.table(columns), EXPECTED, title="Telemetry")
    assert finding in str(caught.value)
    assert "failed" in caught.value.report.splitlines()[0]


def test_no_rows_are_bad_data() -> None:
    empty = pa.table({"soc": pa.array([], pa.float64()), "label": pa.array([], pa.string())})
    with pytest.raises(DataInvalid, match="there are no rows"):
        learning.validate_table(empty, EXPECTED, title="Telemetry")


def test_reports_are_json(trained: learning.Trained) -> None:
    report = learning.classification_report(np.array([0, 1]), np.array([0, 0]), classes=CLASSES)
    assert json.loads(json.dumps(report))["classes"]["ok"]["precision"] == 0.5
