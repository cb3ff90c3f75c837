"""The Open Inference Protocol (V2) over gRPC: messages, and requests and responses as arrays.

A module of its own since it needs protobuf, which a monitor's or a transformer's image lacks. The
messages live in a descriptor pool of their own: KServe's SDK and Triton's client both register the
package `inference` in the default pool, and a process can hold only one of those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# `google` is a namespace package, in whose stubs mypy looks only with `namespace_packages`.
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from coalmine.protocol._errors import MalformedRequestError, SignatureError
from coalmine.protocol._signature import InferenceCall, Signature
from coalmine.protocol._tensors import Array, Tensors, TensorSpec, datatype_of
from coalmine.protocol._triton import HEALTH_MESSAGES, TRITON_MESSAGES
from coalmine.protocol._v2 import parse_shape, parse_timeout, refuse_unsupported
from coalmine.protocol._values import from_raw, to_raw

__all__ = [
    "decode_infer",
    "encode_infer",
    "from_contents",
    "message_class",
    "parse",
    "parse_infer",
]

_PACKAGE = "inference"
#: Bytes of a request from which a copy of its raw contents costs more than to look for them.
_LARGE = 32 * 1024
_LENGTH_DELIMITED = 2
_RAW_TAG = 7 << 3 | _LENGTH_DELIMITED
#: Fields of a request; more are of nobody's model, and each costs more here than its two bytes.
_MOST_FIELDS = 65_536
_TENSOR_METADATA = "string name=1; string datatype=2; repeated int64 shape=3"
_PARAMETERS = "map InferParameter parameters"
#: The published protocol, with the fields' numbers.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready=1",
    "ModelReadyRequest": "string name=1; string version=2",
    "ModelReadyResponse": "bool ready=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name=1; string version=2; repeated string extensions=3",
    "ModelMetadataRequest": "string name=1; string version=2",
    "ModelMetadataResponse.TensorMetadata": _TENSOR_METADATA,
    "ModelMetadataResponse": (
        "string name=1; repeated string versions=2; string platform=3; "
        "repeated ModelMetadataResponse.TensorMetadata inputs=4; "
        "repeated ModelMetadataResponse.TensorMetadata outputs=5"
    ),
    "InferParameter": "bool bool_param=1; int64 int64_param=2; string string_param=3",
    "InferTensorContents": (
        "repeated bool bool_contents=1; repeated int32 int_contents=2; "
        "repeated int64 int64_contents=3; repeated uint32 uint_contents=4; "
        "repeated uint64 uint64_contents=5; repeated float fp32_contents=6; "
        "repeated double fp64_contents=7; repeated bytes bytes_contents=8"
    ),
    "ModelInferRequest.InferInputTensor": (
        f"{_TENSOR_METADATA}; {_PARAMETERS}=4; InferTensorContents contents=5"
    ),
    "ModelInferRequest.InferRequestedOutputTensor": f"string name=1; {_PARAMETERS}=2",
    "ModelInferRequest": (
        f"string model_name=1; string model_version=2; string id=3; {_PARAMETERS}=4; "
        "repeated ModelInferRequest.InferInputTensor inputs=5; "
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs=6; "
        "repeated bytes raw_input_contents=7"
    ),
    "ModelInferResponse.InferOutputTensor": (
        f"{_TENSOR_METADATA}; {_PARAMETERS}=4; InferTensorContents contents=5"
    ),
    "ModelInferResponse": (
        f"string model_name=1; string model_version=2; string id=3; {_PARAMETERS}=4; "
        "repeated ModelInferResponse.InferOutputTensor outputs=5; "
        "repeated bytes raw_output_contents=6"
    ),
    # The model repository extension, which NVIDIA's Triton added to the service.
    "ModelRepositoryParameter": (
        "bool bool_param=1; int64 int64_param=2; string string_param=3; bytes bytes_param=4"
    ),
    "RepositoryIndexRequest": "string repository_name=1; bool ready=2",
    "RepositoryIndexResponse.ModelIndex": (
        "string name=1; string version=2; string state=3; string reason=4"
    ),
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models=1",
    "RepositoryModelLoadRequest": (
        "string repository_name=1; string model_name=2; map ModelRepositoryParameter parameters=3"
    ),
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": (
        "string repository_name=1; string model_name=2; map ModelRepositoryParameter parameters=3"
    ),
    "RepositoryModelUnloadResponse": "",
}
_MESSAGES |= TRITON_MESSAGES | HEALTH_MESSAGES
#: A union in the published protocol; of no other message.
_ONEOF = {
    "InferParameter": "parameter_choice",
    "ModelRepositoryParameter": "parameter_choice",
}


def _build_classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="coalmine/open_inference.proto", package=_PACKAGE, syntax="proto3"
    )
    built: dict[str, descriptor_pb2.DescriptorProto] = {}
    for full_name in sorted(_MESSAGES, key=lambda name: name.count(".")):
        outer, _, name = full_name.rpartition(".")
        siblings = built[outer].nested_type if outer else file.message_type
        built[full_name] = siblings.add(name=name)
        for declaration in filter(None, _MESSAGES[full_name].split("; ")):
            _add_field(built[full_name], full_name, declaration)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _add_field(message: descriptor_pb2.DescriptorProto, full_name: str, declaration: str) -> None:
    kind = descriptor_pb2.FieldDescriptorProto
    left, number = declaration.split("=")
    *modifiers, type_name, name = left.split()
    field = message.field.add(name=name, number=int(number), label=kind.LABEL_OPTIONAL)
    if modifiers:
        field.label = kind.LABEL_REPEATED
    if "map" in modifiers:  # a map is a repeated message of a key and a value
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, "", "string key=1")
        _add_field(entry, "", f"{type_name} value=2")
        type_name = f"{full_name}.ParametersEntry"
    scalar = f"TYPE_{type_name.upper()}"
    if scalar in kind.Type.keys():
        field.type = kind.Type.Value(scalar)
    else:
        field.type = kind.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{type_name}"
    if full_name in _ONEOF:
        if not message.oneof_decl:
            message.oneof_decl.add(name=_ONEOF[full_name])
        field.oneof_index = 0


_CLASSES = _build_classes()
_INFER_RESPONSE: Any = _CLASSES["ModelInferResponse"]

#: The field of InferTensorContents that holds a datatype's values.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def message_class(name: str) -> Any:
    """The class of a message of the protocol, such as `ModelInferRequest`."""
    return _CLASSES[name]


def parse(name: str, payload: bytes | memoryview) -> Any:
    """A message from its bytes; MalformedRequestError if they are none."""
    message: Any = _CLASSES[name]()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise MalformedRequestError(f"not a {name}: {error}") from None
    return message


def parse_infer(payload: bytes | memoryview) -> tuple[Any, Sequence[bytes | memoryview]]:
    """A ModelInferRequest and its raw contents, which are views of a large payload, not copies.

    MalformedRequestError if the payload is none.
    """
    if len(payload) > _LARGE and (parts := _without_raw(memoryview(payload))) is not None:
        rest, raw = parts
        return parse("ModelInferRequest", rest), raw
    message = parse("ModelInferRequest", payload)
    return message, message.raw_input_contents


def _without_raw(payload: memoryview) -> tuple[bytes, list[memoryview]] | None:
    """The message without its raw contents, and those; None if it is not as we expect it.

    MalformedRequestError for one of very many fields.
    """
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    at, size = 0, len(payload)
    while at < size:
        start, tag = at, payload[at]
        if tag & 7 != _LENGTH_DELIMITED or tag > 127:  # so is every field that there is
            return None
        at += 1
        length = shift = 0
        while True:
            if at >= size or shift > 28:
                return None
            byte = payload[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        end = at + length
        if end > size:
            return None
        if len(rest) + len(raw) > _MOST_FIELDS:
            raise MalformedRequestError(f"a ModelInferRequest of more than {_MOST_FIELDS} fields")
        if tag == _RAW_TAG:
            raw.append(payload[at:end])
        else:
            rest.append(payload[start:end])
        at = end
    return b"".join(rest), raw


def decode_infer(
    message: Any, signature: Signature, *, raw: Sequence[bytes | memoryview] | None = None
) -> InferenceCall:
    """Read a ModelInferRequest. A request in raw contents is answered in raw contents.

    `raw` are the raw contents that `parse_infer` found; None: those in the message.
    """
    for item in (message, *message.inputs, *message.outputs):
        refuse_unsupported(item.parameters)
    if raw is None:
        raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise MalformedRequestError(
            f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs"
        )
    tensors: Tensors = {}
    for index, tensor in enumerate(message.inputs):
        spec = signature.input(tensor.name)
        if spec.name in tensors:
            raise SignatureError(f"input {spec.name!r} is given more than once")
        if tensor.datatype != spec.datatype:
            raise SignatureError(
                f"input {spec.name!r}: datatype {tensor.datatype!r:.40} is not {spec.datatype}"
            )
        shape = parse_shape(list(tensor.shape), spec)
        if raw:
            if tensor.HasField("contents"):
                raise MalformedRequestError(f"input {spec.name!r}: both raw and typed contents")
            tensors[spec.name] = from_raw(raw[index], spec, shape)
        else:
            tensors[spec.name] = from_contents(tensor.contents, spec, shape)
    names = signature.select([output.name for output in message.outputs])
    # Clients read raw contents; typed ones are for those who send them.
    binary = frozenset(names) if raw or not message.inputs else frozenset()
    return InferenceCall(
        tensors,
        signature.check(tensors),
        names,
        message.id or None,
        binary,
        timeout=_timeout(message.parameters) if message.parameters else math.inf,
    )


def _timeout(parameters: Any) -> float:
    if "timeout" not in parameters:
        return math.inf
    value = parameters["timeout"]
    return parse_timeout(getattr(value, value.WhichOneof("parameter_choice") or "int64_param"))


def from_contents(contents: Any, spec: TensorSpec, shape: list[int]) -> Array:
    """The array in typed contents; SignatureError if they are not of the shape."""
    field = _CONTENTS.get(spec.datatype)
    if field is None:
        raise SignatureError(f"input {spec.name!r}: {spec.datatype} needs raw_input_contents")
    values = getattr(contents, field)
    count = int(np.prod(shape, dtype=np.object_))
    if len(values) != count:
        raise SignatureError(
            f"input {spec.name!r}: {len(values)} values in {field}, shape {shape} needs {count}"
        )
    try:
        return np.array(list(values), dtype=spec.dtype).reshape(shape)
    except OverflowError:
        raise SignatureError(
            f"input {spec.name!r}: a value does not fit into {spec.datatype}"
        ) from None


def encode_infer(
    call: InferenceCall,
    outputs: Tensors,
    *,
    model_name: str,
    model_version: str | None,
    request_id: str,
) -> bytes:
    """Write a ModelInferResponse, serialised."""
    response = _INFER_RESPONSE(
        model_name=model_name, model_version=model_version or "", id=request_id
    )
    # FP16 has no typed contents, and raw is all or nothing.
    arrays = [outputs[name] for name in call.outputs]
    raw = bool(call.binary) or any(datatype_of(array) not in _CONTENTS for array in arrays)
    for name, array in zip(call.outputs, arrays, strict=True):
        datatype = datatype_of(array)
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_raw(array))
        else:
            values = array.ravel().tolist()
            if datatype == "BYTES":
                values = [v if isinstance(v, bytes) else str(v).encode() for v in values]
            getattr(tensor.contents, _CONTENTS[datatype]).extend(values)
    serialised: bytes = response.SerializeToString()
    return serialised
