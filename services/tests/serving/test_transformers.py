"""A transformer in the predictor's process: its artefact, its schema, and what is wrong with it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from PIL import Image

from coalmine.modeldir import TRANSFORMER_FILE, model_digest
from coalmine.protocol import Tensors, TensorSpec
from coalmine.serving import ModelLoadError, Servable, ServeOptions, WrongOutputError
from coalmine.serving._transform_steps import TransformSteps
from coalmine_transformers.image import ImageSettings, ImageTransformer
from coalmine_transformers.tabular import Categorical, Numeric, TabularTransformer

TABULAR = "coalmine_transformers.tabular:TabularTransformer"

MODULE = """
import numpy as np
from coalmine.protocol import TensorSpec

class Named:
    inputs = (TensorSpec("raw", "FP64", (-1, 4)),)
    outputs = (TensorSpec("name", "BYTES", (-1,)), TensorSpec("certainty", "FP64", (-1,)))
    names = np.array([b"normal", b"fault", b"unknown"], dtype=object)

    def preprocess(self, tensors):
        return {"features": tensors["raw"].astype(np.float32)}

    def postprocess(self, tensors):
        shares = tensors["probabilities"].max(axis=1).astype(np.float64)
        return {"name": self.names[tensors["label"]], "certainty": shares}

class Lying(Named):
    outputs = (TensorSpec("name", "INT64", (-1,)),)

class Forgetful(Named):
    outputs = (TensorSpec("reason", "BYTES", (-1,)),)

class Silent(Named):
    outputs = None

class Double(Named):
    def preprocess(self, tensors):
        return {"features": tensors["raw"]}

class Narrow(Named):
    model_inputs = (TensorSpec("features", "FP32", (-1, 3)),)

class Odd(Named):
    inputs = "raw"

class Fixed(Named):
    inputs = (TensorSpec("raw", "FP64", (1, 4)),)

class Broken(Named):
    def __init__(self):
        raise OSError("no such sensor")

class NoExample(Named):
    def example(self, rows):
        raise OSError("no such file")

class Twice(Named):
    inputs = (TensorSpec("raw", "FP64", (-1, 4)),) * 2

