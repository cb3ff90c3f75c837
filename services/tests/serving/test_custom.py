"""A user's own model: found by its path, held to what it declares, its faults told apart."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coalmine.clock import ManualClock
from coalmine.protocol import SignatureError, TensorSpec
from coalmine.serving import ModelLoadError, Servable, ServeOptions, WrongOutputError
from coalmine.serving._catalogue import local_path
from coalmine.serving._open import open_predictor
from coalmine.serving._python import PythonModel, is_dotted, load_predictor
from coalmine.serving._triton import model_config

X = {"x": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}


def predictor(function: Any, **changes: Any) -> Any:
    """An object as a user's subclass makes one, without KServe, whose import takes seconds."""
    attributes = {
        "name": "mine",
        "inputs": (TensorSpec("x", "FP32", (-1, 2)),),
        "outputs": (TensorSpec("y", "FP32", (-1,)),),
        "batchable": True,
        "compute": lambda self, tensors: function(tensors),
        **changes,
    }
    return type("Mine", (), attributes)()


def test_arrays_in_arrays_out() -> None:
    model = PythonModel(predictor(lambda t: {"y": t["x"][:, 1]}))
    found = model.run(X)["y"]
    assert found.tolist() == [2, 4, 6]
    assert found.flags.c_contiguous, "a column of the input is none; the protocol writes rows"
    assert (model.platform, model.batchable) == ("python", True)


def test_compute_may_change_its_arrays_but_not_the_request() -> None:
    given = np.frombuffer(X["x"].tobytes(), np.float32).reshape(3, 2)  # read-only, as in binary

    def compute(tensors: Any) -> Any:
        tensors["x"] *= 2
        return {"y": tensors.pop("x")[:, 0]}

    assert PythonModel(predictor(compute)).run({"x": given})["y"].tolist() == [2, 6, 10]
    assert given.tolist() == X["x"].tolist()


def test_a_coroutine_computes_too() -> None:
    async def compute(self: Any, tensors: Any) -> Any:
        return {"y": tensors["x"].sum(axis=1)}

    model = PythonModel(predictor(None, compute=compute))
    assert model.run(X)["y"].tolist() == [3, 7, 11]
    model.close()


def test_strings_come_back_as_bytes() -> None:
    outputs = (TensorSpec("y", "BYTES", (-1,)),)
    for texts in (np.array(["a", "ü", "c"]), np.array(["a", "ü".encode(), "c"], object)):
        model = PythonModel(predictor(lambda t, texts=texts: {"y": texts}, outputs=outputs))
        assert model.run(X)["y"].tolist() == [b"a", "ü".encode(), b"c"]


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "returned NoneType"),
    "another name": ({"z": X["x"][:, 0]}, "returned the outputs z; declared are y"),
    "one too many": ({"y": X["x"][:, 0], "z": 1}, "returned the outputs y, z"),
    "a list": ({"y": [1.0, 2.0, 3.0]}, "'y' is a list, not an array"),
    "another dtype": ({"y": np.zeros(3)}, "'y' is FP64, declared is FP32"),
    "no dtype of ours": ({"y": np.zeros(3, np.complex64)}, "'y' is complex64"),
    "another rank": ({"y": X["x"]}, r"shape \[3, 2\], declared is \[-1\]"),
    "other rows": ({"y": np.zeros(1, np.float32)}, "has 1 rows for 3"),
}


@pytest.mark.parametrize(("answer", "message"), WRONG.values(), ids=WRONG)
def test_what_compute_returns_is_checked(answer: Any, message: str) -> None:
    with pytest.raises(WrongOutputError, match=message):
        PythonModel(predictor(lambda _: answer)).run(X)
    with pytest.raises(ModelLoadError, match="on a sample, "):
        serve(predictor(lambda _: answer if answer else None))


def serve(made: Any) -> Servable:
    options = ServeOptions(model="tests:Mine")
    return Servable.of(open_predictor(made, options), options)


