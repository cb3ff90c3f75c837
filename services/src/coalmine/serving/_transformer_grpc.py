"""A predictor over gRPC: V2, in raw contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from coalmine.protocol import ProtocolError, Tensors, TensorSpec, datatype_of, from_raw, to_raw
from coalmine.protocol.protobuf import from_contents, message_class
from coalmine.serving._errors import PredictorAnswerError, PredictorUnavailableError
from coalmine.serving._transformer_options import PredictorOptions
from coalmine.serving._transformer_remote import (
    Answer,
    Described,
    batch_rows,
    checked_outputs,
    failure,
    specs_of,
)

__all__ = ["GrpcPredictor"]

_SERVICE = "/inference.GRPCInferenceService/"
_IDENTITY = ("x-coalmine-arm", "x-coalmine-version")
#: gRPC's codes to the HTTP status that means the same.
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.CANCELLED: 502,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNKNOWN: 500,
}
#: How gRPC begins to say that there is no connection; else there was one, and the predictor may
#: have begun.
_NEVER_SENT = ("failed to connect", "DNS resolution failed", "empty address list", "connections to")


class GrpcPredictor:
    """One model of a predictor, over one HTTP/2 connection with as many streams as are needed."""

    def __init__(self, options: PredictorOptions, *, name: str) -> None:
        self._options = options
        self._name = name
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    async def describe(self) -> Described:
        """The model's metadata."""
        request = message_class("ModelMetadataRequest")(name=self._name)
        found, _ = await self._call("ModelMetadata", request, timeout=self._options.timeout)
        return Described(
            self._specs(found.inputs),
            self._specs(found.outputs),
            found.versions[-1] if found.versions else None,
        )

    async def infer(
        self, tensors: Tensors, described: Described, *, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """The model's outputs."""
        request = message_class("ModelInferRequest")(
            model_name=self._name, id=headers.get("x-request-id", "")
        )
        for name, array in tensors.items():
            request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
            request.raw_input_contents.append(to_raw(array))
        found, metadata = await self._call("ModelInfer", request, timeout=timeout, headers=headers)
        try:
            outputs = _outputs(found)
        except (ProtocolError, ValueError, IndexError) as error:
            raise PredictorAnswerError(
                f"the answer of the predictor at {self._options.url} cannot be read: {error}"
            ) from error
        return Answer(
            checked_outputs(outputs, described, rows=batch_rows(tensors), where=self._options.url),
            {name: metadata[name] for name in _IDENTITY if name in metadata},
        )

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()

    def _specs(self, items: Any) -> tuple[TensorSpec, ...]:
        described = [(item.name, item.datatype, list(item.shape)) for item in items]
        return specs_of(described, where=self._options.url)

    async def _call(
        self,
        name: str,
        request: Any,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, dict[str, str]]:
        if self._channel is None:
            self._channel = self._open()
        if name not in self._methods:
            self._methods[name] = self._channel.unary_unary(
                _SERVICE + name,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=message_class(f"{name}Response").FromString,
            )
        call = self._methods[name](
            request, timeout=max(timeout, 1e-3), metadata=tuple((headers or {}).items())
        )
        try:
            answer = await call
            return answer, _texts(await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    def _failure(self, error: Any) -> Exception:
        metadata = _texts(error.initial_metadata()) | _texts(error.trailing_metadata())
        retry_after = metadata.get("retry-after")
        status = _STATUSES.get(error.code(), 502)
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Of the two things this code says, only one passes with time.
            status = 413 if retry_after is None else 429
        said = error.details() or ""
        if status == 503 and not metadata:
            # No server said this: gRPC's own words, for its developers, of a lost connection.
            if said.startswith(_NEVER_SENT):
                return PredictorUnavailableError(
                    f"the predictor at {self._options.url} cannot be reached"
                )
            return PredictorAnswerError(
                f"the predictor at {self._options.url} ended the connection without an answer"
            )
        return failure(status, said, where=self._options.url, retry_after=retry_after)

    def _open(self) -> Any:
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),  # ours are bounded, and told apart
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        host = self._options.host
        if ":" not in host:
            host = f"{host}:{443 if self._options.ssl else 80}"
        if not self._options.ssl:
            return grpc.aio.insecure_channel(host, options=options)
        roots = None
        if (authorities := self._options.authorities) is not None:
            with open(authorities, "rb") as file:
                roots = file.read()
        return grpc.aio.secure_channel(host, grpc.ssl_channel_credentials(roots), options=options)


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _outputs(answer: Any) -> Tensors:
    outputs: Tensors = {}
    for index, item in enumerate(answer.outputs):
        shape = list(item.shape)
        spec = TensorSpec(item.name, item.datatype, tuple(shape))
        if answer.raw_output_contents:
            outputs[spec.name] = from_raw(answer.raw_output_contents[index], spec, shape)
        else:
            outputs[spec.name] = from_contents(item.contents, spec, shape)
    return outputs
