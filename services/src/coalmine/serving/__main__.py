"""`coalmine serve` (`python -m coalmine.serving`): the command line of the model server."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from coalmine.arms import Arm
from coalmine.serving._arguments import Parser, number
from coalmine.serving._bounds import BOUNDS
from coalmine.serving._options import (
    InlineKindName,
    NonFiniteKind,
    ProviderName,
    ServeOptions,
    ServerKind,
)
from coalmine.serving._serve import serve

__all__ = ["main"]

_MODEL_HELP = (
    "a model directory, an .onnx file, a directory of numbered versions or of several models, "
    "package.module:Class of a Predictor, or a URI: models:/NAME/VERSION, models:/NAME@ALIAS, "
    "runs:/ID/PATH, s3://, gs://, hf://OWNER/REPOSITORY, https://; #sha256=... after it checks the "
    "content; several times, each with NAME="
)
_EPILOG = """examples:
  coalmine serve model.onnx --processes 4
  coalmine serve my_model:Mean                      a class of your own in my_model.py
  coalmine serve models:/fraud@champion             from MLflow (MLFLOW_TRACKING_URI)
  coalmine serve s3://models/fraud/3 --name fraud --port 9000
  coalmine serve fraud=models/fraud churn=models/churn --watch 5
  coalmine serve model.onnx --records sqlite:///records.db

Then:  curl localhost:8080/v1/models/model:predict -d '{"instances": [[1, 2, 3, 4]]}'
"""
_GROUPS: dict[str, dict[str, str]] = {
    "model": {
        "name": "name in URLs and records (default: the model card's, or the file's)",
        "version": "version (default: the registry's, or 1, 2, ... as content changes)",
        "transformer": "package.module:Class of a transformer to run in this process",
        "artefact": "file the transformer was fitted with (default: the model's transformer.json)",
        "model_cache": "directory for what is fetched (default: below the user's cache directory)",
        "watch": "seconds between two looks for new versions and models; 0: load only when asked",
        "non_finite": "what inputs may hold: missing (NaN or null, a missing value), allow "
        "(infinity too) or reject (neither)",
    },
    "address": {
        "host": "address to listen on",
        "port": "port to listen on; 0 for any free one",
        "grpc_port": "port of gRPC with --server uvicorn, which has no HTTP/2",
    },
    "records": {
        "records": "where a record of each instance goes: sqlite:///FILE, http://HOST:PORT of a "
        "collector, or off",
        "spool": "directory where records wait on the way (default: next to the SQLite file, or in "
        "the user's state directory)",
        "max_spool": "bytes of records kept while nobody takes them; more are dropped and counted",
        "arm": "role of this model version",
        "caller_header": "header that says who calls: records tell callers apart, by 12 bits of a "
        "salted hash of it",
    },
    "limits": {
        "max_body": "bytes of one request; more is answered 413",
        "max_connections": "connections at once, of each process",
        "receive_timeout": "seconds in which a request must have come as a whole",
        "max_concurrency": "requests at once; more are answered 429",
        "max_queue_rows": "rows waiting for the model; more are answered 503",
        "max_queue_bytes": "bytes of requests waiting for the model; more are answered 503",
        "request_timeout": "seconds a request may take (default: as the client says, or any)",
        "drain": "seconds that requests in flight have to finish after SIGTERM",
    },
    "batching": {
        "inline": "run batches on the event loop: auto (if cheaper than another thread), always, "
        "never",
        "max_batch_rows": "rows run at once",
        "max_batch_bytes": "bytes of requests run at once",
    },
    "runtime": {
        "threads": "ONNX Runtime's threads; 0 for all the CPUs that affinity and quota leave",
        "providers": "execution providers in the order to try: tensorrt,cuda,cpu",
        "require_gpu": "refuse to run on the CPU",
        "device": "number of the GPU, as CUDA counts them",
        "gpu_memory_limit": "bytes of GPU memory for the network; 0 for all there is",
        "gpu_batch_rows": "largest batch on a GPU",
        "cuda_graphs": "record each batch size once and replay it",
        "tensorrt_cache": "directory for TensorRT's engines (default: built at each start)",
        "fp16": "let TensorRT compute in half precision",
    },
    "processes": {
        "server": "native or pyvoy (by Envoy): HTTP/1.1, HTTP/2 and gRPC on one port; uvicorn: "
        "HTTP/1.1, and gRPC on --grpc-port",
        "processes": "server processes that share the port; started again when they die",
        "hang_timeout": "seconds after which one of several processes that does not answer is "
        "killed and replaced",
    },
}
_CHOICES = {
    "arm": tuple(map(str, Arm)),
    "server": get_args(ServerKind),
    "non_finite": get_args(NonFiniteKind),
    "inline": get_args(InlineKindName),
}


def _providers(text: str) -> tuple[str, ...]:
    allowed = get_args(ProviderName)
    named = tuple(word.strip() for word in text.split(","))
    if not set(named) <= set(allowed) or len(set(named)) < len(named):
        raise argparse.ArgumentTypeError(f"{text!r}: each once, of: {', '.join(allowed)}")
    return named


_TYPES: dict[str, Callable[[str], Any]] = {
    "artefact": Path,
    "model_cache": Path,
    "spool": Path,
    "tensorrt_cache": Path,
    "providers": _providers,
    **{name: number(name) for name in BOUNDS},
}


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Examples as they are written; defaults, where the text does not say them itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.help or ""
        if action.default is None or action.default is False or "(default" in said:
            return said
        if isinstance(action.default, tuple):
            return f"{said} (default: {','.join(action.default)})"
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="coalmine serve",
        description="Serve models on KServe's protocols: HTTP V1 and V2, gRPC V2; metrics at "
        "/metrics of the same port.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="+", metavar="[NAME=]MODEL", help=_MODEL_HELP)
    fields = {field.name: field for field in dataclasses.fields(ServeOptions)}
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, text in options.items():
            field = fields[name]
            flag = f"--{name.replace('_', '-')}"
            if field.type == "bool":
                group.add_argument(flag, action="store_true", help=text)
                continue
            kind = _TYPES.get(name, str)
            metavar = None if name in _CHOICES else _metavar(name, str(field.type))
            group.add_argument(
                flag,
                type=kind,
                default=field.default,
                choices=_CHOICES.get(name),
                metavar=metavar,
                help=text,
            )
    return parser


def _metavar(name: str, annotation: str) -> str:
    by_name = {"records": "URL", "transformer": "CLASS", "caller_header": "HEADER"}
    if name in ("spool", "model_cache", "tensorrt_cache"):
        return "DIR"
    by_type = {"int": "N", "int | None": "N", "float": "SECONDS", "float | None": "SECONDS"}
    return by_name.get(name) or by_type.get(annotation) or name.upper()


def main() -> int:
    """Run the command; the exit status."""
    given = vars(_parser().parse_intermixed_args())
    model, *also = given.pop("model")
    given["arm"] = Arm(given["arm"])
    return serve(ServeOptions(model=model, also=tuple(also), **given))


if __name__ == "__main__":
    sys.exit(main())
