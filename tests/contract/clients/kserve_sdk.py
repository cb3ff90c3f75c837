"""KServe's own clients: `InferenceRESTClient` (V1 and V2) and `InferenceGRPCClient`."""

from __future__ import annotations

from typing import Any

import grpc as grpc_errors
import httpx
import numpy as np
from checking import arrays, main, same
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(*, binary: bool, names: Any = None) -> InferRequest:
    tensors = []
    for name, array in arrays().items():
        tensor = InferInput(name, list(array.shape), name.upper())
        # KServe's SDK has no JSON for half floats.
        tensor.set_data_from_numpy(array, binary_data=binary or name == "fp16")
        tensors.append(tensor)
    return InferRequest("every", tensors, request_id="r1", model_version="1")


def answers(response: Any) -> None:
    assert response.id == "r1"
    outputs = {output.name: output for output in response.outputs}
    for name, sent in arrays().items():
        same(name, outputs[f"{name}_out"].as_numpy(), sent)


async def check_v2(http: str, grpc: str) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        url = f"http://127.0.0.1:{http}"
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "every")
        assert not await _is(client.is_model_ready(url, "nothing"))
        for binary in (False, True):
            answers(await client.infer(url, request(binary=binary), model_name="every"))
        wrong = request(binary=True)
        wrong.inputs.pop()
        error = await _fails(client.infer(url, wrong, model_name="every"), httpx.HTTPStatusError)
        assert error.response.status_code == 400
        assert "missing input" in error.response.json()["error"]


async def check_v1(http: str, grpc: str) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        url = f"http://127.0.0.1:{http}"
        assert await client.is_server_live(url)
        assert await client.is_model_ready(url, "every")
        columns = {name: array.tolist() for name, array in arrays().items()}
        rows = [{name: values[row] for name, values in columns.items()} for row in range(2)]
        answer = await client.infer(url, {"instances": rows}, model_name="every")
        for row, prediction in zip(rows, answer["predictions"], strict=True):
            for name, values in row.items():
                got = np.array(prediction[f"{name}_out"], dtype=arrays()[name].dtype)
                assert got.tolist() == values, name
        refusal = client.infer(url, {"instances": [1]}, model_name="every")
        assert (await _fails(refusal, httpx.HTTPStatusError)).response.status_code == 400


async def check_explain_is_refused_and_echoes_nothing(http: str, grpc: str) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        url = f"http://127.0.0.1:{http}"
        secret = {"authorization": "Bearer secret", "cookie": "secret=1"}
        call = client.explain(url, data={"instances": []}, model_name="every", headers=secret)
        response = (await _fails(call, httpx.HTTPStatusError)).response
        assert response.status_code == 501
        assert "explain" in response.json()["error"]
        assert "secret" not in str(response.headers)


async def check_grpc(http: str, grpc: str) -> None:
    async with InferenceGRPCClient(f"127.0.0.1:{grpc}") as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("every")
        assert not await _is(client.is_model_ready("nothing"))
        answers(await client.infer(request(binary=True), headers=[("x-request-id", "h1")]))
        wrong = request(binary=True)
        wrong.inputs.pop()
        error = await _fails(client.infer(wrong), grpc_errors.RpcError)
        assert error.code() is grpc_errors.StatusCode.INVALID_ARGUMENT
        assert "missing input" in error.details()


async def _is(question: Any) -> bool:
    """The answer; a client may also say no by an error."""
    try:
        return bool(await question)
    except (httpx.HTTPStatusError, grpc_errors.RpcError):
        return False


async def _fails(call: Any, kind: type[BaseException]) -> Any:
    try:
        await call
    except kind as error:
        return error
    raise AssertionError("this must be refused")


if __name__ == "__main__":
    main(globals())
