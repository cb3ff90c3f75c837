"""KServe's payloads as calls and answers of ours, and our errors as those that KServe knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import HTTPException
from grpc_interceptor import exceptions as grpc_errors
from kserve import InferOutput, InferRequest, InferResponse
from kserve import errors as kserve_errors

from coalmine.protocol import (
    Array,
    InferenceCall,
    Signature,
    SignatureError,
    Tensors,
    TensorSpec,
    call_from_instances,
    datatype_of,
    decode_v1,
    from_raw,
    from_values,
    in_columns,
    parse_shape,
    parse_timeout,
    predictions,
    refuse_unsupported,
)
from coalmine.serving._status import grpc_status, http_status, public_message

__all__ = ["answer_of", "as_kserve", "call_of", "described", "not_ready"]

_GRPC_ERRORS = {
    3: grpc_errors.InvalidArgument,
    4: grpc_errors.DeadlineExceeded,
    5: grpc_errors.NotFound,
    8: grpc_errors.ResourceExhausted,
    14: grpc_errors.Unavailable,
}


def call_of(payload: Any, signature: Signature) -> InferenceCall:
    """A V1 or V2 request, found to fit; SignatureError, MalformedRequestError.

    Of V1 KServe's server gives whatever the body's JSON is, and the body itself where its content
    type is not JSON's, as that of `curl -d`; ours reads any.
    """
    if isinstance(payload, bytes):
        return decode_v1(payload, signature)
    if not isinstance(payload, InferRequest):
        return call_from_instances(payload, signature)
    for part in (payload, *payload.inputs, *(payload.request_outputs or ())):
        refuse_unsupported(part.parameters or {})
    tensors: dict[str, Array] = {}
    for item in payload.inputs:
        spec = signature.input(item.name)
        if spec.name in tensors:
            raise SignatureError(f"input {spec.name!r} is given more than once")
        if item.datatype != spec.datatype:
            raise SignatureError(
                f"input {spec.name!r}: datatype {item.datatype!r:.40} is not {spec.datatype}"
            )
        raw = item._raw_data
        shape = parse_shape(list(item.shape), spec)
        if raw is not None:
            tensors[spec.name] = from_raw(raw, spec, shape)
        else:
            tensors[spec.name] = from_values(_as_json(item.data), spec, shape)
    names = signature.select([output.name for output in payload.request_outputs or ()])
    return InferenceCall(
        tensors,
        signature.check(tensors),
        names,
        payload.id or None,
        timeout=_timeout(payload.parameters),
    )


def answer_of(
    payload: Any,
    call: InferenceCall,
    outputs: Tensors,
    *,
    name: str,
    version: str | None,
) -> dict[str, Any] | InferResponse:
    """The answer in the form of the request."""
    if not isinstance(payload, InferRequest):
        if call.columnar:
            return {"outputs": in_columns(outputs, call.outputs)}
        return {"predictions": predictions(outputs, call.outputs)}
    return InferResponse(
        response_id=payload.id or "",
        model_name=name,
        model_version=version,
        infer_outputs=[
            _output(name, outputs[name], raw=payload.use_binary_outputs) for name in call.outputs
        ],
        from_grpc=payload.from_grpc,
        use_binary_outputs=payload.use_binary_outputs,
        requested_outputs=payload.request_outputs,
    )


def as_kserve(error: Exception, *, name: str, grpc: bool) -> Exception:
    """What KServe's server answers with the status that ours would; its own tables are unlike."""
    if type(error).__module__.startswith("kserve"):
        return error
    message = public_message(error)
    found: Exception
    if grpc:
        found = _GRPC_ERRORS.get(grpc_status(error), grpc_errors.Internal)(message)
        return found
    status = http_status(error)
    if status == 400:
        found = kserve_errors.InvalidInput(message)
    elif status == 503:
        found = not_ready(name, message)
    elif status == 500:
        found = kserve_errors.InferenceError(message)
    else:
        later = getattr(error, "retry_after", None)
        found = HTTPException(status, message, later and {"retry-after": str(later)})
    return found


def not_ready(name: str, why: str | None = None) -> Exception:
    """KServe's error for it; its gRPC server looks for a `reason`, which its class does not set."""
    found: Exception = kserve_errors.ModelNotReady(name, why)
    found.reason = str(found)  # type: ignore[attr-defined]
    return found


def described(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """Tensors, for KServe's metadata."""
    return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]


def _timeout(parameters: Any) -> float:
    """The V2 parameter `timeout` in seconds; of gRPC it is a message."""
    value = (parameters or {}).get("timeout")
    return parse_timeout(getattr(value, "int64_param", value))


def _as_json(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise SignatureError("`data` must be a list")
    return [value.decode() if isinstance(value, bytes) else value for value in data]


def _output(name: str, array: Array, *, raw: bool) -> Any:
    output = InferOutput(name, list(array.shape), datatype_of(array))
    output.set_data_from_numpy(array, binary_data=raw)
    return output
