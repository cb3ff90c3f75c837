"""LitServe: a LitAPI as its documents show it."""

import argparse
from typing import Annotated, Any

import fastapi
import litserve
import numpy as np
from fastapi import Response
from session import INPUT, open_session

Body = Annotated[bytes, fastapi.Body(media_type="application/octet-stream")]

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--columns", type=int, required=True)
parser.add_argument("--fast-queue", action="store_true")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--bytes", action="store_true")
arguments = parser.parse_args()


class Json(litserve.LitAPI):
    """`{"input": [[...]]}` in, `{"output": [[...]]}` out."""

    def setup(self, device: str) -> None:
        """Open the file, in the worker."""
        self._session = open_session(arguments.model)

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The rows of one request; without a type LitServe gives the JSON as it is."""
        return np.array(request["input"], np.float32)

    def predict(self, rows: Any) -> Any:
        """Rows in, rows out."""
        return self._session.run(None, {INPUT: rows})[0]

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """The rows of one answer."""
        return {"output": output.tolist()}


class Batched(Json):
    """One row a request, many requests a call: LitServe stacks and unstacks by these two."""

    def batch(self, inputs: list[Any]) -> Any:
        """One array of all requests."""
        return np.concatenate(inputs)

    def unbatch(self, output: Any) -> Any:
        """One row for each request."""
        return list(output[:, None])


class Bytes(Json):
    """The little-endian FP32 values of the rows, both ways."""

    def decode_request(self, request: Body) -> Any:
        """The rows of one request."""
        return np.frombuffer(request, "<f4").reshape(-1, arguments.columns)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """The rows of one answer."""
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    if arguments.bytes:
        api = Bytes(api_path="/predict_bytes")
    elif arguments.batch > 1:
        api = Batched(max_batch_size=arguments.batch, batch_timeout=0.0005)
    else:
        api = Json()
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=1, fast_queue=arguments.fast_queue, timeout=60
    )
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
