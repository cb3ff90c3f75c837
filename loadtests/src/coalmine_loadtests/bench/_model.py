"""A model to measure when none is given: a boosted-tree ensemble of the size that a tuner finds.

Its trees are random, which costs the same as trees that have learnt something: the result is about
time, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coalmine.apps.ev_battery import CLASSES
from coalmine.modeldir import MODEL_FILE, Column, ModelCard, Tensor, write_card
from coalmine_transformers.battery import FEATURES

__all__ = ["write_model"]

_TREES = 100
_DEPTH = 5
_OPSET, _ML_OPSET, _IR = 17, 3, 9


def write_model(directory: Path, *, name: str, seed: int = 0) -> Path:
    """Write a model directory that takes the battery features; the same for the same seed."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir(parents=True, exist_ok=True)
    classes = len(CLASSES)
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        post_transform="SOFTMAX",
        classlabels_int64s=list(range(classes)),
        **_trees(np.random.default_rng(seed), classes),
    )
    width = len(FEATURES)
    graph = helper.make_graph(
        [node],
        "bench",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, classes]),
        ],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    onnx.checker.check_model(model)
    (directory / MODEL_FILE).write_bytes(model.SerializeToString())
    label = Column(name="label", type="categorical", categories=CLASSES)
    card = ModelCard(
        name=name,
        inputs=(
            Tensor(
                name="features",
                datatype="FP32",
                shape=(-1, width),
                columns=tuple(Column(name=f.name, unit=f.unit) for f in FEATURES),
            ),
        ),
        outputs=(
            Tensor(name="label", datatype="INT64", shape=(-1,), columns=(label,)),
            Tensor(
                name="probabilities",
                datatype="FP32",
                shape=(-1, classes),
                columns=tuple(Column(name=f"p_{each}") for each in CLASSES),
            ),
        ),
    )
    write_card(directory, card)
    return directory


def _trees(rng: np.random.Generator, classes: int) -> dict[str, Any]:
    """Complete binary trees, one class each in turn, in the attributes that ONNX wants."""
    inner = 2**_DEPTH - 1
    nodes = 2 ** (_DEPTH + 1) - 1
    at = np.tile(np.arange(nodes), _TREES)
    leaf = at >= inner
    trees = np.repeat(np.arange(_TREES), nodes)
    leaves = np.flatnonzero(leaf)
    modes = np.where(leaf, "LEAF", "BRANCH_LEQ")
    children = np.where(leaf, 0, 2 * at + 1)
    thresholds = np.where(leaf, 0.0, rng.normal(0, 30, len(at)))
    return {
        "nodes_treeids": trees.tolist(),
        "nodes_nodeids": at.tolist(),
        "nodes_featureids": np.where(leaf, 0, rng.integers(len(FEATURES), size=len(at))).tolist(),
        "nodes_values": thresholds.astype(np.float32).tolist(),
        "nodes_modes": modes.tolist(),
        "nodes_truenodeids": children.tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, children + 1).tolist(),
        "class_treeids": trees[leaves].tolist(),
        "class_nodeids": at[leaves].tolist(),
        "class_ids": (trees[leaves] % classes).tolist(),
        "class_weights": rng.normal(0, 0.1, len(leaves)).astype(np.float32).tolist(),
    }
