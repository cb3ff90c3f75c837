"""Small networks written to a file, and asked over two protocols at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


def save(path: Path, graph: Any, opset: int = 17) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def graph(nodes: Any, inputs: Any, outputs: Any, initializers: Any = ()) -> Any:
    info = helper.make_tensor_value_info
    return helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "g",
        [info(*each) for each in inputs],
        [info(*each) for each in outputs],
        list(initializers),
    )


def infer(served: Any, name: str, *inputs: tuple[str, str, Any]) -> dict[str, Any]:
    """Answers by name, over binary HTTP and over gRPC, which must agree."""
    answers = []
    for client in (triton_http, triton_grpc):
        with client.InferenceServerClient(f"127.0.0.1:{served.port}") as triton:
            tensors = []
            for tensor, datatype, array in inputs:
                tensors.append(client.InferInput(tensor, list(array.shape), datatype))
                tensors[-1].set_data_from_numpy(array)
            result = triton.infer(name, tensors)
            response = result.get_response()
            found = response["outputs"] if isinstance(response, dict) else response.outputs
            names = [o["name"] if isinstance(o, dict) else o.name for o in found]
            answers.append({each: result.as_numpy(each) for each in names})
    assert answers[0].keys() == answers[1].keys()
    for each in answers[0]:
        np.testing.assert_array_equal(answers[0][each], answers[1][each])
    return answers[0]
