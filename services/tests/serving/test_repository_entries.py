"""Entries of a directory of models that are not what they seem."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import tritonclient.http as triton_http
import yaml
from onnx import numpy_helper

from coalmine.serving import ModelLoadError, ServeOptions
from coalmine.serving._catalogue import Catalogue
from coalmine.serving._open import open_model

from .networks import FLOAT, graph


def write(path: Path, value: float) -> bytes:
    """A network that adds a value, which is in a file beside it."""
    made = graph(
        [("Add", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n"])],
        [("y", FLOAT, ["n"])],
        [numpy_helper.from_array(np.array([value], np.float32), "w")],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.parent.mkdir(exist_ok=True, parents=True)
    weights = f"{path.stem}.bin"
    (path.parent / weights).unlink(missing_ok=True)
    onnx.save_model(
        model, str(path), save_as_external_data=True, location=weights, size_threshold=0
    )
    return path.read_bytes()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write(root / "sum.onnx", 1)
    write(root / "50%25 ä.onnx", 2)
    return root


def ask(served: Any, name: str) -> tuple[float, str]:
    answer = httpx.post(f"{served.url}/v1/models/{name}:predict", json={"instances": [0]})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0], answer.headers["x-coalmine-version"]


def load(served: Any, name: str) -> httpx.Response:
    return httpx.post(f"{served.url}/v2/repository/models/{name}/load", timeout=30)


def test_the_weights_beside_a_network_are_its_content(start: Any, models: Path) -> None:
    # A new training changes the file of the weights, and not the network that names it.
    served = start(models)
    assert ask(served, "sum") == (1, "1")
    before = (models / "sum.onnx").read_bytes()
    assert write(models / "sum.onnx", 5) == before
    assert load(served, "sum").status_code == 200
    assert ask(served, "sum") == (5, "2")


def test_a_card_belongs_to_the_network_beside_it(models: Path, tmp_path: Path) -> None:
    (models / "50%25 ä.onnx").unlink()
    tensor = {"datatype": "FP32", "shape": [-1]}
    card = {
        "name": "adder",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y"} | tensor],
    }
    (models / "model.yaml").write_text(yaml.safe_dump(card))
    # Alone, as one of several, and as a version: `sum.onnx` is what the card is about.
    (tmp_path / "several").mkdir()
    shutil.copytree(models, tmp_path / "several" / "first")
    shutil.copytree(models, tmp_path / "several" / "second" / "3")
    for served, found in ((models, [None]), (tmp_path / "several", ["first", "second"])):
        offers = Catalogue(ServeOptions(model=str(served))).offers()
        assert [offer.name for offer in offers] == found
        for offer in offers:
            assert open_model(ServeOptions(model=offer.uri)).card.name == "adder"
    (models / "model.yaml").unlink()
    (models / "model.yaml").mkdir()  # half of something
    shutil.copy(models / "sum.onnx", models / "model.onnx")
    with pytest.raises(ModelLoadError, match=r"model\.yaml: cannot be read: Is a dir"):
        open_model(ServeOptions(model=str(models)))


def test_two_entries_of_one_name(start: Any, models: Path) -> None:
    served = start(models)
    write(models / "sum" / "model.onnx", 7)
    refused = load(served, "sum")
    assert refused.status_code == 400
    assert "are both called 'sum'" in refused.json()["error"]
    assert ask(served, "sum") == (1, "1")
    again = start(models, ready=False)
    assert again.process.wait(30) == 1
    assert "are both called 'sum'" in again.text()


def test_names_that_need_escapes(start: Any, models: Path) -> None:
    served = start(models)
    name = "50%25 ä"
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        assert client.get_model_config(name)["name"] == name
        assert client.get_inference_statistics(name)["model_stats"][0]["name"] == name
        client.unload_model(name)
        client.load_model(name)
        assert client.is_model_ready(name, "1")
