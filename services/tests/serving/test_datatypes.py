"""A bare `.onnx` file, and tensors that are not float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

TEXT = np.array(["ä", "", "long enough"], dtype=np.object_)
HALF = np.array([0.5, -1.5, 65504.0], np.float16)
FLAG = np.array([True, False, True])


@pytest.fixture(scope="module")
def echo(start: Any, echo_file: Path) -> Any:
    return start(echo_file)


@pytest.mark.parametrize("client", [triton_http, triton_grpc])
def test_text_half_floats_and_booleans(echo: Any, client: Any) -> None:
    with client.InferenceServerClient(f"127.0.0.1:{echo.port}") as triton:
        tensors = []
        for name, datatype, array in (
            ("text", "BYTES", TEXT),
            ("half", "FP16", HALF),
            ("flag", "BOOL", FLAG),
        ):
            tensors.append(client.InferInput(name, [3], datatype))
            tensors[-1].set_data_from_numpy(array)
        result = triton.infer("echo", tensors)
    assert [value.decode() for value in result.as_numpy("text_out")] == TEXT.tolist()
    assert result.as_numpy("half_out").tolist() == HALF.tolist()
    assert result.as_numpy("flag_out").tolist() == FLAG.tolist()


def test_the_same_in_json(echo: Any) -> None:
    instances = [
        {"text": text, "half": float(half), "flag": bool(flag)}
        for text, half, flag in zip(TEXT, HALF, FLAG, strict=True)
    ]
    answer = httpx.post(f"{echo.url}/v1/models/echo:predict", json={"instances": instances})
    assert answer.json()["predictions"] == [
        {"text_out": i["text"], "half_out": i["half"], "flag_out": i["flag"]} for i in instances
    ]


@pytest.mark.parametrize(
    "wrong", [{"half": 65536.0}, {"text": 3}, {"flag": 1}, {"half": "1"}, {"text": None}]
)
def test_values_that_do_not_fit(echo: Any, wrong: dict[str, Any]) -> None:
    instance = {"text": "a", "half": 1.0, "flag": True, **wrong}
    answer = httpx.post(f"{echo.url}/v1/models/echo:predict", json={"instances": [instance]})
    assert answer.status_code == 400


def test_text_that_is_not_utf8_is_the_clients_mistake(echo: Any) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{echo.port}") as triton:
        tensors = [
            triton_http.InferInput("text", [1], "BYTES"),
            triton_http.InferInput("half", [1], "FP16"),
            triton_http.InferInput("flag", [1], "BOOL"),
        ]
        for tensor, array in zip(
            tensors, (np.array([b"\xff\xfe"], dtype=np.object_), HALF[:1], FLAG[:1]), strict=True
        ):
            tensor.set_data_from_numpy(array)
        with pytest.raises(triton_http.InferenceServerException) as caught:
            triton.infer("echo", tensors)
    assert caught.value.status() == "400"
    assert "UTF-8" in caught.value.message()


def test_an_empty_batch_has_an_empty_answer(echo: Any) -> None:
    answer = httpx.post(f"{echo.url}/v1/models/echo:predict", json={"instances": []})
    assert (answer.status_code, answer.json()) == (200, {"predictions": []})
