"""A real OTLP/HTTP server that spans are sent to, and requests that make some."""

from __future__ import annotations

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE = "0af7651916cd43dd8448eb211c80319c"

PARENT = "b7ad6b7169203331"

TRACEPARENT = f"00-{TRACE}-{PARENT}-01"

INFER = "POST /v2/models/{model_name}/infer"

STEPS = {"preprocess", "predict", "postprocess"}

#: Of a request to a model with a transformer: its own, two below it, and those of the transformer.
ALL = 3 + len(STEPS)

ROWS = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [2, 4], "data": [0.5] * 8}]}


class Receiver:
    """An OpenTelemetry collector, as far as a client can tell."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                receiver.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, trace: str) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace}

    def wait(self, trace: str, count: int) -> dict[str, Span]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if sum(span.trace_id.hex() == trace for span in self.spans) >= count:
                return self.of(trace)
            time.sleep(0.02)
        raise AssertionError(f"{count} spans expected, got {self.of(trace)}")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def traceparent(number: int) -> tuple[str, str]:
    trace = f"{number:032x}"
    return trace, f"00-{trace}-{PARENT}-01"


def raw(value: float, rows: int = 2) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "raw", "datatype": "FP32", "shape": [rows, 4], "data": [value] * 4 * rows},
            {"name": "wait", "datatype": "FP32", "shape": [rows], "data": [0.03] * rows},
        ]
    }


def attributes(span: Span) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes
    }


def infer(served: Any, value: float, trace: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{served.url}/v2/models/toy/infer",
        json=raw(value),
        headers={"traceparent": trace, **headers},
    )
