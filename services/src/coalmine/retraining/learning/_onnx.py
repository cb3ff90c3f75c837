"""The network that is served, and the proof that it says what the trained model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.modeldir import MODEL_FILE, Column, ModelCard, Tensor, write_card
from coalmine.retraining._errors import ModelInvalid

INPUT = "features"
LABEL = "label"
PROBABILITIES = "probabilities"
_OPSET = 15
_ML_OPSET = 3

#: Sums of float32 leaves against sums of doubles; measured differences are below 1e-6.
PARITY_TOLERANCE = 1e-5


def export_onnx(booster: Any, *, features: int, classes: int, path: Path) -> None:
    """Write a booster as ONNX: float32 `features` [-1, F] in, `label` and `probabilities` out.

    `label` is INT64 [-1] and `probabilities` FP32 [-1, classes]; no ZipMap. The same booster gives
    the same bytes.
    """
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    converted = convert_lightgbm(
        booster, initial_types=[(INPUT, FloatTensorType([None, features]))], zipmap=False
    )
    trees = [node for node in converted.graph.node if node.op_type == "TreeEnsembleClassifier"]
    if len(trees) != 1 or list(trees[0].input) != [INPUT]:
        raise ModelInvalid("the converter did not give one tree ensemble over the features")
    # The converter's graph carries a random name, casts that change nothing, and declares the
    # label's shape as [1], for which ONNX Runtime warns at each batch.
    node = trees[0]
    node.name = "classifier"
    del node.output[:]
    node.output.extend([LABEL, PROBABILITIES])
    _write([node], [], features=features, classes=classes, path=path)


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer, float32: weights [in, out] and biases [out]."""

    weight: np.ndarray
    bias: np.ndarray


def export_perceptron(
    layers: Sequence[Layer], *, centre: np.ndarray, scale: np.ndarray, clip: float, path: Path
) -> None:
    """Write a perceptron with ReLU between its layers, its scaling and missing values inside.

    The same tensors as `export_onnx`. A missing value (NaN) becomes zero and its flag one.
    """
    from onnx import helper, numpy_helper

    constants = {
        "centre": centre,
        "scale": scale,
        "lowest": np.float32(-clip),
        "highest": np.float32(clip),
        "nothing": np.float32(0),
    }
    nodes = [
        helper.make_node("IsNaN", [INPUT], ["missing"]),
        helper.make_node("Sub", [INPUT, "centre"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "lowest", "highest"], ["clipped"]),
        helper.make_node("Where", ["missing", "nothing", "clipped"], ["known"]),
        helper.make_node("Cast", ["missing"], ["flags"], to=1),
        helper.make_node("Concat", ["known", "flags"], ["layer_0"], axis=1),
    ]
    for number, layer in enumerate(layers):
        weight, bias, out = f"weight_{number}", f"bias_{number}", f"sum_{number}"
        constants |= {weight: layer.weight, bias: layer.bias}
        nodes.append(helper.make_node("Gemm", [f"layer_{number}", weight, bias], [out]))
        if number + 1 < len(layers):
            nodes.append(helper.make_node("Relu", [out], [f"layer_{number + 1}"]))
    last = f"sum_{len(layers) - 1}"
    nodes += [
        helper.make_node("Softmax", [last], [PROBABILITIES], axis=1),
        helper.make_node("ArgMax", [last], [LABEL], axis=1, keepdims=0),
    ]
    _write(
        nodes,
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in constants.items()
        ],
        features=len(centre),
        classes=len(layers[-1].bias),
        path=path,
    )


def _write(
    nodes: list[Any], constants: list[Any], *, features: int, classes: int, path: Path
) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes,
        "coalmine",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", features])],
        [
            helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", classes]),
        ],
        constants,
    )
    model = helper.make_model(
        graph,
        producer_name="coalmine",
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            helper.make_opsetid("ai.onnx.ml", _ML_OPSET),
        ],
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def classifier_card(
    *,
    name: str,
    features: tuple[Column, ...],
    classes: tuple[str, ...],
    training_data: str,
    metrics: dict[str, float],
) -> ModelCard:
    """The card of a network that `export_onnx` wrote."""
    label = Column(name=LABEL, type="categorical", categories=classes)
    probabilities = tuple(Column(name=f"probability_{name}") for name in classes)
    return ModelCard(
        name=name,
        inputs=(Tensor(name=INPUT, datatype="FP32", shape=(-1, len(features)), columns=features),),
        outputs=(
            Tensor(name=LABEL, datatype="INT64", shape=(-1,), columns=(label,)),
            Tensor(
                name=PROBABILITIES,
                datatype="FP32",
                shape=(-1, len(classes)),
                columns=probabilities,
            ),
        ),
        training_data=training_data,
        metrics=metrics,
    )


def write_model(directory: Path, *, network: Path, card: ModelCard) -> None:
    """Make a model directory of a network and its card."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL_FILE).write_bytes(network.read_bytes())
    write_card(directory, card)


class Network:
    """An exported classifier, run as the server runs it."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        inputs = [tensor.name for tensor in self._session.get_inputs()]
        outputs = {tensor.name for tensor in self._session.get_outputs()}
        if inputs != [INPUT] or not {LABEL, PROBABILITIES} <= outputs:
            raise ModelInvalid(
                f"{path}: inputs {inputs} and outputs {sorted(outputs)}, where {INPUT!r} and "
                f"{LABEL!r}, {PROBABILITIES!r} were expected"
            )

    def predict(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels [rows] int64 and probabilities [rows, classes] float32."""
        labels, probabilities = self._session.run([LABEL, PROBABILITIES], {INPUT: matrix})
        return np.asarray(labels), np.asarray(probabilities)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a network is from the model it was exported from."""

    passed: bool
    rows: int
    rows_with_missing: int
    label_mismatches: int
    max_difference: float
    """Of any probability; NaN where the network gave one."""

    tolerance: float = PARITY_TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def parity_inputs(matrix: np.ndarray, *, seed: int) -> np.ndarray:
    """Rows to compare on: the given ones, then the same with values missing in several ways."""
    rng = np.random.default_rng(seed)
    rows, width = matrix.shape
    scattered = matrix.copy()
    scattered[rng.random(matrix.shape) < 0.15] = np.nan
    one_gone = matrix.copy()
    one_gone[np.arange(rows), np.arange(rows) % width] = np.nan
    all_gone = np.full((1, width), np.nan, dtype=matrix.dtype)
    return np.concatenate([matrix, scattered, one_gone, all_gone])


def check_parity(
    network: Network,
    inputs: np.ndarray,
    native: np.ndarray,
    *,
    tolerance: float = PARITY_TOLERANCE,
) -> Parity:
    """Compare a network with the native model's probabilities [rows, classes] on the same rows.

    Labels must agree wherever the native model's two best classes differ by more than the
    tolerance: nearer than that, both are right.
    """
    labels, probabilities = network.predict(inputs)
    missing = np.isnan(inputs).any(axis=1)
    ordered = np.sort(native, axis=1)
    decided = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    mismatches = int(((labels != native.argmax(axis=1)) & decided).sum())
    fits = probabilities.shape == native.shape and bool(np.isfinite(native).all())
    difference = float(np.abs(probabilities - native).max()) if fits and len(native) else np.nan
    return Parity(
        passed=mismatches == 0 and difference <= tolerance,
        rows=len(inputs),
        rows_with_missing=int(missing.sum()),
        label_mismatches=mismatches,
        max_difference=difference,
        tolerance=tolerance,
    )
