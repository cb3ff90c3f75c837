"""Spans, received by a real OTLP/HTTP server: parents, times, status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from .spans import (
    ALL,
    INFER,
    PARENT,
    ROWS,
    STEPS,
    TRACE,
    Receiver,
    attributes,
    infer,
    raw,
    traceparent,
)

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
