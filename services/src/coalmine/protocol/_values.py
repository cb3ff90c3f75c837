"""JSON values to arrays and raw bytes to arrays, and back; strict, and bounded by what was sent.

Values are flattened before numpy sees them: `np.asarray` on client data would take `"1.5"` for a
number, and would pad a list of strings to its longest one (one long string in a body of a few
megabytes then costs gigabytes).
"""

from __future__ import annotations

import struct
from base64 import b64decode
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from coalmine.protocol._errors import MalformedRequestError, SignatureError
from coalmine.protocol._tensors import Array, TensorSpec

__all__ = ["as_bytes", "from_raw", "from_values", "text_list", "to_raw"]

_MAX_RANK = 32
_EXACT = 2.0**53
_FLOATS = {float}
_NUMBERS = {float, int}
_NUMBERS_OR_MISSING = {float, int, type(None)}


def from_values(
    values: list[Any], spec: TensorSpec, shape: list[int] | None = None, *, base64: bool = False
) -> Array:
    """The array that (nested) JSON values stand for.

    Without `shape` the nesting gives the shape; with it, values are nested so or flat. With
    `base64` an element of BYTES may be `{"b64": "..."}` too, as V1 writes what is not text.
    """
    types = set(map(type, values))
    if shape is not None and types == _FLOATS and spec.dtype.kind == "f":  # nearly always
        if prod(shape) != len(values):
            raise _misshapen(spec, [len(values)], shape)
        return _floats(values, spec, shape)
    found, flat, types = _flatten(values, types, spec)
    if base64 and spec.datatype == "BYTES" and dict in types:
        flat = [_from_base64(value, spec) if type(value) is dict else value for value in flat]
        types = set(map(type, flat))
    if shape is None:
        # [] has lost its inner dimensions.
        want = tuple(max(n, 0) for n in spec.shape[1:])
        final = found if flat else (len(values), *found[1:], *want[len(found) - 1 :])
    else:
        final = tuple(shape)
        if prod(shape) != len(flat) or (len(found) > 1 and found != final):
            raise _misshapen(spec, list(found), shape)
    return _convert(flat, types, spec).reshape(final)


def _misshapen(spec: TensorSpec, found: list[int], shape: list[int]) -> SignatureError:
    return SignatureError(f"input {spec.name!r}: data of shape {found} is not of shape {shape}")


def _flatten(
    values: list[Any], types: set[type], spec: TensorSpec
) -> tuple[tuple[int, ...], list[Any], set[type]]:
    shape = [len(values)]
    while list in types:
        lengths = set(map(len, values)) if len(types) == 1 else set()
        if len(lengths) != 1:
            raise SignatureError(f"input {spec.name!r}: ragged nested lists")
        if len(shape) == _MAX_RANK:
            raise SignatureError(f"input {spec.name!r}: nested too deeply")
        shape.append(lengths.pop())
        values = list(chain.from_iterable(values))
        types = set(map(type, values))
    return tuple(shape), values, types


def _convert(flat: list[Any], types: set[type], spec: TensorSpec) -> Array:
    kind = spec.dtype.kind
    if kind == "O":
        allowed: set[type] = {str, bytes}
    elif kind == "b":
        allowed = {bool}
    else:
        allowed = _NUMBERS_OR_MISSING if kind == "f" else _NUMBERS
    if not types <= allowed:
        found = ", ".join(sorted(_JSON_NAMES.get(t, t.__name__) for t in types - allowed))
        raise SignatureError(f"input {spec.name!r}: {spec.datatype} cannot hold {found}")
    if kind == "O":
        return np.array([as_bytes(value) for value in flat], dtype=np.object_)
    try:
        if kind in "iu" and float in types:
            return _integers(flat, spec)
        if kind == "f" and flat and type(None) not in types:
            return _floats(flat, spec, [len(flat)])
        with np.errstate(over="raise"):  # 1e300 as FP32 would be infinity
            return np.array(flat, dtype=spec.dtype)
    except (OverflowError, FloatingPointError):
        raise _unfit(spec) from None


