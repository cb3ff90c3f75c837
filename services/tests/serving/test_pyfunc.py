"""MLflow models: served through their signature, or by ONNX Runtime if they are networks."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml

from coalmine.modeldir import MODEL_FILE
from coalmine.protocol import SignatureError, TensorSpec
from coalmine.serving import ModelLoadError, Servable, ServeOptions, WrongOutputError
from coalmine.serving._pyfunc import PyfuncModel
from coalmine.serving._source import locate

CODE = """
import mlflow
import pandas as pd

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        {body}

mlflow.models.set_model(Model())
"""

FRAME = pd.DataFrame(
    {
        "who": ["Ann", "Bo"],
        "member": [True, False],
        "visits": np.array([3, 4], np.int32),
        "amount": np.array([10, 20], np.int64),
        "score": [0.5, float("nan")],
        "rate": np.array([0.25, 2.0], np.float32),
    }
)
BODY = (
    "return pd.DataFrame({'text': model_input.who + '!', "
    "'total': model_input.visits + model_input.amount * model_input.member + model_input.rate})"
)
ANSWER = pd.DataFrame({"text": ["a", "b"], "total": [1.0, 2.0]})


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Save a model of one line; gives its directory."""
    from coalmine.retraining._mlflow import load_mlflow

    load_mlflow()
    import mlflow.pyfunc

    def saved(body: str, inputs: Any = None, outputs: Any = None, name: str = "saved") -> Path:
        from mlflow.models import infer_signature

        code = tmp_path / "code.py"
        code.write_text(CODE.format(body=body))
        signature = None if inputs is None else infer_signature(inputs, outputs)
        mlflow.pyfunc.save_model(
            tmp_path / name, python_model=str(code), signature=signature, pip_requirements=[]
        )
        return tmp_path / name

    return saved


# Warnings of MLflow about how the models here are logged.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
slow = pytest.mark.slow  # MLflow takes seconds to save a model


def test_columns(save: Any) -> None:
    model = PyfuncModel(save(BODY, FRAME, ANSWER))
    assert model.platform == "mlflow_pyfunc"
    assert model.signature.inputs == (
        TensorSpec("who", "BYTES", (-1,)),
        TensorSpec("member", "BOOL", (-1,)),
        TensorSpec("visits", "INT32", (-1,)),
        TensorSpec("amount", "INT64", (-1,)),
        TensorSpec("score", "FP64", (-1,)),
        TensorSpec("rate", "FP32", (-1,)),
    )
    assert model.signature.outputs == (
        TensorSpec("text", "BYTES", (-1,)),
        TensorSpec("total", "FP64", (-1,)),
    )
    tensors = {name: FRAME[name].to_numpy() for name in FRAME.columns}
    tensors["who"] = np.array([b"Ann", b"Bo"], object)
    found = model.run(tensors)
    assert found["text"].tolist() == [b"Ann!", b"Bo!"]
    assert found["total"].tolist() == [13.25, 6.0]
    with pytest.raises(SignatureError, match="not UTF-8"):
        model.run({**tensors, "who": np.array([b"\xff", b"Bo"], object)})


@slow
def test_tensors(save: Any) -> None:
    x = np.ones((2, 3), np.float32)
    model = PyfuncModel(save("return model_input.sum(axis=1)", x, x.sum(axis=1)))
    assert model.signature.inputs == (TensorSpec("inputs", "FP32", (-1, 3)),)
    assert model.signature.outputs == (TensorSpec("predictions", "FP32", (-1,)),)
    assert model.run({"inputs": x * 2})["predictions"].tolist() == [6, 6]

    named = {"a": x, "b": np.ones((2, 1, 2))}
    body = "return {'y': model_input['a'].sum(axis=1) + model_input['b'][:, 0, 0]}"
    model = PyfuncModel(save(body, named, {"y": np.ones(2)}, name="named"))
    assert [spec.name for spec in model.signature.inputs] == ["a", "b"]
    found = model.run({"a": x, "b": np.full((2, 1, 2), 0.5)})["y"]
    assert (found.dtype, found.tolist()) == (np.float64, [3.5, 3.5])


