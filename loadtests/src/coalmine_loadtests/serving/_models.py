"""The models that every server is asked for, written as ONNX files with random weights.

Random weights cost the same as weights that have learnt something: the results are about time.

mlp     16 features, two hidden layers, 1 output: about 8 us a call in process
gbt     16 features, a boosted ensemble of 100 trees of depth 5, 1 output
nop     16 features, the first of which is the answer: a model that does nothing
wide    a 3x224x224 image (600 KB), 1,000 of whose values are the answer: does nothing either
image   a 3x224x224 image, a small convolutional network, 1,000 outputs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["INPUT", "MODELS", "OUTPUT", "BenchModel", "FloatArray", "random_rows", "write_model"]

FloatArray = NDArray[np.float32]

INPUT, OUTPUT = "input", "output"
_FEATURES = 16
_IMAGE = (3, 224, 224)
_CLASSES = 1000
_TREES, _DEPTH = 100, 5
_OPSET, _ML_OPSET, _IR = 17, 3, 9


@dataclass(frozen=True, slots=True)
class BenchModel:
    """One model: the shape of one row of its input and of its output, both FP32."""

    name: str
    row: tuple[int, ...]
    answer: tuple[int, ...]
    build: Callable[[np.random.Generator], tuple[list[Any], dict[str, NDArray[Any]]]]


def random_rows(model: BenchModel, rows: int, rng: np.random.Generator) -> FloatArray:
    """`[rows, *model.row]`; four decimals, as a client would write measured values in JSON."""
    return rng.normal(size=(rows, *model.row)).round(4).astype(np.float32)


def write_model(model: BenchModel, directory: Path, *, seed: int = 0) -> Path:
    """Write `NAME.onnx`, the same for the same seed, and return its path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = model.build(np.random.default_rng(seed))
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, *model.row])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, *model.answer])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    built = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    onnx.checker.check_model(built)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{model.name}.onnx"
    path.write_bytes(built.SerializeToString())
    return path


def _node(*arguments: Any, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(*arguments, **attributes)


def _weights(rng: np.random.Generator, *shape: int) -> FloatArray:
    """He's initialisation, which keeps the activations of a deep network finite."""
    fan_in = int(np.prod(shape[1:]))
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)


def _mlp(rng: np.random.Generator) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    widths = (_FEATURES, 64, 64, 1)
    nodes, weights, at = [], {}, INPUT
    for layer, (inside, outside) in enumerate(zip(widths, widths[1:], strict=False), 1):
        weights[f"w{layer}"] = _weights(rng, outside, inside)
        weights[f"b{layer}"] = rng.normal(0, 0.1, outside).astype(np.float32)
        last = layer == len(widths) - 1
        nodes.append(
            _node("Gemm", [at, f"w{layer}", f"b{layer}"], [f"z{layer}"], transB=1),
        )
        to = OUTPUT if last else f"a{layer}"
        nodes.append(_node("Sigmoid" if last else "Relu", [f"z{layer}"], [to]))
        at = to
    return nodes, weights


def _gbt(rng: np.random.Generator) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    inner, size = 2**_DEPTH - 1, 2 ** (_DEPTH + 1) - 1
    at = np.tile(np.arange(size), _TREES)
    trees = np.repeat(np.arange(_TREES), size)
    leaf = at >= inner
    left = np.where(leaf, 0, 2 * at + 1)
    thresholds = np.where(leaf, 0.0, rng.normal(size=len(at))).astype(np.float32)
    leaves = np.flatnonzero(leaf)
    node = _node(
        "TreeEnsembleRegressor",
        [INPUT],
        [OUTPUT],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=trees.tolist(),
        nodes_nodeids=at.tolist(),
        nodes_featureids=np.where(leaf, 0, rng.integers(_FEATURES, size=len(at))).tolist(),
        nodes_values=thresholds.tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_truenodeids=left.tolist(),
        nodes_falsenodeids=np.where(leaf, 0, left + 1).tolist(),
        target_treeids=trees[leaves].tolist(),
        target_nodeids=at[leaves].tolist(),
        target_ids=[0] * len(leaves),
        target_weights=rng.normal(0, 0.1, len(leaves)).astype(np.float32).tolist(),
    )
    return [node], {}


def _slice(upto: int) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Flatten, and the first `upto` values of each row."""
    weights = {"from": np.array([0]), "upto": np.array([upto]), "axis": np.array([1])}
    flat = _node("Flatten", [INPUT], ["flat"], axis=1)
    return [flat, _node("Slice", ["flat", "from", "upto", "axis"], [OUTPUT])], weights


def _image(rng: np.random.Generator) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    channels = (3, 32, 64, 128, 256)
    nodes, weights, at = [], {}, INPUT
    for stage, (inside, outside) in enumerate(zip(channels, channels[1:], strict=False), 1):
        # Halve the picture, then one more convolution at that size.
        for name, fan_in, stride in ((f"{stage}a", inside, 2), (f"{stage}b", outside, 1)):
            weights[f"w{name}"] = _weights(rng, outside, fan_in, 3, 3)
            nodes.append(
                _node(
                    "Conv", [at, f"w{name}"], [f"z{name}"],
                    kernel_shape=[3, 3], strides=[stride, stride], pads=[1, 1, 1, 1],
                )
            )  # fmt: skip
            at = f"a{name}"
            nodes.append(_node("Relu", [f"z{name}"], [at]))
    weights["w_out"] = _weights(rng, _CLASSES, channels[-1])
    weights["b_out"] = np.zeros(_CLASSES, np.float32)
    nodes += [
        _node("GlobalAveragePool", [at], ["pooled"]),
        _node("Flatten", ["pooled"], ["features"], axis=1),
        _node("Gemm", ["features", "w_out", "b_out"], [OUTPUT], transB=1),
    ]
    return nodes, weights


MODELS = {
    model.name: model
    for model in (
        BenchModel("mlp", (_FEATURES,), (1,), _mlp),
        BenchModel("gbt", (_FEATURES,), (1,), _gbt),
        BenchModel("nop", (_FEATURES,), (1,), lambda _: _slice(1)),
        BenchModel("wide", _IMAGE, (_CLASSES,), lambda _: _slice(_CLASSES)),
        BenchModel("image", _IMAGE, (_CLASSES,), _image),
    )
}
