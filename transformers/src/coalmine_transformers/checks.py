"""What every transformer must hold to, as checks that a test can run one by one.

::

    @pytest.mark.parametrize("check", yield_checks(MyTransformer()), ids=str)
    def test_contract(check):
        check()

The idea is scikit-learn's and river's: a new class gets the whole suite for one line.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from coalmine.protocol import Array, Tensors, TensorSpec, datatype_of
from coalmine_transformers._base import Transformer

__all__ = ["Check", "yield_checks"]

_ROWS = 7
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract; calling it raises AssertionError if it is not kept."""

    name: str
    run: Callable[[Transformer, Tensors], None]
    transformer: Transformer
    tensors: Tensors

    def __call__(self) -> None:
        """Check."""
        self.run(self.transformer, _copied(self.tensors))

    def __str__(self) -> str:
        return f"{type(self.transformer).__name__}:{self.name}"


def yield_checks(transformer: Transformer, tensors: Tensors | None = None) -> Iterator[Check]:
    """The checks of a transformer, on these inputs of several rows, or on its own example."""
    tensors = transformer.example(_ROWS) if tensors is None else tensors
    for run in (
        _declares_a_schema,
        _gives_what_it_declares,
        _does_not_change_its_inputs,
        _is_deterministic,
        _takes_each_row_alone,
        _does_not_mind_the_order,
        _takes_an_empty_batch,
        _keeps_a_missing_value_in_its_row,
        _names_what_it_refuses,
        _may_be_called_from_threads,
        _pickles_and_copies,
        _postprocesses_row_by_row,
    ):
        yield Check(run.__name__.lstrip("_"), run, transformer, tensors)


def _declares_a_schema(transformer: Transformer, tensors: Tensors) -> None:
    for name in ("inputs", "model_inputs", "model_outputs", "outputs"):
        specs = getattr(transformer, name)
        if name != "inputs" and specs is None:
            continue
        _expect(bool(specs) and isinstance(specs, tuple), f"`{name}` is an empty or no tuple")
        names = [spec.name for spec in specs]
        _expect(len(set(names)) == len(names), f"`{name}` has a name twice: {names}")
        for spec in specs:
            _expect(
                spec.shape[:1] == (-1,), f"`{name}`: {spec.name!r} does not begin with a batch, -1"
            )
    _fits(tensors, transformer.inputs, "the example")


def _gives_what_it_declares(transformer: Transformer, tensors: Tensors) -> None:
    rows = _rows(tensors)
    given = transformer.preprocess(tensors)
    if transformer.model_inputs is not None:
        _fits(given, transformer.model_inputs, "preprocess")
    for name, array in given.items():
        _expect(array.shape[:1] == (rows,), f"{name!r}: shape {array.shape} for {rows} rows")


def _does_not_change_its_inputs(transformer: Transformer, tensors: Tensors) -> None:
    before = _copied(tensors)
    for array in tensors.values():
        array.flags.writeable = False  # as binary tensors are, which are read where they lie
    transformer.preprocess(tensors)
    _same(tensors, before, "the inputs after preprocess")


def _is_deterministic(transformer: Transformer, tensors: Tensors) -> None:
    _same(transformer.preprocess(tensors), transformer.preprocess(tensors), "a second call")


def _takes_each_row_alone(transformer: Transformer, tensors: Tensors) -> None:
    together = transformer.preprocess(tensors)
    for row in range(_rows(tensors)):
        alone = transformer.preprocess(_take(tensors, slice(row, row + 1)))
        _same(alone, _take(together, slice(row, row + 1)), f"row {row} alone")


def _does_not_mind_the_order(transformer: Transformer, tensors: Tensors) -> None:
    order = np.random.default_rng(0).permutation(_rows(tensors))
    together = transformer.preprocess(tensors)
    _same(transformer.preprocess(_take(tensors, order)), _take(together, order), "another order")


def _takes_an_empty_batch(transformer: Transformer, tensors: Tensors) -> None:
    given = transformer.preprocess(tensors)
    empty = transformer.preprocess(_take(tensors, slice(0, 0)))
    _same(empty, _take(given, slice(0, 0)), "an empty batch")