def _floats(flat: list[Any], spec: TensorSpec, shape: list[int]) -> Array:
    """What numpy would make of numbers, overflow checked, in a third of the time for a few."""
    dtype = spec.dtype
    data = bytearray(len(flat) * dtype.itemsize)
    try:
        struct.pack_into(f"<{len(flat)}{dtype.char}", data, 0, *flat)
    except (OverflowError, struct.error):  # of an integer for half floats
        raise _unfit(spec) from None
    return np.ndarray(shape, dtype, data)


def _unfit(spec: TensorSpec) -> SignatureError:
    return SignatureError(f"input {spec.name!r}: a value does not fit into {spec.datatype}")


_JSON_NAMES = {str: "a string", bool: "a boolean", type(None): "null", dict: "an object",
               float: "a number", int: "a number"}  # fmt: skip


def _from_base64(value: dict[str, Any], spec: TensorSpec) -> bytes:
    text = value.get("b64")
    if len(value) != 1 or not isinstance(text, str):
        raise SignatureError(f'input {spec.name!r}: BYTES cannot hold an object but {{"b64": …}}')
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise SignatureError(f"input {spec.name!r}: `b64` is not base64") from None


def _integers(flat: list[Any], spec: TensorSpec) -> Array:
    """Whole numbers written with a point, as some clients do: 3.0 is 3, 3.5 is a mistake."""
    if not all(type(value) is int or value.is_integer() for value in flat):
        raise SignatureError(f"input {spec.name!r}: {spec.datatype} cannot hold a fraction")
    # A whole number too large for 64 bits arrives as a float too, and rounded.
    if any(type(value) is float and abs(value) > _EXACT for value in flat):
        raise SignatureError(f"input {spec.name!r}: a number is too large to be exact")
    return np.array([int(value) for value in flat], dtype=spec.dtype)


def from_raw(raw: bytes | memoryview, spec: TensorSpec, shape: list[int]) -> Array:
    """The array in little-endian, row-major bytes; shares them, unless they are misaligned."""
    count = prod(shape)
    if spec.dtype.kind == "O":
        return np.array(_unpack_bytes(raw, count, spec), dtype=np.object_).reshape(shape)
    if len(raw) != count * spec.dtype.itemsize:
        raise SignatureError(
            f"input {spec.name!r}: {len(raw)} bytes, but {spec.datatype} of shape {shape} "
            f"is {count * spec.dtype.itemsize}"
        )
    if spec.dtype.kind == "b":
        return np.frombuffer(raw, dtype=np.uint8).astype(np.bool_).reshape(shape)
    array = np.frombuffer(raw, dtype=spec.dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _unpack_bytes(raw: bytes | memoryview, count: int, spec: TensorSpec) -> list[bytes]:
    """Elements of BYTES: each a 4-byte little-endian length, then that many bytes."""
    view = memoryview(raw)
    elements: list[bytes] = []
    position = 0
    while position < len(view):
        if position + 4 > len(view):
            raise MalformedRequestError(f"input {spec.name!r}: BYTES ends inside a length")
        (length,) = struct.unpack_from("<I", view, position)
        position += 4
        if position + length > len(view):
            raise MalformedRequestError(f"input {spec.name!r}: BYTES ends inside an element")
        elements.append(bytes(view[position : position + length]))
        position += length
    if len(elements) != count:
        raise SignatureError(f"input {spec.name!r}: {len(elements)} elements, not {count}")
    return elements


def to_raw(array: Array) -> bytes:
    """Little-endian, row-major bytes of an array; BYTES elements with their lengths."""
    if array.dtype.kind in "OSU":
        parts = [as_bytes(value) for value in array.ravel().tolist()]
        return b"".join(chain.from_iterable((struct.pack("<I", len(p)), p) for p in parts))
    return array.tobytes()


def text_list(name: str, array: Array) -> list[str]:
    """The elements of a BYTES array as text, for JSON; SignatureError if they are none."""
    try:
        return [as_bytes(value).decode() for value in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise SignatureError(
            f"output {name!r} holds bytes that are not UTF-8 text: JSON cannot, `binary_data` can"
        ) from None


def as_bytes(value: Any) -> bytes:
    """An element of BYTES, which may be text, as bytes."""
    return value if isinstance(value, bytes) else str(value).encode()
