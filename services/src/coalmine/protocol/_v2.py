"""The Open Inference Protocol (V2) over REST: JSON, with or without the binary tensor extension.

With the extension a request is a JSON object of `json_length` bytes followed by the tensors that
have `binary_data_size`, in order; a response likewise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import orjson

from coalmine.protocol._errors import MalformedRequestError, SignatureError
from coalmine.protocol._signature import InferenceCall, Signature
from coalmine.protocol._tensors import Array, Tensors, TensorSpec, datatype_of
from coalmine.protocol._v1 import load_object
from coalmine.protocol._values import from_raw, from_values, text_list, to_raw

__all__ = [
    "EncodedReply",
    "decode_v2",
    "encode_v2",
    "parse_shape",
    "parse_timeout",
    "refuse_unsupported",
]


#: Parameters of Triton's extensions that would be answered wrongly if they were ignored.
UNSUPPORTED = {
    "classification": "the values come as they are; take the top ones yourself",
    "shared_memory_region": "send the tensor in the request",
    "sequence_id": "models keep no state between requests",
}
#: What the free sizes of a tensor without values may come to: with rows, and without.
_HOLLOW, _NO_ROWS = 4096, 2**31


class EncodedReply(NamedTuple):
    """A response body; `json_length` is set when binary tensors follow the JSON."""

    body: bytes
    json_length: int | None = None


def decode_v2(
    body: bytes | memoryview, signature: Signature, *, json_length: int | None = None
) -> InferenceCall:
    """Read a V2 request; `json_length` as in the header Inference-Header-Content-Length."""
    raw = memoryview(b"")
    if json_length is None:
        content = load_object(body)
    else:
        raw = memoryview(body)
        if not 0 <= json_length <= len(raw):
            raise MalformedRequestError(
                f"the JSON part cannot have {json_length} bytes: the body has {len(raw)}"
            )
        content = load_object(raw[:json_length])
        raw = raw[json_length:]
    identifier = content.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise MalformedRequestError("`id` must be a string")
    tensors = _read_inputs(content.get("inputs"), raw, signature)
    rows = signature.check(tensors)
    parameters = _parameters(content)
    if parameters:
        refuse_unsupported(parameters)
    outputs = content.get("outputs")
    if not parameters and outputs is None:
        return InferenceCall(tensors, rows, signature.output_names, identifier)
    asked = [] if outputs is None else _objects(outputs, "outputs")
    for item in asked:
        refuse_unsupported(_parameters(item))
    names = signature.select([output.get("name") for output in asked])
    return InferenceCall(
        tensors,
        rows,
        names,
        identifier,
        _binary_outputs(parameters, asked, names),
        timeout=parse_timeout(parameters.get("timeout")),
    )


def _read_inputs(inputs: Any, raw: memoryview, signature: Signature) -> Tensors:
    tensors: Tensors = {}
    position = 0
    for item in _objects(inputs, "inputs"):
        name = item.get("name")
        spec = signature.input(name)
        if name in tensors:
            raise SignatureError(f"input {name!r} is given more than once")
        if item.get("datatype") != spec.datatype:
            raise SignatureError(
                f"input {spec.name!r}: datatype {item.get('datatype')!r:.40} is not {spec.datatype}"
            )
        shape = parse_shape(item.get("shape"), spec)
        size = None
        if "parameters" in item:
            parameters = _parameters(item)
            refuse_unsupported(parameters)
            size = parameters.get("binary_data_size")
        if size is None:
            tensors[spec.name] = _read_values(item.get("data"), spec, shape)
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - position:
            raise MalformedRequestError(
                f"input {spec.name!r}: binary_data_size {size!r:.40} does not fit the body"
            )
        if item.get("data") is not None:
            raise MalformedRequestError(f"input {spec.name!r}: both data and binary_data_size")
        tensors[spec.name] = from_raw(raw[position : position + size], spec, shape)
        position += size
    if position != len(raw):
        raise MalformedRequestError(f"{len(raw) - position} bytes follow the last binary tensor")
    return tensors


def _read_values(data: Any, spec: TensorSpec, shape: list[int]) -> Array:
    if not isinstance(data, list):
        raise MalformedRequestError(f"input {spec.name!r}: `data` must be a list")
    return from_values(data, spec, shape)


def parse_shape(shape: Any, spec: TensorSpec) -> list[int]:
    """A shape from outside, as a list of non-negative integers of the rank that is expected."""
    if not isinstance(shape, list):
        raise MalformedRequestError(f"input {spec.name!r}: `shape` must be a list of sizes")
    if len(shape) != len(spec.shape) and len(shape) >= 10:
        raise SignatureError(
            f"input {spec.name!r}: has {len(shape)} dimensions, not {len(spec.shape)}"
        )
    for size in shape:
        if type(size) is not int or size < 0:
            raise MalformedRequestError(f"input {spec.name!r}: `shape` must be a list of sizes")
    if len(shape) != len(spec.shape):
        raise SignatureError(f"input {spec.name!r}: shape {shape} does not fit {list(spec.shape)}")
    if 0 in shape:
        _check_hollow(shape, spec)
    return shape


def _check_hollow(shape: list[int], spec: TensorSpec) -> None:
    """Refuse what only says that it is large: a tensor without values costs nothing to send.

    A model would still make as many rows of output as it claims, and numpy has a largest size even
    for nothing. A batch of no rows is not run, and so may say more.
    """
    claimed = 1
    for want, size in zip(spec.shape, shape, strict=True):
        if want == -1:
            claimed *= size or 1
        elif want != size:
            raise SignatureError(
                f"input {spec.name!r}: shape {shape} does not fit {list(spec.shape)}"
            )
    if claimed > (_HOLLOW if shape[0] else _NO_ROWS):
        raise SignatureError(f"input {spec.name!r}: shape {shape} is too large for no values")


def parse_timeout(microseconds: Any) -> float:
    """The request parameter `timeout` as seconds; None and 0 are for ever, as with Triton."""
    if microseconds is None or microseconds == 0 and type(microseconds) is int:
        return math.inf
    if type(microseconds) is not int or microseconds < 0:
        raise MalformedRequestError("parameter `timeout` must be a number of microseconds")
    return microseconds / 1e6


def _objects(items: Any, key: str) -> list[dict[str, Any]]:
    if isinstance(items, list):
        for item in items:
            if type(item) is not dict:
                break
        else:
            return items
    raise MalformedRequestError(f"`{key}` must be a list of objects")


def _parameters(item: dict[str, Any]) -> dict[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise MalformedRequestError("`parameters` must be an object")
    return parameters


def refuse_unsupported(parameters: Mapping[str, Any]) -> None:
    """SignatureError for a parameter that changes what the answer means, and that we do not know.

    Of others the protocol says that a server ignores what it does not know.
    """
    for name in parameters:
        if name in UNSUPPORTED:
            raise SignatureError(
                f"the parameter {name!r:.40} is not supported: {UNSUPPORTED[name]}"
            )


def _binary_outputs(
    parameters: dict[str, Any], asked: list[dict[str, Any]], names: tuple[str, ...]
) -> frozenset[str]:
    by_default = parameters.get("binary_data_output") is True
    if not asked:
        return frozenset(names) if by_default else frozenset()
    return frozenset(
        name
        for name, item in zip(names, asked, strict=True)
        if _parameters(item).get("binary_data", by_default) is True
    )


def encode_v2(
    call: InferenceCall,
    outputs: Tensors,
    *,
    model_name: str,
    model_version: str | None,
    request_id: str,
) -> EncodedReply:
    """Write a V2 response with the outputs that were asked for, as they were asked for."""
    blobs = {name: to_raw(outputs[name]) for name in call.outputs if name in call.binary}
    if not blobs or len(blobs) < len(call.outputs):
        head = _reply_head(call, outputs, blobs, (model_name, model_version), request_id)
        if not blobs:
            return EncodedReply(head)
    else:
        # All but the id is the same in the answers to all requests of a kind.
        shapes = tuple([(outputs[name].shape, outputs[name].dtype) for name in blobs])
        key = (model_name, model_version, call.outputs, shapes, tuple(map(len, blobs.values())))
        around = _around_id.get(key)
        if around is None:
            whole = _reply_head(call, outputs, blobs, (model_name, model_version), "")
            before, _, after = whole.partition(_NO_ID)
            if len(_around_id) >= _REPLIES:
                _around_id.clear()
            around = _around_id[key] = before + _NO_ID[:-2], after
        head = b"".join((around[0], orjson.dumps(request_id), around[1]))
    return EncodedReply(b"".join((head, *blobs.values())), len(head))


#: What stands before and behind the id in the head of a reply whose outputs are all binary.
_around_id: dict[Hashable, tuple[bytes, bytes]] = {}
_REPLIES = 256
_NO_ID = b'"id":""'


def _reply_head(
    call: InferenceCall,
    outputs: Tensors,
    blobs: Mapping[str, bytes],
    model: tuple[str, str | None],
    request_id: str,
) -> bytes:
    described: list[dict[str, Any]] = []
    for name in call.outputs:
        array = outputs[name]
        item: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype_of(array)}
        if name in blobs:
            item["parameters"] = {"binary_data_size": len(blobs[name])}
        elif array.dtype.kind in "OSU":
            item["data"] = text_list(name, array)
        else:
            item["data"] = array.ravel()
        described.append(item)
    name, version = model
    content = {"model_name": name, "id": request_id, "outputs": described}
    if version is not None:
        content["model_version"] = version
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
