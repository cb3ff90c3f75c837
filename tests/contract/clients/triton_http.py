"""NVIDIA's `tritonclient.http`, every call that it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.http as triton
from checking import arrays, main, refused, same
from tritonclient.utils import InferenceServerException as Refused


def client(http: str) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{http}", concurrency=4)


def inputs(binary: Any) -> list[Any]:
    made = []
    for number, (name, array) in enumerate(arrays().items()):
        tensor = triton.InferInput(name, list(array.shape), name.upper())
        chosen = number % 2 == 0 if binary == "mixed" else binary
        # Half floats have no JSON in this client.
        tensor.set_data_from_numpy(array, binary_data=chosen or name == "fp16")
        made.append(tensor)
    return made


def check_health(http: str, grpc: str) -> None:
    with client(http) as server:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready("every")
        assert server.is_model_ready("every", "1")
        assert not server.is_model_ready("every", "2")
        assert not server.is_model_ready("nothing")


def check_metadata(http: str, grpc: str) -> None:
    with client(http) as server:
        metadata = server.get_server_metadata()
        assert {"name", "version", "extensions"} <= metadata.keys()
        for extension in ("binary_tensor_data", "model_configuration", "statistics"):
            assert extension in metadata["extensions"], metadata
        model = server.get_model_metadata("every", "1")
        assert model["versions"] == ["1"]
        assert {item["name"]: item["datatype"] for item in model["inputs"]} == {
            name: name.upper() for name in arrays()
        }
        refused(Refused, lambda: server.get_model_metadata("nothing"), "unknown model", "404")


def check_config(http: str, grpc: str) -> None:
    with client(http) as server:
        for version in ("", "1"):
            config = server.get_model_config("every", version)
            assert config["name"] == "every"
            assert config["backend"] == "onnxruntime"
            assert config["max_batch_size"] > 1
            kinds = {item["name"]: item for item in config["input"]}
            assert kinds["bytes"]["data_type"] == "TYPE_STRING"
            assert kinds["fp32"]["data_type"] == "TYPE_FP32"
            assert kinds["fp32"]["dims"] == [2], "without the batch"
            assert {item["name"] for item in config["output"]} == {f"{n}_out" for n in arrays()}
        refused(Refused, lambda: server.get_model_config("nothing"), "unknown model", "404")
        refused(Refused, lambda: server.get_model_config("every", "7"), "unknown version", "404")


def check_every_datatype(http: str, grpc: str) -> None:
    with client(http) as server:
        for binary in (True, False, "mixed"):
            for binary_output in (True, False):
                outputs = [
                    triton.InferRequestedOutput(f"{name}_out", binary_data=binary_output)
                    for name in arrays()
                ]
                result = server.infer("every", inputs(binary), outputs=outputs, request_id="r1")
                assert result.get_response()["id"] == "r1"
                assert result.get_response()["model_version"] == "1"
                for name, sent in arrays().items():
                    same(name, result.as_numpy(f"{name}_out"), sent)


def check_chosen_outputs(http: str, grpc: str) -> None:
    with client(http) as server:
        outputs = [
            triton.InferRequestedOutput("bytes_out", binary_data=False),
            triton.InferRequestedOutput("int64_out", binary_data=True),
        ]
        result = server.infer("every", inputs("mixed"), "1", outputs)
        assert [item["name"] for item in result.get_response()["outputs"]] == [
            "bytes_out",
            "int64_out",
        ]
        assert result.as_numpy("fp32_out") is None
        assert result.get_response()["id"], "a request without an id gets one"
        result = server.infer("every", inputs(True))
        assert len(result.get_response()["outputs"]) == len(arrays())
        nothing = [triton.InferRequestedOutput("nothing")]
        refused(Refused, lambda: server.infer("every", inputs(True), outputs=nothing), "400")


def check_compression(http: str, grpc: str) -> None:
    with client(http) as server:
        for request in ("gzip", "deflate"):
            for response in (None, "gzip", "deflate"):
                result = server.infer(
                    "every",
                    inputs("mixed"),
                    request_compression_algorithm=request,
                    response_compression_algorithm=response,
                )
                same("fp32", result.as_numpy("fp32_out"), arrays()["fp32"])


def check_asynchronous_calls(http: str, grpc: str) -> None:
    with client(http) as server:
        waiting = [server.async_infer("every", inputs(True), request_id=str(n)) for n in range(20)]
        assert [w.get_result().get_response()["id"] for w in waiting] == [str(n) for n in range(20)]


def check_what_would_change_the_answer_is_refused(http: str, grpc: str) -> None:
    with client(http) as server:
        top = [triton.InferRequestedOutput("fp32_out", class_count=2)]
        refused(Refused, lambda: server.infer("every", inputs(True), outputs=top), "classification")
        refused(
            Refused,
            lambda: server.infer("every", inputs(True), sequence_id=5, sequence_start=True),
            "sequence_id",
        )
        shared = inputs(True)
        shared[0].set_shared_memory("region", 4)
        refused(Refused, lambda: server.infer("every", shared), "shared_memory_region")


def check_what_says_how_is_taken(http: str, grpc: str) -> None:
    with client(http) as server:
        result = server.infer(
            "every",
            inputs(True),
            priority=3,
            timeout=30_000_000,
            headers={"x-request-id": "from-the-header"},
            query_params={"a": "b"},
            parameters={"anything": "else"},
        )
        assert result.get_response()["id"] == "from-the-header"


def check_mistakes(http: str, grpc: str) -> None:
    with client(http) as server:
        refused(Refused, lambda: server.infer("nothing", inputs(True)), "unknown model", "404")
        refused(Refused, lambda: server.infer("every", inputs(True), "8"), "unknown version", "404")
        refused(Refused, lambda: server.infer("every", inputs(True)[:-1]), "missing input", "400")
        wrong = inputs(True)
        wrong[0] = triton.InferInput("bool", [1, 3], "BOOL")
        wrong[0].set_data_from_numpy(np.ones((1, 3), np.bool_))
        refused(Refused, lambda: server.infer("every", wrong), "does not fit", "400")


def check_statistics(http: str, grpc: str) -> None:
    with client(http) as server:
        before = server.get_inference_statistics("every", "1")["model_stats"][0]
        for _ in range(5):
            server.infer("every", inputs(True))
        refused(Refused, lambda: server.infer("every", inputs(True)[:-1]))
        after = server.get_inference_statistics("every")["model_stats"][0]
        assert (after["name"], after["version"]) == ("every", "1")
        assert after["inference_count"] - before["inference_count"] == 10, "two rows a request"
        assert after["execution_count"] - before["execution_count"] == 5
        old, new = before["inference_stats"], after["inference_stats"]
        assert new["success"]["count"] - old["success"]["count"] == 5
        assert new["fail"]["count"] - old["fail"]["count"] == 1
        spent = {key: new[key]["ns"] - old[key]["ns"] for key in new}
        assert 0 < spent["compute_infer"] < spent["success"] < 60e9, spent
        assert new["queue"]["count"] - old["queue"]["count"] == 5
        assert after["last_inference"] > 1_700_000_000_000, "milliseconds"
        assert (
            sum(b["compute_infer"]["count"] for b in after["batch_stats"])
            == (after["execution_count"])
        )
        everything = server.get_inference_statistics()["model_stats"]
        assert [item["name"] for item in everything] == ["every"]
        refused(Refused, lambda: server.get_inference_statistics("nothing"), "unknown", "404")


def check_repository(http: str, grpc: str) -> None:
    with client(http) as server:
        index = server.get_model_repository_index()
        (entry,) = [item for item in index if item["name"] == "every"]
        assert entry["state"] == "READY", index
        refused(Refused, lambda: server.load_model("nothing"))
        refused(Refused, lambda: server.unload_model("nothing"))
        assert server.is_model_ready("every")


def check_extensions_that_are_not_there(http: str, grpc: str) -> None:
    with client(http) as server:
        for call in (
            server.get_trace_settings,
            lambda: server.get_trace_settings("every"),
            lambda: server.update_trace_settings(settings={"trace_rate": "1"}),
            server.get_log_settings,
            lambda: server.update_log_settings({"log_info": True}),
            server.get_system_shared_memory_status,
            lambda: server.register_system_shared_memory("a", "/a", 10),
            server.unregister_system_shared_memory,
            server.get_cuda_shared_memory_status,
            lambda: server.register_cuda_shared_memory("a", b"x", 0, 10),
            server.unregister_cuda_shared_memory,
        ):
            refused(Refused, call, "not supported", "501")


if __name__ == "__main__":
    main(globals())
