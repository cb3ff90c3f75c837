"""`coalmine transform`: a transformer as a service of its own, in front of its predictor.

It also takes the arguments that KServe's controller and documentation give a transformer's
container (`--model_name`, `--predictor_host`, ...), so that the same image does for both.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import get_args

from coalmine.arms import Arm
from coalmine.serving._arguments import Parser, number
from coalmine.serving._bounds import BOUNDS
from coalmine.serving._errors import StartupError
from coalmine.serving._options import ServeOptions, ServerKind
from coalmine.serving._serve import serve
from coalmine.serving._transformer_options import PredictorOptions

__all__ = ["main", "options_of"]

_EPILOG = (
    "Examples:  coalmine transform coalmine_transformers.battery:BatteryTransformer "
    "--name ev-battery --predictor http://localhost:8081   |   ... --predictor grpc://localhost:8081"
)


#: Options of any server, with what a transformer's own are to be told of them.
_LIMITS = {
    "max_body": "bytes of one request; more is answered 413",
    "max_concurrency": "requests at once; more are answered 429",
    "max_connections": "connections at once, of each process",
    "receive_timeout": "seconds in which a request must have come as a whole",
    "request_timeout": "seconds a request may take (default: as the client says, or any)",
    "drain": "seconds that requests in flight have to finish after SIGTERM",
}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="coalmine transform",
        description="Serve a transformer over HTTP (V1, V2) and gRPC, in front of a predictor.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("transformer", metavar="package.module:Class", help="the transformer")
    add("--artefact", type=Path, help="what it was fitted with: a file, or a directory with "
        "transformer.json")  # fmt: skip
    add("--name", "--model_name", required=True, help="name of the model, here and there")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--predictor", metavar="URL",
        help="http://HOST:PORT, https://, grpc:// or grpcs://")  # fmt: skip
    where.add_argument("--predictor_host", metavar="HOST[:PORT]", help="the same as KServe has it")
    add("--predictor-protocol", "--predictor_protocol", choices=("v1", "v2", "grpc-v2"),
        help="default: v2, or grpc-v2 with grpc://; with --predictor_host v1, as KServe has it"
    )  # fmt: skip
    add("--predictor_use_ssl", type=_boolean, default=False, metavar="true|false",
        help="with --predictor_host: TLS")  # fmt: skip
    add("--predictor-ca", metavar="FILE", help="authorities whose certificates are trusted, in "
        "PEM (default: of $REQUESTS_CA_BUNDLE or $SSL_CERT_FILE, or the system's)")  # fmt: skip
    add("--predictor-timeout", "--predictor_request_timeout_seconds",
        type=number("predictor_timeout"), default=60.0, metavar="SECONDS",
        help="for one request to the predictor (default: 60)")  # fmt: skip
    add("--predictor-retries", "--predictor_request_retries", type=number("predictor_retries"),
        default=0, metavar="N",
        help="how often to ask again if it refuses the connection or answers 503")  # fmt: skip
    add("--host", help="address to listen on (default: 127.0.0.1; with --predictor_host 0.0.0.0)")
    add("--port", "--http_port", type=number("port"), default=8080, metavar="PORT",
        help="port to listen on; 0 for any free one (default: 8080)")  # fmt: skip
    add("--grpc-port", "--grpc_port", type=number("grpc_port"), metavar="PORT",
        help="gRPC on a port of its own, by uvicorn; without it gRPC is on --port"
    )  # fmt: skip
    add("--server", choices=get_args(ServerKind),
        help="default: native; uvicorn with --grpc-port")  # fmt: skip
    add("--processes", "--workers", type=number("processes"), default=1, metavar="N",
        help="server processes that share the port (default: 1)")  # fmt: skip
    add("--arm", choices=tuple(map(str, Arm)), default=Arm.STABLE, metavar="ARM",
        help=f"{', '.join(Arm)}: role of this version, until a predictor of ours says its own"
    )  # fmt: skip
    add("--version", help="version of the model (default: the predictor's)")
    defaults = {field.name: field.default for field in dataclasses.fields(ServeOptions)}
    for option, text in _LIMITS.items():
        default = defaults[option]
        said = text if default is None else f"{text} (default: {default})"
        add(f"--{option.replace('_', '-')}", type=number(option), default=default,
            metavar="N" if BOUNDS[option].whole else "SECONDS", help=said)  # fmt: skip
    return parser


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def options_of(arguments: list[str]) -> ServeOptions:
    """The options that a command line stands for; StartupError for a wrong address."""
    given = _parser().parse_args(arguments)
    kserve = given.predictor_host is not None
    if kserve:
        predictor = PredictorOptions(
            host=given.predictor_host,
            protocol=given.predictor_protocol or "v1",
            ssl=given.predictor_use_ssl,
            ca=given.predictor_ca,
            timeout=given.predictor_timeout,
            retries=given.predictor_retries,
        )
    else:
        predictor = PredictorOptions.from_url(
            given.predictor,
            protocol=given.predictor_protocol,
            ca=given.predictor_ca,
            timeout=given.predictor_timeout,
            retries=given.predictor_retries,
        )
    predictor.check_authorities()
    return ServeOptions(
        model=predictor.url,
        name=given.name,
        host=given.host or ("0.0.0.0" if kserve else "127.0.0.1"),
        port=given.port,
        grpc_port=given.grpc_port,
        processes=given.processes,
        arm=Arm(given.arm),
        version=given.version,
        transformer=given.transformer,
        artefact=given.artefact,
        predictor=predictor,
        server=given.server or ("native" if given.grpc_port is None else "uvicorn"),
        **{option: getattr(given, option) for option in _LIMITS},
    )


def main() -> int:
    """Run the command; the exit status."""
    try:
        options = options_of(sys.argv[1:])
    except StartupError as error:
        print(f"coalmine transform: {error}", file=sys.stderr)
        return 2
    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
