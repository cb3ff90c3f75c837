"""The perceptron: as good a candidate as the trees, exported with its missing values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coalmine.modeldir import Column
from coalmine.retraining import learning

from .learning_tables import CLASSES, FEATURES, drifted

pytest.importorskip("torch", reason="PyTorch is an extra: pip install coalmine[torch]")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]


@pytest.fixture(scope="module")
def trained() -> learning.Trained:
    return learning.train_classifier(
        drifted(),
        features=FEATURES,
        classes=CLASSES,
        budget=learning.Budget(trials=2, seconds=120.0, seed=3),
        families=("mlp",),
    )


def test_it_learns_and_its_network_says_the_same_with_values_missing(
    trained: learning.Trained, tmp_path: Path
) -> None:
    trained.model.export(tmp_path / "model.onnx")
    network = learning.Network(tmp_path / "model.onnx")
    holdout = learning.having(drifted(), split="holdout")
    matrix = learning.feature_matrix(holdout, FEATURES)
    said, _ = network.predict(matrix)
    assert (said == learning.class_indices(holdout, CLASSES)).mean() > 0.8
    extreme = np.array([[1e30, -1e30, 0], [np.inf, -np.inf, np.nan], [np.nan] * 3], np.float32)
    inputs = np.concatenate([learning.parity_inputs(matrix, seed=1), extreme])
    native = trained.model.predict(inputs)
    parity = learning.check_parity(network, inputs, native, tolerance=trained.tolerance)
    assert parity.passed, parity
    assert parity.rows_with_missing > len(matrix)
    # That a value is missing is told apart from one that is usual.
    usual = np.tile(np.nanmedian(matrix, axis=0), (1, 1)).astype(np.float32)
    gone = usual.copy()
    gone[0, 0] = np.nan
    assert not np.allclose(network.predict(usual)[1], network.predict(gone)[1], atol=1e-3)


def test_it_is_served_from_a_directory_like_any_other(
    trained: learning.Trained, tmp_path: Path
) -> None:
    trained.model.export(tmp_path / "x.onnx")
    card = learning.classifier_card(
        name="m",
        features=tuple(Column(name=name) for name in FEATURES),
        classes=CLASSES,
        training_data="sha256:0",
        metrics={},
    )
    learning.write_model(tmp_path / "m", network=tmp_path / "x.onnx", card=card)
    count = learning.build_reference(
        drifted(), tmp_path / "m", cross_fitted=trained.recent, window_rows=50
    )
    assert count == 1200


def test_the_same_rows_and_seed_give_the_same_bytes(
    trained: learning.Trained, tmp_path: Path
) -> None:
    learning.write_rows(drifted(), tmp_path / "rows.parquet")
    trained.model.export(tmp_path / "first")
    script = f"""
from pathlib import Path
from coalmine.retraining import learning
rows = learning.read_rows(Path({str(tmp_path / "rows.parquet")!r}))
trained = learning.train_classifier(
    rows, features={FEATURES!r}, classes={CLASSES!r},
    budget=learning.Budget(trials=2, seconds=120.0, seed=3), families=("mlp",))
trained.model.export(Path({str(tmp_path / "again")!r}))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "first").read_bytes()


def test_both_kinds_compete_and_the_better_one_wins() -> None:
    found = learning.train_classifier(
        drifted(),
        features=FEATURES,
        classes=CLASSES,
        budget=learning.Budget(trials=2, seconds=120.0, seed=3),
        families=("lightgbm", "mlp"),
    )
    assert set(found.losses) == {"lightgbm", "mlp"}
    assert found.family == min(found.losses, key=lambda name: found.losses[name])
