"""Every shipped transformer passes the shared suite, and the suite notices what breaks it."""

from __future__ import annotations

import os

import numpy as np
import pytest

from coalmine.protocol import Tensors, TensorSpec
from coalmine_transformers import Transformer
from coalmine_transformers.battery import BatteryTransformer
from coalmine_transformers.checks import Check, yield_checks
from coalmine_transformers.image import ImageSettings, ImageTransformer
from coalmine_transformers.tabular import Categorical, Numeric, TabularTransformer


def tabular() -> TabularTransformer:
    rng = np.random.default_rng(3)
    data = {
        "age": np.where(rng.random(50) < 0.2, np.nan, rng.normal(40, 9, 50)),
        "visits": rng.integers(0, 9, 50),
        "city": rng.choice(["Bern", "Rome", "Oslo"], 50),
        "floor": rng.integers(0, 3, 50),
    }
    columns = [
        Numeric("age", indicator=True),
        Numeric("visits", scale="minmax"),
        Categorical("city", fill="most_frequent"),
        Categorical("floor", encoding="ordinal", unknown="own"),
    ]
    return TabularTransformer.fit(columns, data)


def random_windows() -> Tensors:
    rng = np.random.default_rng(0)
    return {
        spec.name: rng.normal(3, 1, (9, *spec.shape[1:])).astype(np.float32)
        for spec in BatteryTransformer.inputs
    }


LABELLED = ImageSettings(size=8, resize=9, labels=("cat", "dog", "hen"), top=2)
CHECKS = [
    *yield_checks(BatteryTransformer()),
    *yield_checks(BatteryTransformer(), random_windows()),
    *yield_checks(tabular()),
    *yield_checks(ImageTransformer(ImageSettings(size=16, resize=20))),
    *yield_checks(ImageTransformer(LABELLED)),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_shipped_transformers_keep_the_contract(check: Check) -> None:
    check()


class _Double(Transformer):
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    model_inputs = (TensorSpec("y", "FP32", (-1, 2)),)

    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"] * 2}

    def example(self, rows: int) -> Tensors:
        return {"x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)}


class _InPlace(_Double):
    def preprocess(self, tensors: Tensors) -> Tensors:
        tensors["x"] *= 2
        return {"y": tensors["x"]}


class _Centred(_Double):
    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"] - tensors["x"].mean(axis=0)}


class _Random(_Double):
    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"] + np.float32(os.urandom(1)[0])}


class _Doubled(_Double):
    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"].astype(np.float64)}


class _NoEmpty(_Double):
    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"] - np.nanmin(tensors["x"], axis=1)[:, None] + tensors["x"].min()}


class _Cumulative(_Double):
    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"y": np.cumsum(tensors["x"], axis=0)}


class _Vague(_Double):
    inputs = (TensorSpec("text", "BYTES", (-1,)),)

    def preprocess(self, tensors: Tensors) -> Tensors:
        try:
            numbers = [float(value) for value in tensors["text"]]
        except ValueError:
            raise ValueError("bad value") from None
        return {"y": np.array(numbers, np.float32)[:, None].repeat(2, axis=1)}

    def example(self, rows: int) -> Tensors:
        return {"text": np.array([b"%d" % row for row in range(rows)], dtype=np.object_)}


class _Breaks(_Vague):
    def preprocess(self, tensors: Tensors) -> Tensors:
        lengths = [len(value.decode()) / len(value.split()[0]) for value in tensors["text"]]
        return {"y": np.array(lengths, np.float32)[:, None].repeat(2, axis=1)}


class _Unpicklable(_Double):
    def __init__(self) -> None:
        self.hook = lambda: None


class _Renames(_Double):
    model_outputs = (TensorSpec("score", "FP32", (-1,)),)
    outputs = (TensorSpec("share", "FP32", (-1,)),)


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (_InPlace(), "does_not_change_its_inputs"),
        (_Centred(), "takes_each_row_alone"),
        (_Random(), "is_deterministic"),
        (_Doubled(), "gives_what_it_declares"),
        (_NoEmpty(), "takes_an_empty_batch"),
        (_Cumulative(), "does_not_mind_the_order"),
        (_Cumulative(), "keeps_a_missing_value_in_its_row"),
        (_Vague(), "names_what_it_refuses"),
        (_Unpicklable(), "pickles_and_copies"),
        (_Renames(), "postprocesses_row_by_row"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_suite_notices(broken: Transformer, name: str) -> None:
    check = next(check for check in yield_checks(broken) if check.name == name)
    with pytest.raises((AssertionError, ValueError, AttributeError, TypeError)):
        check()


def test_a_sound_class_passes() -> None:
    for check in yield_checks(_Double()):
        check()
