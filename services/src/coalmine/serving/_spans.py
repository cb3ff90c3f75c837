"""The span of one inference request, with attributes by OpenTelemetry's semantic conventions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from coalmine.clock import Clock
from coalmine.protocol import ProtocolError
from coalmine.serving._asgi import Headers, Message, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from coalmine.serving._batch import Batch
    from coalmine.serving._delivery import Request

__all__ = ["RequestSpan", "current_span", "span_of_step"]

#: The span of the request that this task answers; None when nothing is traced.
current_span: ContextVar[RequestSpan | None] = ContextVar("current_span", default=None)

_RPC = "inference.GRPCInferenceService/ModelInfer"
_GRPC_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
#: Codes that are the server's fault, not the client's.
_GRPC_FAULTS = {
    "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
}  # fmt: skip
_ECHOED = {
    b"x-request-id": "coalmine.request.id",
    b"x-coalmine-arm": "coalmine.arm",
    b"x-coalmine-version": "coalmine.model.version",
}


@contextmanager
def span_of_step(name: str, *, elsewhere: bool = False) -> Iterator[dict[str, str]]:
    """A span below the request's around one step of it; nothing where nothing is traced.

    Gives the headers that make what another server does in it (`elsewhere`) part of the trace.
    """
    request = current_span.get()
    if request is None:
        yield {}
        return
    with request.step(name, elsewhere=elsewhere) as headers:
        yield headers


class RequestSpan:
    """A server's span, from the first byte of the request to the last of the response."""

    def __init__(self, tracer: Tracer, span: Span, *, start: int, clock: Clock) -> None:
        self._tracer = tracer
        self._span = span
        self._submitted = start
        self._clock = clock

    @classmethod
    def begin(cls, tracer: Tracer, scope: Scope, clock: Clock) -> RequestSpan | None:
        """The span of a request, under the caller's if its `traceparent` is well-formed.

        None for a gRPC method other than ModelInfer.
        """
        from opentelemetry.trace import SpanKind

        path: str = scope["path"]
        headers: Headers = scope["headers"]
        if path.startswith("/inference.") and path != f"/{_RPC}":
            return None
        name, attributes = _describe(path, scope, headers)
        start = _nanoseconds(clock)
        span = tracer.start_span(
            name,
            context=_parent(headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=start,
        )
        return cls(tracer, span, start=start, clock=clock)

    def headers(self) -> dict[str, str]:
        """`traceparent` and `tracestate` for those who work for this request."""
        return _headers(self._span)

    @contextmanager
    def step(self, name: str, *, elsewhere: bool) -> Iterator[dict[str, str]]:
        """A span below this one while the block runs; its headers, for another server."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span(
            name,
            set_span_in_context(self._span),
            kind=SpanKind.CLIENT if elsewhere else SpanKind.INTERNAL,
            start_time=_nanoseconds(self._clock),
        )
        try:
            yield _headers(span) if elsewhere else {}
        except BaseException as error:
            _blame(span, error)
            raise
        finally:
            span.end(_nanoseconds(self._clock))

    def watching(self, send: Send) -> Send:
        """ASGI's send, noting the status and adding `traceparent` to the response."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(message)
                trace = [(k.encode(), v.encode()) for k, v in self.headers().items()]
                message = {**message, "headers": [*message["headers"], *trace]}
            elif message["type"] == "http.response.trailers":
                self._trailed(message["headers"])
            await send(message)

        return watched

    def submitted(self, model: str, rows: int) -> None:
        """Note that the request is read and checked, and now goes to the model."""
        self._span.set_attributes({"coalmine.model.name": model, "coalmine.rows": rows})
        self._submitted = _nanoseconds(self._clock)

    def computed(self, request: Request, batch: Batch | None) -> None:
        """Note what the model did, just now, as spans below this one.

        "queue" until a runner took the request, "compute" until the answer was here; below that the
        steps of a model with a transformer: "preprocess", "predict", "postprocess".
        """
        if batch is None or not self._span.is_recording():
            return
        from opentelemetry.trace import set_span_in_context

        below = set_span_in_context(self._span)
        end = _nanoseconds(self._clock)
        taken = min(end, self._submitted + int((batch.started - request.since) * 1e9))
        self._tracer.start_span("queue", below, start_time=self._submitted).end(taken)
        rows = {"coalmine.batch.rows": batch.rows}
        compute = self._tracer.start_span("compute", below, attributes=rows, start_time=taken)
        if (steps := batch.steps) is not None:
            below = set_span_in_context(compute)
            times = [
                min(end, taken + int((at - batch.started) * 1e9))
                for at in (steps.began, steps.preprocessed, steps.predicted, steps.ended)
            ]
            for number, name in enumerate(("preprocess", "predict", "postprocess")):
                step = self._tracer.start_span(name, below, start_time=times[number])
                step.end(times[number + 1])
        compute.end(end)

    def failed(self, error: BaseException) -> None:
        """Note that the request was not answered at all."""
        self._fault(type(error).__qualname__)

    def end(self) -> None:
        """The request is over."""
        self._span.end(_nanoseconds(self._clock))

    def _answered(self, message: Message) -> None:
        fields = dict(message["headers"])
        for header, attribute in _ECHOED.items():
            if header in fields:
                self._span.set_attribute(attribute, fields[header].decode("latin-1"))
        if fields.get(b"content-type") == b"application/grpc":
            self._trailed(message["headers"])  # a refusal has its status among the headers
            return
        status: int = message["status"]
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._fault(str(status))
        elif status >= 400:
            self._span.set_attribute("error.type", str(status))

    def _trailed(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"grpc-status":
                code = _GRPC_CODES[int(value)]
                self._span.set_attribute("rpc.response.status_code", code)
                if code != "OK":
                    self._span.set_attribute("error.type", code)
                if code in _GRPC_FAULTS:
                    self._fault(code)

    def _fault(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


def _headers(span: Span) -> dict[str, str]:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return carrier


def _blame(span: Span, error: BaseException) -> None:
    """Note what ended a step; what the client did wrong is no error of the step's."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", type(error).__qualname__)
    if not isinstance(error, ProtocolError):
        span.set_status(StatusCode.ERROR)


def _describe(path: str, scope: Scope, headers: Headers) -> tuple[str, dict[str, Any]]:
    """A name of few values, and what is known before the request is read."""
    fields = dict(headers)
    attributes: dict[str, Any] = {}
    if scope.get("client"):
        attributes["client.address"] = scope["client"][0]
    if b"user-agent" in fields:
        attributes["user_agent.original"] = fields[b"user-agent"].decode("latin-1")
    if path == f"/{_RPC}":
        return _RPC, {**attributes, "rpc.system.name": "grpc", "rpc.method": _RPC}
    route = _route(path)
    return f"POST {route}", {
        **attributes,
        "http.request.method": "POST",
        "http.route": route,
        "url.path": path,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }


def _route(path: str) -> str:
    parts = path.split("/")  # "", v1 or v2, models, name, ...
    if parts[1] == "v1":
        return "/v1/models/{model_name}:predict"
    version = "/versions/{model_version}" if len(parts) > 5 else ""
    return f"/v2/models/{{model_name}}{version}/infer"


def _parent(headers: Headers) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in (b"traceparent", b"tracestate")
    }
    # A new context: what this thread happens to have as its current span is nobody's parent.
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _nanoseconds(clock: Clock) -> int:
    return int(clock.time() * 1e9)
