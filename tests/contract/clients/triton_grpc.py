"""NVIDIA's `tritonclient.grpc`, every call that it has."""

from __future__ import annotations

import contextlib
import queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from checking import arrays, main, refused, same
from tritonclient.utils import InferenceServerException as Refused

UNKNOWN = ("unknown", "NOT_FOUND")


def client(grpc: str) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{grpc}")


def inputs() -> list[Any]:
    made = []
    for name, array in arrays().items():
        made.append(triton.InferInput(name, list(array.shape), name.upper()))
        made[-1].set_data_from_numpy(array)
    return made


def check_health(http: str, grpc: str) -> None:
    with client(grpc) as server:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready("every")
        assert not server.is_model_ready("every", "2")
        assert not server.is_model_ready("nothing")


def check_metadata(http: str, grpc: str) -> None:
    with client(grpc) as server:
        extensions = server.get_server_metadata(as_json=True)["extensions"]
        assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(extensions)
        model = server.get_model_metadata("every")
        assert model.platform == "onnxruntime_onnx"
        assert [tensor.datatype for tensor in model.inputs] == [n.upper() for n in arrays()]
        refused(Refused, lambda: server.get_model_metadata("nothing"), *UNKNOWN)


def check_config(http: str, grpc: str) -> None:
    with client(grpc) as server:
        config = server.get_model_config("every", "1").config
        assert (config.name, config.backend) == ("every", "onnxruntime")
        assert config.max_batch_size > 1
        assert config.HasField("dynamic_batching")
        (text,) = [item for item in config.input if item.name == "bytes"]
        assert triton.model_config_pb2.DataType.Name(text.data_type) == "TYPE_STRING"
        assert list(text.dims) == [2]
        assert server.get_model_config("every", as_json=True)["config"]["platform"]
        refused(Refused, lambda: server.get_model_config("nothing"), *UNKNOWN)


def check_every_datatype(http: str, grpc: str) -> None:
    with client(grpc) as server:
        result = server.infer("every", inputs(), request_id="r1")
        assert result.get_response().id == "r1"
        assert result.get_response().model_version == "1"
        for name, sent in arrays().items():
            same(name, result.as_numpy(f"{name}_out"), sent)


def check_chosen_outputs(http: str, grpc: str) -> None:
    with client(grpc) as server:
        outputs = [triton.InferRequestedOutput(name) for name in ("bytes_out", "fp16_out")]
        result = server.infer("every", inputs(), "1", outputs)
        assert [item.name for item in result.get_response().outputs] == ["bytes_out", "fp16_out"]
        assert result.get_response().id, "a request without an id gets one"
        nothing = [triton.InferRequestedOutput("nothing")]
        refused(Refused, lambda: server.infer("every", inputs(), outputs=nothing), "INVALID")


def check_compression(http: str, grpc: str) -> None:
    with client(grpc) as server:
        for algorithm in ("gzip", "deflate"):
            result = server.infer("every", inputs(), compression_algorithm=algorithm)
            same("fp32", result.as_numpy("fp32_out"), arrays()["fp32"])


def check_asynchronous_calls(http: str, grpc: str) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with client(grpc) as server:
        for number in range(20):
            server.async_infer(
                "every",
                inputs(),
                callback=lambda result, error: done.put((result, error)),
                request_id=str(number),
            )
        answers = [done.get(timeout=30) for _ in range(20)]
    assert [error for _, error in answers if error] == []
    assert {result.get_response().id for result, _ in answers} == {str(n) for n in range(20)}


def check_streams_are_refused_at_once(http: str, grpc: str) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with client(grpc) as server:
        server.start_stream(lambda result, error: done.put((result, error)))
        with contextlib.suppress(Refused):  # which may have heard of it already
            server.async_stream_infer("every", inputs())
        _, error = done.get(timeout=20)
        assert error is not None
        assert "UNIMPLEMENTED" in str(error.status()) or "not implemented" in str(error), error
        server.stop_stream()
        assert server.is_server_live()


def check_what_would_change_the_answer_is_refused(http: str, grpc: str) -> None:
    with client(grpc) as server:
        top = [triton.InferRequestedOutput("fp32_out", class_count=2)]
        refused(Refused, lambda: server.infer("every", inputs(), outputs=top), "classification")
        refused(
            Refused,
            lambda: server.infer("every", inputs(), sequence_id=5, sequence_start=True),
            "sequence_id",
        )
        shared = inputs()
        shared[0].set_shared_memory("region", 4)
        refused(Refused, lambda: server.infer("every", shared), "shared_memory_region")


def check_what_says_how_is_taken(http: str, grpc: str) -> None:
    with client(grpc) as server:
        result = server.infer(
            "every",
            inputs(),
            priority=3,
            timeout=30_000_000,
            client_timeout=30,
            headers={"x-request-id": "from-the-header"},
            parameters={"anything": "else"},
        )
        assert result.get_response().id == "from-the-header"


def check_mistakes(http: str, grpc: str) -> None:
    with client(grpc) as server:
        refused(Refused, lambda: server.infer("nothing", inputs()), *UNKNOWN)
        refused(Refused, lambda: server.infer("every", inputs(), "8"), *UNKNOWN)
        refused(Refused, lambda: server.infer("every", inputs()[:-1]), "missing", "INVALID")
        wrong = inputs()
        wrong[0] = triton.InferInput("bool", [1, 3], "BOOL")
        wrong[0].set_data_from_numpy(np.ones((1, 3), np.bool_))
        refused(Refused, lambda: server.infer("every", wrong), "does not fit", "INVALID")


def check_statistics(http: str, grpc: str) -> None:
    with client(grpc) as server:
        before = server.get_inference_statistics("every", "1").model_stats[0]
        for _ in range(5):
            server.infer("every", inputs())
        refused(Refused, lambda: server.infer("every", inputs()[:-1]))
        after = server.get_inference_statistics("every").model_stats[0]
        assert (after.name, after.version) == ("every", "1")
        assert after.inference_count - before.inference_count == 10
        assert after.execution_count - before.execution_count == 5
        old, new = before.inference_stats, after.inference_stats
        assert new.success.count - old.success.count == 5
        assert new.fail.count - old.fail.count == 1
        assert 0 < new.compute_infer.ns - old.compute_infer.ns < new.success.ns - old.success.ns
        assert sum(b.compute_infer.count for b in after.batch_stats) == after.execution_count
        assert len(server.get_inference_statistics().model_stats) == 1
        refused(Refused, lambda: server.get_inference_statistics("nothing"), *UNKNOWN)


def check_repository(http: str, grpc: str) -> None:
    with client(grpc) as server:
        models = server.get_model_repository_index().models
        assert ("every", "READY") in [(model.name, model.state) for model in models]
        refused(Refused, lambda: server.load_model("nothing"))
        refused(Refused, lambda: server.unload_model("nothing"))
        assert server.is_model_ready("every")


def check_extensions_that_are_not_there(http: str, grpc: str) -> None:
    with client(grpc) as server:
        for call in (
            server.get_trace_settings,
            lambda: server.update_trace_settings(settings={"trace_rate": "1"}),
            server.get_log_settings,
            lambda: server.update_log_settings({"log_info": True}),
            server.get_system_shared_memory_status,
            lambda: server.register_system_shared_memory("a", "/a", 10),
            server.unregister_system_shared_memory,
            server.get_cuda_shared_memory_status,
            server.unregister_cuda_shared_memory,
        ):
            refused(Refused, call, "UNIMPLEMENTED")


if __name__ == "__main__":
    main(globals())