class Bare:
    inputs = ()
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The classes above, importable here and in servers."""
    directory = tmp_path_factory.mktemp("module")
    (directory / "collocated_examples.py").write_text(MODULE)
    sys.path.append(str(directory))
    yield directory
    sys.path.remove(str(directory))


@pytest.fixture
def fitted_dir(model_dir: Path, tmp_path: Path) -> Path:
    """The classifier, with the artefact of a transformer for its four features."""
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    data = {"a": np.arange(9.0), "b": np.arange(9.0) ** 2, "c": np.array(list("xyxyxyxyx"))}
    columns = [Numeric("a"), Numeric("b", scale="robust"), Categorical("c", unknown="ignore")]
    TabularTransformer.fit(columns, data).save(directory / TRANSFORMER_FILE)
    return directory


def load(model: Path, name: str, **more: Any) -> Servable:
    dotted = name if ":" in name else f"collocated_examples:{name}"
    return Servable.load(ServeOptions(model=str(model), transformer=dotted, **more))


def test_an_artefact_beside_the_model_is_found(start: Any, fitted_dir: Path, truth: Any) -> None:
    served = start(fitted_dir, "--transformer", TABULAR)
    told = httpx.get(f"{served.url}/v2/models/toy").json()
    assert [(i["name"], i["datatype"]) for i in told["inputs"]] == [
        ("a", "FP64"),
        ("b", "FP64"),
        ("c", "BYTES"),
    ]
    rows = [{"a": 2.0, "b": None, "c": "y"}, {"a": 8.5, "b": 64.0, "c": "?"}]
    url = f"{served.url}/v1/models/toy:predict"
    answer = httpx.post(url, json={"instances": rows}).json()["predictions"]
    tensors = {
        "a": np.array([2.0, 8.5]),
        "b": np.array([np.nan, 64.0]),
        "c": np.array([b"y", b"?"], dtype=object),
    }
    transformer = TabularTransformer.from_artefact(fitted_dir / TRANSFORMER_FILE)
    labels, shares = truth(transformer.preprocess(tensors)["features"])
    assert [row["label"] for row in answer] == labels
    np.testing.assert_allclose([row["probabilities"] for row in answer], shares, rtol=1e-5)


def test_an_artefact_may_be_named(fitted_dir: Path, model_dir: Path) -> None:
    moved = (fitted_dir / TRANSFORMER_FILE).rename(fitted_dir.parent / "fitted.json")
    servable = load(model_dir, TABULAR, artefact=moved)
    assert [spec.name for spec in servable.signature.inputs] == ["a", "b", "c"]
    servable.close()


def test_the_artefact_is_part_of_what_a_model_is(fitted_dir: Path) -> None:
    before = model_digest(fitted_dir)
    (fitted_dir / TRANSFORMER_FILE).write_bytes(b"{}")
    other = model_digest(fitted_dir)
    (fitted_dir / TRANSFORMER_FILE).unlink()
    assert len({before, other, model_digest(fitted_dir)}) == 3


def test_what_postprocess_makes_is_what_is_served(
    start: Any, model_dir: Path, module: Path, truth: Any
) -> None:
    served = start(model_dir, "--transformer", "collocated_examples:Named", PYTHONPATH=str(module))
    told = httpx.get(f"{served.url}/v2/models/toy").json()
    assert told["outputs"] == [
        {"name": "name", "datatype": "BYTES", "shape": [-1]},
        {"name": "certainty", "datatype": "FP64", "shape": [-1]},
    ]
    rows = [[0.1, -0.2, 0.3, 0.4], [1.0, 2.0, -3.0, 0.0]]
    labels, shares = truth(rows)
    body = {"inputs": [{"name": "raw", "datatype": "FP64", "shape": [2, 4], "data": rows}]}
    answer = httpx.post(f"{served.url}/v2/models/toy/infer", json=body).json()
    name, certainty = answer["outputs"]
    assert name["data"] == [["normal", "fault", "unknown"][label] for label in labels]
    np.testing.assert_allclose(certainty["data"], shares.max(axis=1), rtol=1e-6)
    empty = {"inputs": [{"name": "raw", "datatype": "FP64", "shape": [0, 4], "data": []}]}
    answer = httpx.post(f"{served.url}/v2/models/toy/infer", json=empty).json()
    assert [item["shape"] for item in answer["outputs"]] == [[0], [0]]


@pytest.fixture(scope="module")
def pictures(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network that says which colour a picture has most of, behind the image transformer."""
    directory = tmp_path_factory.mktemp("pictures")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
            helper.make_node("Flatten", ["means"], ["logits"], axis=1),
        ],
        "colours",
        [info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [info("logits", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    labels = ("red", "green", "blue")
    settings = ImageSettings(size=8, resize=8, tensor="pixels", labels=labels, top=1)
    ImageTransformer(settings).save(directory / TRANSFORMER_FILE)
    dotted = "coalmine_transformers.image:ImageTransformer"
    return start(directory, "--name", "colours", "--transformer", dotted)


def picture(colour: str, kind: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (20, 12), colour).save(file, kind)
    return file.getvalue()


def test_pictures_over_every_protocol(pictures: Any) -> None:
    files = [picture("blue", "PNG"), picture("red", "JPEG"), picture("lime", "PNG")]
    instances = [{"b64": base64.b64encode(file).decode()} for file in files]
    url = f"{pictures.url}/v1/models/colours:predict"
    answer = httpx.post(url, json={"instances": instances})
    assert [row["label"] for row in answer.json()["predictions"]] == [["blue"], ["red"], ["green"]]
    for client, port in ((triton_http, pictures.port), (triton_grpc, pictures.grpc_port)):
        tensor = client.InferInput("image", [3], "BYTES")
        tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
        with client.InferenceServerClient(f"127.0.0.1:{port}") as triton:
            found = triton.infer("colours", [tensor])
        assert found.as_numpy("label").ravel().tolist() == [b"blue", b"red", b"green"]
        assert found.as_numpy("share").shape == (3, 1)
    answer = httpx.post(url, json={"instances": [instances[0], {"b64": "R0lGODlh"}]})
    assert answer.status_code == 400
    assert answer.json()["error"] == "image, row 1: not a JPEG or PNG file"


def test_what_is_small_to_send_cannot_be_large_for_the_model(pictures: Any) -> None:
    """Four bytes a row, and 768 for the network: refused before any are allocated."""
    rows = 400_000
    tensor: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [rows]}
    tensor["parameters"] = {"binary_data_size": 4 * rows}
    head = orjson.dumps({"inputs": [tensor]})
    answer = httpx.post(
        f"{pictures.url}/v2/models/colours/infer",
        content=head + bytes(4 * rows),
        headers={"inference-header-content-length": str(len(head))},
        timeout=60,
    )
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("send at most 349525 in one request")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Lying", "postprocess: tensor 'name' is BYTES, declared is INT64"),
        ("Forgetful", "postprocess: returned the tensors name, certainty; declared are reason"),
        ("Silent", "declared are label, probabilities, the model's own: it declares no `outputs`"),
        ("Double", "preprocess: tensor 'features' is FP64, declared is FP32"),
        ("Narrow", r"transformer gives features FP32 \[-1, 3\]; the model takes .*\[-1, 4\]"),
        ("Odd", "`inputs` must be a tuple of TensorSpec"),
        ("Fixed", "`inputs`: the first dimension of every tensor is the batch"),
        ("Broken", "OSError: no such sensor"),
        ("NoExample", "the transformer's example: OSError: no such file"),
        ("Twice", "`inputs`: a name is there twice: raw, raw"),
        ("Bare", "has no preprocess, postprocess"),
        ("Absent", "AttributeError: .*Absent"),
        ("no_such_module:Class", "ModuleNotFoundError"),
        ("not_dotted:", "must be package.module:Class"),
        (TABULAR, r"needs what it was fitted with: transformer\.json beside the model, or --art"),
    ],
)
def test_what_is_wrong_with_a_transformer_is_said(model_dir: Path, name: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(model_dir, name)


@pytest.mark.parametrize("row_by_row", [True, False])
def test_a_network_that_finds_things_gives_as_many_rows_as_it_finds(row_by_row: bool) -> None:
    class Found:
        inputs = (TensorSpec("image", "FP32", (-1, 4)),)

        def preprocess(self, tensors: Tensors) -> Tensors:
            return tensors

        def postprocess(self, tensors: Tensors) -> Tensors:
            return tensors

    boxes = (TensorSpec("boxes", "FP32", (-1, 2)),)
    steps = TransformSteps(
        Found(),
        model_inputs=Found.inputs,
        outputs=boxes,
        non_finite="missing",
        row_by_row=row_by_row,
    )
    found = {"boxes": np.zeros((5, 2), np.float32)}
    if row_by_row:
        with pytest.raises(WrongOutputError, match="'boxes' has 5 rows for 1"):
            steps.postprocess(found, rows=1)
    else:
        assert steps.postprocess(found, rows=1)["boxes"].shape == (5, 2)


def test_a_wrong_artefact_is_said_with_its_key(fitted_dir: Path) -> None:
    (fitted_dir / TRANSFORMER_FILE).write_text('{"format": "coalmine-tabular", "version": 9}')
    with pytest.raises(ModelLoadError, match=r"TabularTransformer: .*transformer\.json: version"):
        load(fitted_dir, TABULAR)
    with pytest.raises(ModelLoadError, match="is not made from an artefact"):
        load(fitted_dir, "coalmine_transformers.battery:BatteryTransformer")
    with pytest.raises(ModelLoadError, match=r"Named: has no from_artefact, but there is"):
        load(fitted_dir, "Named")
    with pytest.raises(ModelLoadError, match="no such artefact"):
        load(fitted_dir, TABULAR, artefact=Path("nowhere.json"))


def test_the_command_says_it_in_one_line(model_dir: Path) -> None:
    command = [sys.executable, "-m", "coalmine.serving", str(model_dir), "--transformer", TABULAR]
    done = subprocess.run(
        [*command, "--port", "0", "--server", "uvicorn"],
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("coalmine serve: transformer coalmine_transformers.tabular:")