async def test_whose_fault_it_is() -> None:
    def compute(tensors: Any) -> Any:
        if (tensors["x"] == 13).any():
            raise ValueError("thirteen is no measurement")
        return {"y": tensors["x"].sum(axis=1)}

    with pytest.raises(SignatureError, match="thirteen is no measurement"):
        PythonModel(predictor(compute)).run({"x": np.full((1, 2), 13, np.float32)})
    with pytest.raises(ModelLoadError, match="on a sample: 'nothing of this name'"):
        serve(predictor(lambda tensors: tensors["nothing of this name"]))


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": ()}, "Mine.inputs: missing"),
    "one spec alone": ({"inputs": TensorSpec("x", "FP32", (-1,))}, "Mine.inputs: missing"),
    "not a spec": ({"outputs": ("y",)}, "Mine.outputs: 'y' does not fit"),
    "no shape": ({"outputs": (TensorSpec("y", "FP32", 3),)}, "does not fit"),  # type: ignore[arg-type]
    "twice": ({"inputs": (TensorSpec("x", "FP32", (-1,)),) * 2}, "x is there twice"),
    "no compute": ({"compute": None}, "has no compute"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_what_a_class_declares_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        PythonModel(predictor(lambda t: t, **changes))


async def test_a_model_that_cannot_be_batched_is_asked_request_by_request() -> None:
    seen: list[int] = []

    def compute(tensors: Any) -> Any:
        seen.append(len(tensors["x"]))
        return {"y": np.zeros(1, np.float32)}  # one answer for all rows, which no batch could have

    servable = serve(predictor(compute, batchable=False))
    seen.clear()
    call = SimpleNamespace(tensors=X, rows=3, timeout=math.inf)
    outcome = await servable.infer(call)  # type: ignore[arg-type]
    assert outcome.computed.outputs["y"].shape == (1,)
    assert seen == [3]
    servable.close()


@pytest.mark.parametrize(
    ("one", "each_more", "calls"),
    [
        (5e-3, 5e-3, [1, 1, 1, 1]),  # a network of images on one core
        (5e-3, 0.5e-3, [4]),  # large weights, read once for all rows
        (100e-3, 100e-3, [4]),  # nobody waits for it to be tried
        (20e-6, 20e-6, [4]),  # what follows a batch costs more
    ],
)
async def test_requests_are_joined_where_that_is_cheaper_than_one_after_the_other(
    one: float, each_more: float, calls: list[int]
) -> None:
    clock = ManualClock()
    seen: list[int] = []

    def compute(tensors: Any) -> Any:
        rows = len(tensors["x"])
        seen.append(rows)
        clock.advance(one + each_more * (rows - 1))
        return {"y": tensors["x"].sum(axis=1)}

    options = ServeOptions(model="tests:Mine")
    servable = Servable.of(open_predictor(predictor(compute), options), options, clock=clock)
    assert servable.batch_rows == 4096, "what a client may send is another matter"
    seen.clear()
    call: Any = SimpleNamespace(tensors={"x": X["x"][:1]}, rows=1, timeout=math.inf)
    outcomes = await asyncio.gather(*(servable.infer(call) for _ in range(4)))
    assert all(outcome.computed.outputs["y"].tolist() == [3] for outcome in outcomes)
    assert seen == calls
    servable.close()


def test_triton_is_told_that_it_runs_on_a_cpu() -> None:
    servable = serve(predictor(lambda t: {"y": t["x"].sum(axis=1)}))
    assert [group["kind"] for group in model_config(servable)["instance_group"]] == ["KIND_CPU"]
    servable.close()


def test_records_get_columns_without_a_card() -> None:
    card = serve(predictor(lambda t: {"y": t["x"].sum(axis=1)})).card
    assert [column.name for column in card.feature_columns()] == ["x_0", "x_1"]
    assert [column.name for column in card.output_columns()] == ["y"]
    names = serve(
        predictor(
            lambda t: {"status": t["x"].sum(axis=1)}, outputs=(TensorSpec("status", "FP32", (-1,)),)
        )
    ).card.output_columns()
    assert names == (), "a name that records keep for themselves is not recorded"


@pytest.mark.parametrize(
    ("model", "dotted"),
    [
        ("my_model:Mean", True),
        ("a.b.c:Mean", True),
        ("models:/mean/3", False),
        ("file:model", False),
        ("model.onnx", False),
        ("C:thing/x", False),
        ("s3://b/c", False),
    ],
)
def test_what_is_a_class_and_what_a_uri(model: str, dotted: bool) -> None:
    assert is_dotted(model) is dotted
    # What is no file is not looked for before it is loaded again, after an unload say.
    assert not dotted or local_path(model) is None


CODE: dict[str, tuple[str, str]] = {
    "no_such": ("", "the module has no Mine"),
    "not_ours": ("class Mine: pass", "not a subclass of coalmine.serving.Predictor"),
    "a_function": ("def Mine(): pass", "not a subclass"),
    "needs": ("import surely_not_installed", "needs 'surely_not_installed'"),
    "breaks": ("1 / 0", "ZeroDivisionError: division by zero"),
    "typo": ("class Mine(", "SyntaxError"),
}


@pytest.mark.parametrize(
    ("module", "code", "message"), [(n, *c) for n, c in CODE.items()], ids=CODE
)
def test_what_is_wrong_with_a_module(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    module: str,
    code: str,
    message: str,
) -> None:
    (tmp_path / f"user_{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(ModelLoadError, match=message):
        load_predictor(f"user_{module}:Mine")


def test_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match=f"no module 'nowhere' in {tmp_path}"):
        load_predictor("nowhere:Mine")
