"""KServe's V1 protocol: `{"instances": [...]}` in, `{"predictions": [...]}` out.

With one input an instance is its nested list; with several, an object {input: value}. Predictions
are shaped the same way by the outputs. `{"inputs": {input: tensor}}` is the same in columns, as
TensorFlow Serving has it, and is answered by `{"outputs": ...}`; `{"inputs": [...]}` is KServe's
other name for instances.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import orjson

from coalmine.protocol._errors import MalformedRequestError, SignatureError
from coalmine.protocol._signature import InferenceCall, Signature
from coalmine.protocol._tensors import Array, Tensors
from coalmine.protocol._values import as_bytes, from_values

__all__ = ["decode_v1", "encode_v1", "load_object"]


_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_BY_COLUMNS = 'ask by columns, {"inputs": {input: values}}, or over V2'


def load_object(body: bytes | memoryview) -> dict[str, Any]:
    """A JSON object; MalformedRequestError for anything else."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Python's own library, thus many a client, writes NaN as if there were such a word.
        hint = "; a missing number is null" if error.doc.startswith("NaN", error.pos) else ""
        raise MalformedRequestError(f"the body is not JSON: {error}{hint}") from None
    return _object(content)


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise MalformedRequestError("the body must be a JSON object")
    return content


def decode_v1(body: bytes | memoryview, signature: Signature) -> InferenceCall:
    """Read a V1 request.

    >>> from coalmine.protocol import TensorSpec
    >>> signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), ())
    >>> decode_v1(b'{"instances": [[1, 2], [3, null]]}', signature).tensors["x"].tolist()
    [[1.0, 2.0], [3.0, nan]]
    """
    return call_from_instances(load_object(body), signature)


def call_from_instances(content: Any, signature: Signature) -> InferenceCall:
    """A V1 request whose JSON has been read already, as KServe's own server does."""
    content = _object(content)
    given = [key for key in ("instances", "inputs") if key in content]
    if len(given) != 1:
        raise MalformedRequestError("the body must have either `instances` or `inputs`")
    instances = content[given[0]]
    columnar = given == ["inputs"] and isinstance(instances, dict)
    if columnar:
        columns = _whole(instances, signature)
    elif not isinstance(instances, list):
        raise MalformedRequestError(f"`{given[0]}` must be a list")
    elif _named(instances, signature):
        columns = _columns(instances, signature)
    else:
        columns = {signature.inputs[0].name: instances}
    tensors = {
        spec.name: from_values(columns[spec.name], spec, None if spec.shape else [], base64=True)
        for spec in signature.inputs
    }
    rows = signature.check(tensors)
    return InferenceCall(tensors, rows, signature.output_names, columnar=columnar)


def _named(instances: list[Any], signature: Signature) -> bool:
    """Whether the instances are objects {input: value}, and not the only input's values."""
    if len(signature.inputs) != 1:
        return True
    if not instances or not isinstance(instances[0], dict):
        return False
    (only,) = signature.inputs
    return only.datatype != "BYTES" or instances[0].keys() != {"b64"}


def _whole(inputs: dict[str, Any], signature: Signature) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name, values in inputs.items():
        if isinstance(values, list):
            columns[signature.input(name).name] = values
        elif not signature.input(name).shape:
            columns[name] = [values]  # a scalar, which is the same for all rows
        else:
            raise SignatureError(f"input {name!r}: must be a list with a value per row")
    missing = ", ".join(name for name in signature.input_specs if name not in inputs)
    if missing:
        raise SignatureError(f"missing input: {missing}")
    return columns


def _columns(instances: list[Any], signature: Signature) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in signature.input_specs}
    for instance in instances:
        if not isinstance(instance, dict):
            names = ", ".join(columns)
            raise SignatureError(f"every instance must be an object with the inputs: {names}")
        if instance.keys() != columns.keys():
            for name in instance:
                signature.input(name)
            missing = ", ".join(name for name in columns if name not in instance)
            raise SignatureError(f"an instance lacks the input: {missing}")
        for name, values in columns.items():
            values.append(instance[name])
    for spec in signature.inputs:
        if not spec.shape and len(instances) > 1:
            raise SignatureError(
                f"input {spec.name!r} is one value for all rows, not one for each: {_BY_COLUMNS}"
            )
    return columns


def encode_v1(outputs: Tensors, names: tuple[str, ...], *, columnar: bool = False) -> bytes:
    """Write a V1 response; `columnar` as in the call that it answers.

    >>> encode_v1({"y": np.array([1, 2])}, ("y",))
    b'{"predictions":[1,2]}'
    >>> encode_v1({"y": np.array([1, 2])}, ("y",), columnar=True)
    b'{"outputs":{"y":[1,2]}}'
    """
    # orjson writes a float32 as the shortest text that reads back as the same float32.
    columns = {name: _numbers_or_text(outputs[name]) for name in names}
    if columnar:
        whole = {name: v if outputs[name].ndim else _only(v) for name, v in columns.items()}
        return orjson.dumps({"outputs": whole}, option=_NUMPY, default=np.ndarray.tolist)
    rows = _per_row({k: v if v.dtype.kind == "f" else v.tolist() for k, v in columns.items()})
    return orjson.dumps({"predictions": rows}, option=_NUMPY)


def predictions(outputs: Tensors, names: tuple[str, ...]) -> list[Any]:
    """One prediction per row, in Python's own types: the only output's value, or all of them."""
    return _per_row({name: _numbers_or_text(outputs[name]).tolist() for name in names})


def in_columns(outputs: Tensors, names: tuple[str, ...]) -> dict[str, Any]:
    """Each output whole, in Python's own types: the answer to a request by columns."""
    columns = {name: _numbers_or_text(outputs[name]).tolist() for name in names}
    return {name: v if outputs[name].ndim else v[0] for name, v in columns.items()}


def _per_row(columns: dict[str, Any]) -> list[Any]:
    if len(columns) == 1:
        (only,) = columns.values()
        return list(only)
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise SignatureError(
            f"the outputs do not all have one value per row ({said}): {_BY_COLUMNS}"
        )
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _numbers_or_text(array: Array) -> Array:
    array = np.atleast_1d(array)
    if array.dtype.kind in "OSU":
        values = [_text_or_base64(value) for value in array.ravel().tolist()]
        made = np.empty(len(values), dtype=np.object_)
        made[:] = values
        return made.reshape(array.shape)
    return np.ascontiguousarray(array)


def _only(array: Array) -> Any:
    """The element of an array of one, which orjson takes."""
    return array[0] if array.dtype.kind == "f" else array.tolist()[0]


def _text_or_base64(value: Any) -> str | dict[str, str]:
    raw = as_bytes(value)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"b64": b64encode(raw).decode()}
