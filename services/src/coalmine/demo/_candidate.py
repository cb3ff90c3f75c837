"""The broken model of the scenario `bad-candidate`: the champion with its outputs permuted.

    python -m coalmine.demo._candidate STATE NAME VERSION

makes it from a version's model directory in the stack's state directory, registers it, and prints
the new version. A process of its own: MLflow's import would hold up the traffic for seconds.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from coalmine.modeldir import MODEL_FILE, load_card

__all__ = ["break_model", "offer"]

_LABEL, _PROBABILITIES = "label", "probabilities"


def break_model(source: Path, target: Path) -> Path:
    """Copy a model directory, every class mistaken for the one before it in the card's list."""
    import onnx
    from onnx import helper, numpy_helper

    shutil.copytree(source, target)
    card = load_card(target)
    label = next(column for column in card.output_columns() if column.name == _LABEL)
    classes = len(label.categories or ())
    model = onnx.load(str(target / MODEL_FILE))
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in (_LABEL, _PROBABILITIES):
                    names[index] = f"right_{name}"
    constants = {
        "one": np.array(1, np.int64),
        "classes": np.array(classes, np.int64),
        "order": np.roll(np.arange(classes, dtype=np.int64), 1),
    }
    graph.initializer.extend(
        numpy_helper.from_array(value, f"broken_{name}") for name, value in constants.items()
    )
    graph.node.extend(
        [
            helper.make_node("Add", [f"right_{_LABEL}", "broken_one"], ["broken_sum"]),
            helper.make_node("Mod", ["broken_sum", "broken_classes"], [_LABEL]),
            helper.make_node(
                "Gather", [f"right_{_PROBABILITIES}", "broken_order"], [_PROBABILITIES], axis=1
            ),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(target / MODEL_FILE))
    return target


def offer(state: Path, *, name: str, version: str) -> str:
    """Register a broken copy of a version; returns the new version."""
    from coalmine.retraining import local_registry, register_directory

    broken = break_model(state / "models" / version, state / "runs" / f"broken-{version}")
    registered = register_directory(
        local_registry(name, state=state),
        broken,
        run=f"broken-{version}",
        reason="demo: a model with permuted outputs",
    )
    return registered.version


if __name__ == "__main__":
    print(offer(Path(sys.argv[1]).absolute(), name=sys.argv[2], version=sys.argv[3]))
