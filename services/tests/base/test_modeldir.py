"""The model directory: its card, and its identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalmine.modeldir import (
    MODEL_FILE,
    Column,
    ModelCard,
    ModelDirectoryError,
    Tensor,
    load_card,
    model_digest,
    write_card,
)

CARD = ModelCard(
    name="m",
    inputs=(
        Tensor(
            name="features",
            datatype="FP32",
            shape=(-1, 2),
            columns=(Column(name="soc", unit="1"), Column(name="current", unit="A")),
        ),
    ),
    outputs=(
        Tensor(
            name="label",
            datatype="INT64",
            shape=(-1,),
            columns=(Column(name="label", type="categorical", categories=("ok", "fault")),),
        ),
    ),
    metrics={"accuracy": 0.97},
)


def test_a_card_survives_the_disk(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    assert load_card(tmp_path) == CARD
    assert [column.name for column in CARD.feature_columns()] == ["soc", "current"]


def test_the_digest_is_the_identity_of_network_and_card(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    (tmp_path / MODEL_FILE).write_bytes(b"network")
    first = model_digest(tmp_path)
    assert first == model_digest(tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(b"other")
    assert model_digest(tmp_path) != first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: m\n", r"model\.yaml: inputs: Field required"),
        ("[", "not YAML"),
        (
            "name: m\noutputs: []\ninputs: [{name: x, datatype: FP32, shape: [-1, 3], "
            "columns: [{name: a}]}]\n",
            "1 columns for shape",
        ),
        (
            "name: m\noutputs: []\ninputs: [{name: x, datatype: FP32, shape: [-1], "
            "columns: [{name: a, categories: [b]}]}]\n",
            "belongs to a categorical column",
        ),
    ],
)
def test_a_bad_card_names_the_file_and_the_key(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelDirectoryError, match=expected):
        load_card(tmp_path)


def test_a_missing_card_says_what_a_directory_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="a model directory needs it"):
        load_card(tmp_path)