def _keeps_a_missing_value_in_its_row(transformer: Transformer, tensors: Tensors) -> None:
    others = np.arange(_rows(tensors)) != 1
    whole = _take(transformer.preprocess(tensors), others)
    for name, array in tensors.items():
        if array.dtype.kind != "f" or len(array) < 2:
            continue
        lacking = _copied(tensors)
        lacking[name].reshape(len(array), -1)[1, 0] = np.nan
        given = _attempt(transformer, lacking, name)
        if given is not None:
            _same(_take(given, others), whole, f"the other rows, with NaN in {name!r}")


def _names_what_it_refuses(transformer: Transformer, tensors: Tensors) -> None:
    for name, array in tensors.items():
        strange: Array | None = None
        if array.dtype.kind == "O":
            strange = np.full(array.shape, b"\xff\x00 nothing that anyone expects", np.object_)
        elif array.dtype.kind in "iu":
            strange = np.full(array.shape, np.iinfo(array.dtype).max, array.dtype)
        elif array.dtype.kind == "f":
            strange = np.full(array.shape, np.finfo(array.dtype).max, array.dtype)
        if strange is not None:
            with np.errstate(all="ignore"):
                _attempt(transformer, {**tensors, name: strange}, name)


def _attempt(transformer: Transformer, tensors: Tensors, name: str) -> Tensors | None:
    try:
        return transformer.preprocess(tensors)
    except ValueError as error:
        _expect(name in str(error), f"refuses {name!r} without naming it: {error}")
        return None


def _may_be_called_from_threads(transformer: Transformer, tensors: Tensors) -> None:
    parts = [_take(tensors, slice(row, row + 1)) for row in range(_rows(tensors))] * _THREADS
    alone = [transformer.preprocess(part) for part in parts]
    with ThreadPoolExecutor(_THREADS) as pool:
        for given, expected in zip(pool.map(transformer.preprocess, parts), alone, strict=True):
            _same(given, expected, "a call from a thread")


def _pickles_and_copies(transformer: Transformer, tensors: Tensors) -> None:
    expected = transformer.preprocess(tensors)
    for other in (pickle.loads(pickle.dumps(transformer)), copy.deepcopy(transformer)):
        _expect(other.inputs == transformer.inputs, "a copy declares other inputs")
        _same(other.preprocess(tensors), expected, "a copy")


def _postprocesses_row_by_row(transformer: Transformer, tensors: Tensors) -> None:
    specs = transformer.model_outputs
    if specs is None:
        return
    rng = np.random.default_rng(0)
    rows = _rows(tensors)
    predicted: Tensors = {}
    for spec in specs:
        shape = (rows, *(1 if size == -1 else size for size in spec.shape[1:]))
        predicted[spec.name] = rng.random(shape).astype(spec.dtype)
    before = _copied(predicted)
    answer = transformer.postprocess(predicted)
    _fits(answer, specs if transformer.outputs is None else transformer.outputs, "postprocess")
    _same(predicted, before, "the predictions after postprocess")
    for row in range(rows):
        part = slice(row, row + 1)
        _same(transformer.postprocess(_take(predicted, part)), _take(answer, part), f"row {row}")


def _expect(kept: bool, otherwise: str) -> None:
    if not kept:  # not `assert`, which `python -O` leaves out
        raise AssertionError(otherwise)


def _fits(tensors: Tensors, specs: tuple[TensorSpec, ...], what: str) -> None:
    names = {spec.name for spec in specs}
    _expect(tensors.keys() == names, f"{what} gives {sorted(tensors)}, declared: {sorted(names)}")
    for spec in specs:
        array = tensors[spec.name]
        found = datatype_of(array)
        _expect(found == spec.datatype, f"{what}: {spec.name!r} is {found}, not {spec.datatype}")
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
        )
        _expect(fits, f"{what}: {spec.name!r} has shape {array.shape}, not {spec.shape}")


def _same(found: Tensors, expected: Tensors, what: str) -> None:
    _expect(found.keys() == expected.keys(), f"{what}: {sorted(found)}, not {sorted(expected)}")
    for name, array in found.items():
        _expect(array.dtype == expected[name].dtype, f"{what}: {name!r} is {array.dtype}")
        np.testing.assert_array_equal(array, expected[name], f"{what}: {name!r}")


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))


def _take(tensors: Tensors, rows: slice | Array) -> Tensors:
    return {name: array[rows] for name, array in tensors.items()}


def _copied(tensors: Tensors) -> Tensors:
    return {name: array.copy() for name, array in tensors.items()}
