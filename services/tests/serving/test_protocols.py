"""Every protocol gives the same answer for the same rows, from both kinds of server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

ROWS = [[0.1, -0.2, 0.3, 0.4], [1.0, 2.0, -3.0, 0.0], [-1.0, 0.5, 0.5, 2.0]]


def v2_body(rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    shape = list(np.shape(rows))
    return {
        "inputs": [{"name": "features", "datatype": "FP32", "shape": shape, "data": rows}],
        **more,
    }


async def test_v1(toy: Any, client: httpx.AsyncClient, truth: Callable[..., Any]) -> None:
    labels, shares = truth(ROWS)
    answer = await client.post(f"{toy.url}/v1/models/toy:predict", json={"instances": ROWS})
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert [row["label"] for row in predictions] == labels
    np.testing.assert_allclose([row["probabilities"] for row in predictions], shares, rtol=1e-5)


async def test_v2_json(toy: Any, client: httpx.AsyncClient, truth: Callable[..., Any]) -> None:
    labels, shares = truth(ROWS)
    for path in ("/v2/models/toy/infer", "/v2/models/toy/versions/3/infer"):
        answer = await client.post(toy.url + path, json=v2_body(id="mine"))
        content = answer.json()
        assert (answer.status_code, content["id"], content["model_version"]) == (200, "mine", "3")
        label, probabilities = content["outputs"]
        assert label == {"name": "label", "shape": [3], "datatype": "INT64", "data": labels}
        np.testing.assert_allclose(probabilities["data"], shares.ravel(), rtol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_http(toy: Any, truth: Callable[..., Any], binary: bool) -> None:
    labels, shares = truth(ROWS)
    with triton_http.InferenceServerClient(f"127.0.0.1:{toy.port}") as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("toy", "3")
        assert not triton.is_model_ready("toy", "4")
        assert triton.get_model_metadata("toy")["versions"] == ["3"]
        tensor = triton_http.InferInput("features", [3, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS, np.float32), binary_data=binary)
        wanted = [
            triton_http.InferRequestedOutput(name, binary_data=binary)
            for name in ("probabilities", "label")
        ]
        result = triton.infer("toy", [tensor], outputs=wanted, request_id="abc")
    assert result.get_response()["id"] == "abc"
    assert result.as_numpy("label").tolist() == labels
    np.testing.assert_allclose(result.as_numpy("probabilities"), shares, rtol=1e-5)


def test_tritonclient_grpc(toy: Any, truth: Callable[..., Any]) -> None:
    labels, shares = truth(ROWS)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{toy.grpc_port}") as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("toy")
        assert not triton.is_model_ready("toy", "4")
        assert not triton.is_model_ready("other")
        metadata = triton.get_model_metadata("toy", as_json=True)
        assert metadata["versions"] == ["3"]
        assert metadata["inputs"] == [
            {"name": "features", "datatype": "FP32", "shape": ["-1", "4"]}
        ]
        tensor = triton_grpc.InferInput("features", [3, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS, np.float32))
        result = triton.infer("toy", [tensor], request_id="abc")
        assert result.get_response().id == "abc"
        assert result.as_numpy("label").tolist() == labels
        np.testing.assert_allclose(result.as_numpy("probabilities"), shares, rtol=1e-5)


def test_grpc_errors_have_codes_and_words(toy: Any) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{toy.grpc_port}") as triton:
        tensor = triton_grpc.InferInput("features", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
        for model, code, words in (
            ("toy", "StatusCode.INVALID_ARGUMENT", "shape [1, 2] does not fit [-1, 4]"),
            ("other", "StatusCode.NOT_FOUND", "unknown model 'other'; served here: toy"),
        ):
            with pytest.raises(triton_grpc.InferenceServerException) as caught:
                triton.infer(model, [tensor])
            assert caught.value.status() == code
            assert words in caught.value.message()
        with pytest.raises(triton_grpc.InferenceServerException) as caught:
            triton.get_trace_settings("toy")
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_who_answered(toy: Any, client: httpx.AsyncClient) -> None:
    for path, body in (
        ("/v1/models/toy:predict", {"instances": ROWS}),
        ("/v2/models/toy/infer", v2_body()),
        ("/v2/models/toy/infer", {}),
    ):
        answer = await client.post(toy.url + path, json=body)
        assert answer.headers["x-coalmine-arm"] == "canary"
        assert answer.headers["x-coalmine-version"] == "3"
        assert answer.headers["x-request-id"]


def test_who_answered_in_grpc(toy: Any) -> None:
    import grpc

    from coalmine.protocol.protobuf import message_class

    message = message_class("ModelInferRequest")(
        model_name="toy",
        inputs=[
            {
                "name": "features",
                "datatype": "FP32",
                "shape": [1, 4],
                "contents": {"fp32_contents": ROWS[0]},
            }
        ],
    )
    with grpc.insecure_channel(f"127.0.0.1:{toy.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        raw, call = infer.with_call(
            message.SerializeToString(), timeout=10, metadata=(("x-request-id", "req-1"),)
        )
    metadata = dict(call.initial_metadata())
    assert metadata["x-coalmine-arm"] == "canary"
    assert metadata["x-coalmine-version"] == "3"
    assert metadata["x-request-id"] == "req-1"
    answer = message_class("ModelInferResponse").FromString(raw)
    assert answer.id == "req-1"
    assert len(answer.outputs[1].contents.fp32_contents) == 3


@pytest.mark.parametrize(
    ("headers", "body_id", "found"),
    [
        ({"x-request-id": "a", "ce-id": "b"}, "c", "a"),
        (
            {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
            "c",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ),
        ({"traceparent": "nonsense", "ce-id": "b"}, "c", "b"),
        ({}, "c", "c"),
        ({"x-request-id": "has spaces in it"}, "c", "c"),
    ],
)
async def test_the_request_id_is_the_first_there_is(
    toy: Any, client: httpx.AsyncClient, headers: dict[str, str], body_id: str, found: str
) -> None:
    url = f"{toy.url}/v2/models/toy/infer"
    answer = await client.post(url, json=v2_body(id=body_id), headers=headers)
    assert answer.headers["x-request-id"] == found
    assert answer.json()["id"] == body_id, "the protocol's id is the client's own"
    without = await client.post(url, json=v2_body(), headers=headers)
    if headers.get("x-request-id") == "a":
        assert without.json()["id"] == "a"


async def test_new_request_ids_sort_by_time(toy: Any, client: httpx.AsyncClient) -> None:
    ids = [
        (await client.post(f"{toy.url}/v2/models/toy/infer", json=v2_body())).json()["id"]
        for _ in range(3)
    ]
    assert len(set(ids)) == 3
    assert all(identifier[14] == "7" for identifier in ids)
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


async def test_probes_and_metadata(toy: Any, client: httpx.AsyncClient) -> None:
    async def get(path: str) -> tuple[int, Any]:
        answer = await client.get(toy.url + path)
        return answer.status_code, answer.json()

    assert await get("/v2/health/live") == (200, {"live": True})
    assert await get("/v2/health/ready") == (200, {"ready": True})
    assert await get("/v2/models/toy/ready") == (200, {"name": "toy", "ready": True})
    assert await get("/v2/models/toy/versions/3/ready") == (200, {"name": "toy", "ready": True})
    assert await get("/v1/models/toy") == (200, {"name": "toy", "ready": True})
    status, metadata = await get("/v2/models/toy")
    assert status == 200
    assert metadata["versions"] == ["3"]
    assert metadata["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    assert (await get("/v2/models/other"))[0] == 404
    assert (await get("/v2/models/toy/versions/9/ready"))[0] == 404


async def test_metrics(toy: Any, client: httpx.AsyncClient) -> None:
    await client.post(f"{toy.url}/v2/models/toy/infer", json=v2_body())
    await client.post(f"{toy.url}/v2/models/toy/infer", json={})
    text = (await client.get(f"{toy.url}/metrics")).text
    labels = 'arm="canary",model_name="toy",protocol="v2",revision="3"'
    assert f'coalmine_requests_total{{{labels},status="200"}}' in text
    assert f'coalmine_requests_total{{{labels},status="400"}}' in text
    assert 'le="0.0001"' in text
    assert "coalmine_inflight_requests" in text
    assert "coalmine_batch_rows_bucket" in text
    assert 'request_predict_seconds_bucket{le="0.0001",model_name="toy"}' in text, (
        "as KServe has it"
    )
