"""Spans, received by a real OTLP/HTTP server: parents, times, status; and no harm without one."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from coalmine.serving._tracing import Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
INFER = "POST /v2/models/{model_name}/infer"
STEPS = {"preprocess", "predict", "postprocess"}
#: Of a request to a model with a transformer: its own, two below it, and those of the transformer.
ALL = 3 + len(STEPS)
ROWS = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [2, 4], "data": [0.5] * 8}]}


HALVING = """
from coalmine.protocol import TensorSpec

class Halved:
    inputs = (TensorSpec("double", "FP32", (-1, 4)),)

    def preprocess(self, tensors):
        if (tensors["double"] == 13).any():
            raise ValueError("double: thirteen is not a telemetry value")
        return {"features": tensors["double"] / 2}

    def postprocess(self, tensors):
        return tensors
"""


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


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module", params=["native", "uvicorn"])
def traced(request: pytest.FixtureRequest, start: Any, model_dir: Path, receiver: Receiver) -> Any:
    return start(
        model_dir,
        *("--version", "3", "--arm", "canary", "--transformer", "moody:Moody"),
        kind=request.param,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_SERVICE_NAME="toy-service",
        OTEL_BSP_SCHEDULE_DELAY="50",
    )


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


def test_a_request_is_a_span_under_its_callers(traced: Any, receiver: Receiver) -> None:
    trace, header = traceparent(1 if traced.kind == "native" else 2)
    answer = infer(traced, 0.5, header, **{"x-request-id": "abc", "tracestate": "vendor=1"})
    assert answer.status_code == 200
    spans = receiver.wait(trace, ALL)
    assert set(spans) == {INFER, "queue", "compute", *STEPS}
    server = spans[INFER]
    assert server.parent_span_id.hex() == PARENT
    assert server.trace_state == "vendor=1"
    assert server.kind == Span.SPAN_KIND_SERVER
    assert server.status.code == Status.STATUS_CODE_UNSET
    said = attributes(server)
    assert said["http.request.method"] == "POST"
    assert said["http.response.status_code"] == 200
    assert said["http.route"] == "/v2/models/{model_name}/infer"
    assert said["url.path"] == "/v2/models/toy/infer"
    assert said["coalmine.request.id"] == "abc"
    assert said["coalmine.model.name"] == "toy"
    assert said["coalmine.model.version"] == "3"
    assert said["coalmine.arm"] == "canary"
    assert said["coalmine.rows"] == 2
    # What came back names the span that answered, in the caller's trace.
    assert answer.headers["traceparent"] == f"00-{trace}-{server.span_id.hex()}-01"


def test_children_lie_within_their_parent_one_after_the_other(
    traced: Any, receiver: Receiver
) -> None:
    trace, header = traceparent(3 if traced.kind == "native" else 4)
    assert infer(traced, 0.5, header).status_code == 200
    spans = receiver.wait(trace, ALL)
    server = spans[INFER]
    queue, compute = spans["queue"], spans["compute"]
    assert queue.parent_span_id == compute.parent_span_id == server.span_id
    times = [
        server.start_time_unix_nano,
        queue.start_time_unix_nano,
        queue.end_time_unix_nano,
        compute.start_time_unix_nano,
        compute.end_time_unix_nano,
        server.end_time_unix_nano,
    ]
    assert times == sorted(times)
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    # The transformer slept for 30 ms: that is the model's time, not the queue's.
    assert compute.end_time_unix_nano - compute.start_time_unix_nano >= 30e6
    assert attributes(compute)["coalmine.batch.rows"] == 2
    preprocess, predict, postprocess = (
        spans[name] for name in ("preprocess", "predict", "postprocess")
    )
    assert {spans[name].parent_span_id for name in STEPS} == {compute.span_id}
    steps = [
        compute.start_time_unix_nano,
        preprocess.start_time_unix_nano,
        preprocess.end_time_unix_nano,
        predict.start_time_unix_nano,
        predict.end_time_unix_nano,
        postprocess.start_time_unix_nano,
        postprocess.end_time_unix_nano,
        compute.end_time_unix_nano,
    ]
    assert steps == sorted(steps)
    assert preprocess.end_time_unix_nano - preprocess.start_time_unix_nano >= 30e6


def test_the_same_over_grpc(traced: Any, receiver: Receiver) -> None:
    trace, header = traceparent(5 if traced.kind == "native" else 6)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{traced.grpc_port}") as client:
        tensors = []
        for item in raw(0.5)["inputs"]:
            tensors.append(triton_grpc.InferInput(item["name"], item["shape"], "FP32"))
            array = [[0.5] * 4] * 2 if item["name"] == "raw" else [0.0] * 2
            tensors[-1].set_data_from_numpy(np.array(array, np.float32))
        client.infer("toy", tensors, headers={"traceparent": header})
        client.is_server_live()  # no inference, no span
    spans = receiver.wait(trace, ALL)
    name = "inference.GRPCInferenceService/ModelInfer"
    assert set(spans) == {name, "queue", "compute", *STEPS}
    said = attributes(spans[name])
    assert spans[name].parent_span_id.hex() == PARENT
    assert said["rpc.system.name"] == "grpc"
    assert said["rpc.method"] == name
    assert said["rpc.response.status_code"] == "OK"
    assert said["coalmine.model.name"] == "toy"
    assert not any("ServerLive" in span.name for span in receiver.spans)


def test_whose_fault_it_was(traced: Any, receiver: Receiver) -> None:
    broken, header = traceparent(7 if traced.kind == "native" else 8)
    assert infer(traced, 666, header).status_code == 500
    refused, other = traceparent(9 if traced.kind == "native" else 10)
    assert infer(traced, 13, other).status_code == 400
    (span,) = receiver.wait(broken, 1).values()
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "500"
    (span,) = receiver.wait(refused, 1).values()
    assert span.status.code == Status.STATUS_CODE_UNSET  # the client's own mistake
    assert attributes(span)["http.response.status_code"] == 400


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "00-" + "g" * 52],
)
def test_a_malformed_parent_is_no_parent(traced: Any, receiver: Receiver, header: str) -> None:
    answer = infer(traced, 0.5, header)
    assert answer.status_code == 200
    trace = answer.headers["traceparent"].split("-")[1]
    spans = receiver.wait(trace, ALL)
    assert not spans[INFER].parent_span_id


def test_what_is_not_sampled_by_the_caller_is_not_exported(traced: Any, receiver: Receiver) -> None:
    trace = f"{99:032x}"
    answer = infer(traced, 0.5, f"00-{trace}-{PARENT}-00")
    assert answer.headers["traceparent"].startswith(f"00-{trace}-")
    assert answer.headers["traceparent"].endswith("-00")
    later, header = traceparent(98 if traced.kind == "native" else 97)
    infer(traced, 0.5, header)
    receiver.wait(later, ALL)
    assert not receiver.of(trace)


def test_who_sends(traced: Any, receiver: Receiver) -> None:
    trace, header = traceparent(11 if traced.kind == "native" else 12)
    infer(traced, 0.5, header)
    receiver.wait(trace, ALL)
    resource = {
        item.key: item.value.string_value
        for item in receiver.requests[-1].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "toy-service"
    assert resource["service.version"]


def test_the_last_spans_are_sent_before_the_end(
    start: Any, model_dir: Path, receiver: Receiver
) -> None:
    served = start(
        model_dir,
        "--transformer",
        "moody:Moody",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.url}/v1/traces",
        OTEL_BSP_SCHEDULE_DELAY="600000",
    )
    trace, header = traceparent(20)
    assert infer(served, 0.5, header).status_code == 200
    assert served.stop() == 0
    assert len(receiver.of(trace)) == ALL


@pytest.mark.parametrize("scheme", ["http", pytest.param("grpc", marks=pytest.mark.slow)])
def test_a_transformer_of_its_own_and_its_predictor_are_one_trace(
    start: Any, model_dir: Path, tmp_path: Path, receiver: Receiver, scheme: str
) -> None:
    exported = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "PYTHONPATH": str(tmp_path),
    }
    (tmp_path / "halving.py").write_text(HALVING)
    predictor = start(model_dir, **exported)
    transformer = start(
        Path("halving:Halved"),
        *("--name", "toy", "--predictor", f"{scheme}://127.0.0.1:{predictor.port}"),
        module="coalmine.serving._transformer_main",
        **exported,
    )
    trace, header = traceparent(30 if scheme == "http" else 31)
    body = {"inputs": [{**ROWS["inputs"][0], "name": "double"}]}
    url = f"{transformer.url}/v2/models/toy/infer"
    answer = httpx.post(url, json=body, headers={"traceparent": header})
    assert answer.status_code == 200
    receiver.wait(trace, 4 + 3)
    ours = answer.headers["traceparent"].split("-")[2]
    below = {
        s.name: s
        for s in receiver.spans
        if s.trace_id.hex() == trace and s.parent_span_id.hex() == ours
    }
    assert set(below) == STEPS
    assert below["predict"].kind == Span.SPAN_KIND_CLIENT
    (theirs,) = [s for s in receiver.spans if s.parent_span_id == below["predict"].span_id]
    assert theirs.kind == Span.SPAN_KIND_SERVER
    assert theirs.trace_id.hex() == trace

    refused, header = traceparent(32 if scheme == "http" else 33)
    body["inputs"][0]["data"] = [13.0] * 8
    assert httpx.post(url, json=body, headers={"traceparent": header}).status_code == 400
    spans = receiver.wait(refused, 2)
    assert set(spans) == {INFER, "preprocess"}
    assert attributes(spans["preprocess"])["error.type"] == "SignatureError"
    assert spans["preprocess"].status.code == Status.STATUS_CODE_UNSET  # the client's mistake


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
def test_a_collector_that_is_gone_hurts_nobody(start: Any, model_dir: Path, kind: str) -> None:
    served = start(
        model_dir,
        *("--transformer", "moody:Moody"),
        kind=kind,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_BSP_SCHEDULE_DELAY="50",
    )
    for _ in range(20):
        assert infer(served, 0.5, TRACEPARENT).status_code == 200
        time.sleep(0.1)
    assert served.stop() == 0
    assert "Traceback" not in served.text()
    complaints = [line for line in served.text().splitlines() if "opentelemetry" in line]
    assert len(complaints) == 1, "not at every attempt"


def test_without_the_environment_there_is_no_tracing(start: Any, model_dir: Path) -> None:
    assert Tracing.from_environment({}) is None
    for environment in (
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ):
        assert Tracing.from_environment(environment) is None
    served = start(model_dir)
    answer = httpx.post(
        f"{served.url}/v2/models/toy/infer", json=ROWS, headers={"traceparent": TRACEPARENT}
    )
    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    program = (
        "import sys; from coalmine.serving import ServeOptions, create_asgi; "
        f"create_asgi(ServeOptions(model={str(model_dir)!r})); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=quiet
    )
    assert out.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; allowed: otlp"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; allowed: http/protobuf, grpc",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "pip install 'coalmine[tracing]'",
        ),
    ],
)
def test_what_cannot_be_had_is_one_warning(
    environment: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Tracing.from_environment(environment) is None
    (record,) = caplog.records
    assert message in record.getMessage()


def test_a_server_without_the_extra_says_so_and_serves(
    start: Any, model_dir: Path, tmp_path: Path
) -> None:
    # What a missing package looks like: a finder that comes first and finds nothing.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('opentelemetry.exporter'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    served = start(
        model_dir, PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
    )
    assert httpx.post(f"{served.url}/v2/models/toy/infer", json=ROWS).status_code == 200
    assert served.text().count("pip install 'coalmine[tracing]'") == 1
