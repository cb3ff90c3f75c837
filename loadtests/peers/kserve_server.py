"""Stock KServe: a custom predictor as the documents of KServe's Python SDK show it."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import kserve
from kserve import InferOutput, InferRequest, InferResponse
from kserve.utils.utils import generate_uuid
from session import INPUT, OUTPUT, open_session


class OnnxModel(kserve.Model):
    """One ONNX file."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._path = path
        self._session: Any = None

    def load(self) -> bool:
        """Open the file."""
        self._session = open_session(self._path)
        self.ready = True
        return True

    def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:
        """Arrays in, arrays out."""
        (result,) = self._session.run(None, {INPUT: payload.inputs[0].as_numpy()})
        asked = payload.request_outputs or []
        binary = payload.use_binary_outputs or any(output.binary_data for output in asked)
        output = InferOutput(name=OUTPUT, shape=list(result.shape), datatype="FP32")
        output.set_data_from_numpy(result, binary_data=bool(binary or payload.from_grpc))
        return InferResponse(
            # None is answered 500 in JSON; KServe's own helper makes one too.
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=[output],
            requested_outputs=payload.request_outputs,
            use_binary_outputs=payload.use_binary_outputs or payload.from_grpc,
        )


parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
parser.add_argument("--model", required=True)
parser.add_argument("--quiet", action="store_true")
arguments, _ = parser.parse_known_args()

if __name__ == "__main__":
    model = OnnxModel(arguments.model_name, arguments.model)
    model.load()
    server = kserve.ModelServer(
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        workers=1,
        enable_latency_logging=arguments.enable_latency_logging,
        access_log_format=None,
    )
    if arguments.quiet:
        for name in ("kserve", "kserve.trace", "uvicorn.access", "uvicorn.error"):
            logging.getLogger(name).setLevel(logging.WARNING)
    server.start([model])
