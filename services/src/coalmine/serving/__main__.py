"""`python -m coalmine.serving`: a model server without the rest of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from coalmine.arms import Arm
from coalmine.serving._options import InlineKindName, NonFiniteKind, ServeOptions, ServerKind
from coalmine.serving._serve import serve

_HELP = {
    "name": "name in URLs and records (default: the model card's)",
    "host": "address to listen on",
    "port": "port to listen on; 0 for any free one",
    "grpc_port": "port of gRPC with --server uvicorn, which has no HTTP/2",
    "arm": "role of this model version: " + ", ".join(Arm),
    "version": "version of the models (default: their source's, or 1, 2, ... as content changes)",
    "watch": "seconds between two looks for new versions and models; 0: load only when asked",
    "transformer": "package.module:Class of a transformer to run in this process",
    "records": "base URL of the collector (default: no records)",
    "spool": "directory where records wait for the collector",
    "server": "pyvoy (HTTP/1.1, HTTP/2 and gRPC on one port) or uvicorn",
    "processes": "server processes that share the port; started again when they die",
    "threads": "ONNX Runtime's threads; 0 for all the CPUs that affinity and quota leave",
    "providers": "execution providers in the order to try: tensorrt,cuda,cpu",
    "require_gpu": "refuse to run on the CPU",
    "device": "number of the GPU, as CUDA counts them",
    "gpu_memory_limit": "bytes of GPU memory for the network; 0 for all there is",
    "gpu_batch_rows": "largest batch on a GPU",
    "cuda_graphs": "record each batch size once and replay it",
    "tensorrt_cache": "directory for TensorRT's engines (default: built at each start)",
    "fp16": "let TensorRT compute in half precision",
    "non_finite": "what inputs may hold: missing (NaN or null, a missing value), allow (infinity "
    "too) or reject (neither)",
    "max_body": "bytes of one request",
    "max_connections": "connections at once, of each process",
    "receive_timeout": "seconds in which a request must have come as a whole",
    "max_concurrency": "requests at once",
    "inline": "run batches on the event loop: auto (if cheaper than another thread), always, never",
    "max_batch_rows": "rows run at once",
    "max_batch_bytes": "bytes of requests run at once",
    "max_queue_rows": "rows waiting for the model",
    "max_queue_bytes": "bytes of requests waiting for the model",
    "request_timeout": "seconds a request may take (default: as the client says)",
    "max_spool": "bytes of records kept while the collector is away",
    "drain": "seconds that requests in flight have to finish after SIGTERM",
}
_CHOICES = {
    "server": get_args(ServerKind),
    "non_finite": get_args(NonFiniteKind),
    "inline": get_args(InlineKindName),
}
_TYPES: dict[str, Callable[[str], Any]] = {
    "arm": Arm,
    "spool": Path,
    "tensorrt_cache": Path,
    "providers": lambda text: tuple(text.split(",")),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m coalmine.serving",
        description="Serve one ONNX model over HTTP (V1, V2) and gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        nargs="+",
        metavar="[NAME=]MODEL_URI",
        help="model directory, .onnx file, directory of numbered versions or of several models; "
        "several times, each with NAME=",
    )
    for field in dataclasses.fields(ServeOptions):
        if field.name in ("model", "also"):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        text = _HELP[field.name]
        if field.default is False:
            parser.add_argument(flag, action="store_true", help=text)
            continue
        by_annotation = {"int": int, "int | None": int, "float": float, "float | None": float}
        kind = _TYPES.get(field.name) or by_annotation.get(str(field.type), str)
        choices = _CHOICES.get(field.name)
        parser.add_argument(flag, type=kind, default=field.default, choices=choices, help=text)
    return parser


def main() -> int:
    """Run the command; the exit status."""
    given = vars(_parser().parse_intermixed_args())
    model, *also = given.pop("model")
    return serve(ServeOptions(model=model, also=tuple(also), **given))


if __name__ == "__main__":
    sys.exit(main())
