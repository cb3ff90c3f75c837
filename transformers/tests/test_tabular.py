"""The tabular transformer: scikit-learn's numbers without scikit-learn, and an honest artefact."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from coalmine.protocol import Array, Tensors, TensorSpec
from coalmine_transformers.tabular import Categorical, Numeric, TabularTransformer

SCALERS = {"standard": StandardScaler(), "minmax": MinMaxScaler(), "robust": RobustScaler()}


def as_bytes(values: Any) -> Array:
    return np.array([str(value).encode() for value in values], dtype=np.object_)


def gappy(values: Any) -> st.SearchStrategy[list[float]]:
    return st.lists(values | st.just(float("nan")), min_size=2, max_size=40).filter(
        lambda found: not np.isnan(found).all()
    )


#: Coarse enough that no spread is at the limit of rounding: constant to one, not to the other.
HUNDREDTHS = st.integers(-(10**8), 10**8).map(lambda number: number / 100)


@settings(deadline=None, max_examples=60)
@given(
    train=gappy(HUNDREDTHS),
    served=gappy(HUNDREDTHS),
    scale=st.sampled_from(sorted(SCALERS)),
    fill=st.sampled_from(["median", "mean", 7.0]),
)
def test_numbers_equal_scikit_learns(
    train: list[float], served: list[float], scale: Any, fill: Any
) -> None:
    x, y = np.array(train), np.array(served)
    imputer = (
        SimpleImputer(strategy="constant", fill_value=fill)
        if isinstance(fill, float)
        else SimpleImputer(strategy=fill)
    )
    indicator = MissingIndicator(features="all")
    theirs = ColumnTransformer(
        [("x", make_pipeline(imputer, SCALERS[scale]), [0]), ("gap", indicator, [0])]
    ).fit(x[:, None])
    ours = TabularTransformer.fit([Numeric("x", scale, fill, indicator=True)], {"x": x})
    assert ours.feature_names == ("x", "x_missing")
    assert ours.inputs == (TensorSpec("x", "FP64", (-1,)),)
    found = ours.preprocess({"x": y})["features"]
    wanted = theirs.transform(y[:, None]).astype(np.float32)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


TEXTS = st.text(min_size=1, max_size=4).filter(lambda text: "\0" not in text)


@settings(deadline=None, max_examples=60)
@given(
    train=st.lists(TEXTS, min_size=1, max_size=30),
    served=st.lists(TEXTS, min_size=1, max_size=30),
    encoding=st.sampled_from(["one_hot", "ordinal"]),
)
def test_categories_equal_scikit_learns(train: list[str], served: list[str], encoding: Any) -> None:
    theirs: Any = (
        OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        if encoding == "one_hot"
        else OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    )
    theirs.fit(np.array(train, dtype=object)[:, None])
    ours = TabularTransformer.fit(
        [Categorical("c", encoding, unknown="ignore")], {"c": np.array(train, dtype=object)}
    )
    found = ours.preprocess({"c": as_bytes(served)})["features"]
    np.testing.assert_array_equal(
        found, theirs.transform(np.array(served, dtype=object)[:, None]).astype(np.float32)
    )


def fitted(*columns: Numeric | Categorical, **data: Any) -> TabularTransformer:
    return TabularTransformer.fit(columns, data)


def test_a_table_of_all_kinds_from_numpy_arrow_and_pandas_is_one_transformer(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    city = rng.choice(["Bern", "Rome", ""], 40)
    data = {"age": rng.normal(40, 5, 40), "floor": rng.integers(0, 4, 40), "city": city}
    data["age"][3] = np.nan
    arrow = pa.table(
        {
            "age": pa.array(data["age"], from_pandas=True),
            "floor": data["floor"],
            "city": pa.array([text or None for text in city.tolist()]),
        }
    )
    columns = [
        Numeric("age", indicator=True),
        Categorical("floor", unknown="own"),
        Categorical("city", fill="most_frequent", unknown="ignore"),
    ]
    saved = []
    for number, table in enumerate((data, arrow, pd.DataFrame(data))):
        path = tmp_path / f"{number}.json"
        TabularTransformer.fit(columns, table).save(path)
        saved.append(path.read_bytes())
    assert saved[0] == saved[1] == saved[2]
    again = TabularTransformer.from_artefact(tmp_path / "0.json")
    assert again.feature_names == (
        *("age", "age_missing"),
        *("floor=0", "floor=1", "floor=2", "floor=3", "floor_unknown"),
        *("city=Bern", "city=Rome"),
    )
    assert [spec.datatype for spec in again.inputs] == ["FP64", "INT64", "BYTES"]
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == saved[0]


def test_missing_text_is_filled_or_a_category_of_its_own() -> None:
    served = {"city": np.array([b"", b"Rome"], dtype=object)}
    city = ["Bern", "Bern", "Rome", None]
    filled = fitted(Categorical("city", fill="most_frequent"), city=np.array(city, dtype=object))
    assert filled.preprocess(served)["features"].tolist() == [[1, 0], [0, 1]]
    constant = fitted(Categorical("city", fill="none"), city=np.array(city, dtype=object))
    assert constant.feature_names == ("city=Bern", "city=Rome", "city=none")
    assert constant.preprocess(served)["features"].tolist() == [[0, 0, 1], [0, 1, 0]]
    own = fitted(Categorical("city", encoding="ordinal"), city=np.array(city, dtype=object))
    assert own.preprocess(served)["features"].tolist() == [[0], [2]]


@pytest.mark.parametrize(
    "gaps",
    [
        [2.0, None, 4.0, 6.0],
        np.ma.MaskedArray([2.0, 900.0, 4.0, 6.0], mask=[0, 1, 0, 0]),
        pa.array([2, None, 4, 6]),
        pa.table({"x": [2, None, 4, 6]})["x"],
        pd.Series([2, None, 4, 6], dtype="Int64"),
        pd.Series([Decimal(2), None, Decimal(4), Decimal(6)]),
    ],
    ids=["list", "masked", "arrow", "arrow table", "pandas", "decimals"],
)
def test_gaps_in_numbers_are_gaps_whatever_holds_them(gaps: Any) -> None:
    whole = fitted(Numeric("x"), x=np.array([2.0, np.nan, 4.0, 6.0]))
    assert TabularTransformer.fit([Numeric("x")], {"x": gaps}).columns == whole.columns


@pytest.mark.parametrize(
    "gaps",
    [
        ["b", None, "a", "b"],
        ["b", float("nan"), "a", "b"],
        pa.array(["b", None, "a", "b"]),
        pa.array(["b", None, "a", "b"]).dictionary_encode(),
        pa.table({"c": pa.array(["b", None, "a", "b"]).dictionary_encode()})["c"],
        pd.Series(["b", None, "a", "b"], dtype="string"),
        pd.Series(["b", None, "a", "b"], dtype="category"),
    ],
    ids=["list", "nan", "arrow", "dictionary", "dictionaries", "pandas", "pandas category"],
)
def test_gaps_in_text_are_gaps_whatever_holds_them(gaps: Any) -> None:
    """Of a dictionary in chunks numpy is given the last category where there is none."""
    column = Categorical("c", fill="b")
    whole = fitted(column, c=np.array(["b", "", "a", "b"]))
    assert TabularTransformer.fit([column], {"c": gaps}).columns == whole.columns
    kept = TabularTransformer.fit([Categorical("c")], {"c": gaps})
    assert kept.feature_names == ("c=", "c=a", "c=b")


def test_a_flag_with_gaps_is_a_number() -> None:
    """Clients send numbers or null then: BOOL has no null."""
    column = Numeric("x", scale=None)
    made = TabularTransformer.fit([column], {"x": pa.array([True, None, False])})
    assert [spec.datatype for spec in made.inputs] == ["FP64"]


def test_unknown_categories_are_refused_ignored_or_kept_apart() -> None:
    served = {"c": np.array([b"x", b"a"], dtype=object)}
    data = np.array(["a", "b"])
    with pytest.raises(ValueError, match=r"column 'c': unknown category 'x'; known: 'a', 'b'$"):
        fitted(Categorical("c"), c=data).preprocess(served)
    for encoding, unknown, wanted in (
        ("one_hot", "ignore", [[0, 0], [1, 0]]),
        ("one_hot", "own", [[0, 0, 1], [1, 0, 0]]),
        ("ordinal", "ignore", [[-1], [0]]),
        ("ordinal", "own", [[2], [0]]),
    ):
        ours = fitted(Categorical("c", encoding, unknown), c=data)  # type: ignore[arg-type]
        assert ours.preprocess(served)["features"].tolist() == wanted


def test_a_model_that_takes_gaps_gets_them() -> None:
    ours = fitted(Numeric("x", fill=None), x=np.array([1.0, np.nan, 3.0]))
    found = ours.preprocess({"x": np.array([2.0, np.nan])})["features"].ravel()
    assert found[0] == 0
    assert np.isnan(found[1])


def test_a_constant_column_is_only_moved() -> None:
    for scale in ("standard", "minmax", "robust"):
        ours = fitted(Numeric("x", scale), x=np.full(9, 0.1))  # type: ignore[arg-type]
        found = ours.preprocess({"x": np.array([0.1, 1.1])})["features"]
        np.testing.assert_allclose(found, [[0], [1]], atol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "column 'x' is missing"),
        ({"x": np.array(["1"])}, "column 'x': <U1 of shape .1. is not FP64"),
        ({"x": np.zeros((2, 1))}, r"column 'x': float64 of shape \[2, 1\] is not FP64"),
        ({"x": np.zeros(2), "c": np.zeros(2)}, "column 'c': float64 of shape .2. is not BYTES"),
        ({"x": np.zeros(2), "c": as_bytes("a")}, "column 'c': 1 rows, not 2"),
        ({"x": np.array([1e300]), "c": as_bytes("a")}, "column 'x': a value is too large"),
        ({"x": np.zeros(1), "c": np.array([None])}, "column 'c': unknown category None"),
    ],
)
def test_wrong_data_is_refused_by_name(tensors: Tensors, message: str) -> None:
    ours = fitted(Numeric("x"), Categorical("c"), x=np.arange(3.0), c=np.array(["a", "b", "a"]))
    with pytest.raises(ValueError, match=message):
        ours.preprocess(tensors)


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ([Numeric("x")], {}, "column 'x' is not in the data"),
        ([Numeric("x")], {"x": np.full(3, np.nan)}, "column 'x': every value is missing"),
        ([Numeric("x")], {"x": np.array([1.0, np.inf])}, "column 'x': holds infinity"),
        ([Numeric("x")], {"x": np.array(["a"])}, "column 'x': <U1 is not numbers"),
        ([Numeric("x")], {"x": np.empty(0)}, "column 'x': needs a value per row"),
        ([Numeric("x", "log")], {"x": np.ones(2)}, "column 'x': scale 'log'; allowed: standard"),
        ([Categorical("c")], {"c": np.ones(2)}, "column 'c': float64 is neither text nor integers"),
        ([Categorical("c")], {"c": np.array(["a", 1], dtype=object)}, "column 'c': 1 is neither"),
        ([Categorical("c", fill=1)], {"c": np.ones(2, int)}, "column 'c': `fill` is for text"),
        ([Numeric("x"), Numeric("y")], {"x": np.ones(2), "y": np.ones(3)}, "column 'y': 3 rows"),
        ([Numeric("x"), Numeric("x")], {"x": np.ones(2)}, "are named 'x'"),
        (
            [Numeric("x", fill="mode")],
            {"x": np.ones(2)},
            "column 'x': fill 'mode'; allowed: median",
        ),  # type: ignore[arg-type]
        ([Numeric("x", fill=np.nan)], {"x": np.ones(2)}, "column 'x': fill nan; allowed: median"),
        ([Numeric("x")], {"x": np.array([-1.7e308, 1.7e308])}, "column 'x': values so large"),
        ([Numeric("x")], {"x": [1, "2"]}, "column 'x': object is not numbers"),
        (
            [Categorical("c", "onehot")],
            {"c": ["a"]},
            "encoding 'onehot'; allowed: one_hot, ordinal",
        ),  # type: ignore[arg-type]
        ([Categorical("c", unknown="nan")], {"c": ["a"]}, "unknown 'nan'; allowed: error, ignore"),  # type: ignore[arg-type]
        ([Categorical("c", fill=1)], {"c": ["a", ""]}, "column 'c': 1 is neither text nor"),
        ([Categorical("c")], {"c": ["\ud800"]}, "column 'c': .*surrogates not allowed"),
        ([], {}, "needs a column at least"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(columns: Any, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularTransformer.fit(columns, data)


def artefact(**changes: Any) -> dict[str, Any]:
    column = {"kind": "numeric", "name": "x", "datatype": "FP64", "fill": 0.0, "center": 0.0}
    return {
        "format": "coalmine-tabular",
        "version": 1,
        "columns": [{**column, "scale": 1.0, **changes}],
    }


CITY = {
    "kind": "categorical",
    "name": "c",
    "datatype": "BYTES",
    "categories": ["a"],
    "encoding": "one_hot",
    "unknown": "error",
    "fill": None,
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**artefact(), "version": 2}, "version: Input should be 1"),
        ({**artefact(), "format": "other"}, "format: "),
        ({**artefact(), "columns": []}, "columns: "),
        (artefact(scale=0), "columns.0.numeric.scale: "),
        (artefact(scale="1"), "columns.0.numeric.scale: "),
        (artefact(colour="red"), "columns.0.numeric.colour: "),
        (artefact(kind="text"), "columns.0: "),
        (artefact(datatype="BYTES"), "columns.0.numeric.datatype: "),
        ({**artefact(), "columns": [{**CITY, "fill": "z"}]}, "`fill` 'z' is none of"),
        ({**artefact(), "columns": [{**CITY, "categories": ["a", "a"]}]}, "has one twice"),
        ({**artefact(), "columns": [{**CITY, "datatype": "INT64"}]}, "must be int"),
        ({**artefact(), "columns": artefact()["columns"] * 2}, "are named 'x'"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_wrong_artefact_is_refused_by_file_and_key(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "transformer.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"transformer\.json: ") as caught:
        TabularTransformer.from_artefact(path)
    assert message in str(caught.value)


def test_a_missing_artefact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json: No such file"):
        TabularTransformer.from_artefact(tmp_path / "nowhere.json")


def test_serving_needs_no_training_library(tmp_path: Path) -> None:
    fitted(Numeric("x"), x=np.arange(3.0)).save(tmp_path / "transformer.json")
    code = (
        "import sys; from pathlib import Path; "
        "from coalmine_transformers.tabular import TabularTransformer; "
        "TabularTransformer.from_artefact(Path(sys.argv[1])); "
        "print([m for m in ('sklearn', 'pandas', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "transformer.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
