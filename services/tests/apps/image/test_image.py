"""The network in the shape of ResNet-50, and the benchmark that serves it, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from coalmine.apps.image import CLASSES, SIDE, write_network
from coalmine.modeldir import load_card


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("image"))


def test_it_has_the_size_and_the_layers_of_resnet_50(network: Path) -> None:
    model = onnx.load(str(network))
    onnx.checker.check_model(model)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    # torchvision's ResNet-50 has 25,557,032 parameters, and a scale for each of the 26,560
    # channels that batch normalisation has there and a folded convolution has not.
    assert weights == 25_557_032 - 26_560
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Conv"), kinds.count("Add"), kinds.count("Gemm")) == (53, 16, 1)
    card = load_card(network.parent)
    assert card.inputs[0].shape == (-1, 3, SIDE, SIDE)
    assert card.outputs[0].shape == (-1, CLASSES)


def test_its_answers_are_finite_and_tell_images_apart(network: Path) -> None:
    session = ort.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    images[1] *= 0.1
    images[2] = 0
    logits = session.run(None, {"image": images})[0]
    assert logits.shape == (3, CLASSES)
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(logits[one] - logits[other]).max() > 0.2


def test_the_same_seed_gives_the_same_bytes(network: Path, tmp_path: Path) -> None:
    assert write_network(tmp_path / "again").read_bytes() == network.read_bytes()
    assert write_network(tmp_path / "other", seed=1).read_bytes() != network.read_bytes()


@pytest.mark.slow
def test_the_benchmark_on_the_cpu(network: Path) -> None:
    command = [sys.executable, "-m", "coalmine.apps.image.bench", "--model", str(network)]
    small = "--providers cpu --rows 2 --seconds 1 --clients 1 --batches-in-flight 1"
    done = subprocess.run(
        [*command, *small.split(), "--images-in-flight", "2"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["provider"] == "CPUExecutionProvider"
    assert measured["in_process"] > 0
    for kind in ("batches", "singles"):
        assert measured[kind] > 0
        assert measured["ratios"][kind] == pytest.approx(measured[kind] / measured["in_process"])


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "coalmine.apps.image", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
