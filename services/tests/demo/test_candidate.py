"""The broken model: it is served like any other, and is wrong about every window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from coalmine.demo._candidate import break_model
from coalmine.modeldir import Column, ModelCard, Tensor, load_card, model_digest, write_card

CLASSES = ("normal", "internal_short", "overcharge")


def right_model(directory: Path) -> Path:
    """Answers the index of the largest feature."""
    directory.mkdir()
    nodes = [
        helper.make_node("Softmax", ["features"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "right",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 3])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3]),
        ],
        [numpy_helper.from_array(np.zeros(1, np.float32), "unused")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(directory / "model.onnx"))
    columns = tuple(Column(name=f"f{i}") for i in range(3))
    label = Column(name="label", type="categorical", categories=CLASSES)
    probabilities = tuple(Column(name=f"p_{name}") for name in CLASSES)
    write_card(
        directory,
        ModelCard(
            name="toy",
            inputs=(Tensor(name="features", datatype="FP32", shape=(-1, 3), columns=columns),),
            outputs=(
                Tensor(name="label", datatype="INT64", shape=(-1,), columns=(label,)),
                Tensor(name="probabilities", datatype="FP32", shape=(-1, 3), columns=probabilities),
            ),
        ),
    )
    (directory / "reference.parquet").write_bytes(b"kept as it is")
    return directory


def predict(directory: Path, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"))
    label, probabilities = session.run(["label", "probabilities"], {"features": features})
    return label, probabilities


def test_every_class_is_mistaken_and_the_outputs_agree_with_each_other(tmp_path: Path) -> None:
    source = right_model(tmp_path / "right")
    broken = break_model(source, tmp_path / "broken")
    features = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    right, right_probabilities = predict(source, features)
    wrong, wrong_probabilities = predict(broken, features)
    assert right.tolist() == features.argmax(axis=1).tolist()
    assert not np.any(right == wrong)
    assert wrong.tolist() == wrong_probabilities.argmax(axis=1).tolist()
    assert np.allclose(wrong_probabilities.sum(axis=1), 1.0)
    assert np.allclose(np.sort(wrong_probabilities), np.sort(right_probabilities))


def test_the_copy_is_another_model_with_the_same_card_and_reference(tmp_path: Path) -> None:
    source = right_model(tmp_path / "right")
    before = model_digest(source)
    broken = break_model(source, tmp_path / "broken")
    assert model_digest(source) == before != model_digest(broken)
    assert load_card(broken) == load_card(source)
    assert (broken / "reference.parquet").read_bytes() == b"kept as it is"