@slow
def test_scikit_learn_through_the_server(tmp_path: Path, start: Any) -> None:
    from coalmine.retraining._mlflow import load_mlflow

    load_mlflow()
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame({"age": [20.0, 30.0, 50.0, 60.0], "km": [1.0, 5.0, 2.0, 4.0]})
    fitted = LogisticRegression().fit(frame, ["young", "young", "old", "old"])
    signature = infer_signature(frame, fitted.predict(frame))
    mlflow.sklearn.save_model(fitted, tmp_path / "ages", signature=signature, pip_requirements=[])
    served = start(tmp_path / "ages")
    model = f"{served.url}/v2/models/ages"
    assert httpx.get(model).json()["platform"] == "mlflow_pyfunc"
    instances = [{"age": 22, "km": 3}, {"age": 58, "km": 3}]
    v1 = httpx.post(f"{served.url}/v1/models/ages:predict", json={"instances": instances})
    assert v1.json() == {"predictions": ["young", "old"]}
    columns = [
        {"name": name, "datatype": "FP64", "shape": [2], "data": [row[name] for row in instances]}
        for name in ("age", "km")
    ]
    (output,) = httpx.post(f"{model}/infer", json={"inputs": columns}).json()["outputs"]
    assert (output["datatype"], output["data"]) == ("BYTES", ["young", "old"])
    for wrong, said in (
        (columns[:1], "missing input: km"),
        ([*columns, {**columns[0], "name": "why"}], "unknown input 'why'"),
        ([columns[0], {**columns[1], "data": ["a", "b"]}], "km"),
        # scikit-learn takes no missing values here: the client's mistake, in its own words
        ([columns[0], {**columns[1], "data": [None, 1]}], "contains NaN"),
    ):
        answer = httpx.post(f"{model}/infer", json={"inputs": wrong})
        assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.text


@slow
async def test_records_have_the_columns(save: Any) -> None:
    options = ServeOptions(model=str(save(BODY, FRAME, ANSWER)), name="people")
    servable = Servable.load(options)
    assert [column.name for column in servable.card.feature_columns()] == list(FRAME.columns)
    assert [column.name for column in servable.card.output_columns()] == ["text", "total"]
    assert (servable.name, servable.version, servable.platform) == ("people", "1", "mlflow_pyfunc")
    servable.close()


@slow
def test_what_cannot_be_served_says_why(save: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has no signature; log the model with one: .*infer"):
        PyfuncModel(save("return model_input"))
    when = pd.DataFrame({"when": [datetime.datetime(2026, 1, 1)]})
    with pytest.raises(ModelLoadError, match="inputs: column 'when' is a datetime, which"):
        PyfuncModel(save("return model_input", when, np.ones(1), name="when"))
    with pytest.raises(ModelLoadError, match="its signature has no outputs"):
        PyfuncModel(save("return model_input", FRAME, None, name="half"))
    (tmp_path / "half" / "python_model.pkl").unlink(missing_ok=True)
    description = tmp_path / "half" / "MLmodel"
    content = yaml.safe_load(description.read_text())
    content["flavors"]["python_function"]["loader_module"] = "surely.not.installed"
    description.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelLoadError, match=r"needs 'surely': pip install -r .*requirements.txt"):
        PyfuncModel(tmp_path / "half")
    for text in ("", "[", "flavors: {}", "flavors: {pytorch: {}}"):
        description.write_text(text)
        with pytest.raises(ModelLoadError, match="MLmodel: "):
            locate(tmp_path / "half")


@slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return model_input.visits.to_numpy()[:1]", "has 1 rows for 2"),
        ("return model_input[['amount', 'visits']]", "shape \\[2, 2\\], declared is"),
        ("return {'nothing': 1}", "returned the outputs nothing; declared are y"),
        ("return ['a', 'b']", "'y' is BYTES, declared is FP64"),
    ],
)
def test_an_answer_that_is_not_as_signed(save: Any, body: str, message: str) -> None:
    model = PyfuncModel(save(body, FRAME, {"y": np.ones(2)}))
    tensors = {name: FRAME[name].to_numpy() for name in FRAME.columns}
    tensors["who"] = np.array([b"Ann", b"Bo"], object)
    with pytest.raises(WrongOutputError, match=message):
        model.run(tensors)


@slow
def test_a_network_in_an_mlflow_model_is_run_by_onnx_runtime(
    tmp_path: Path, model_dir: Path, start: Any
) -> None:
    from coalmine.retraining._mlflow import load_mlflow

    load_mlflow()
    import mlflow.onnx
    import onnx

    network = onnx.load(model_dir / MODEL_FILE)
    mlflow.onnx.save_model(network, tmp_path / "logged", pip_requirements=[])
    served = start(tmp_path / "logged")
    metadata = httpx.get(f"{served.url}/v2/models/logged").json()
    assert metadata["platform"] == "onnxruntime_onnx"
