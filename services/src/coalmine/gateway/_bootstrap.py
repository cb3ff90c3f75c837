"""Envoy's static configuration: one listener, one cluster for every arm, the admin port.

Everything that changes while it runs is in the routes (`_routes`); a restarted Envoy reads the same
two files and comes up with the weights that were applied last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from coalmine.arms import Arm
from coalmine.gateway._files import write_atomically
from coalmine.gateway._plan import RoutePlan
from coalmine.gateway._routes import ROUTE_CONFIG, routes_file, write_routes
from coalmine.spec import LimitsSpec, RoutingSpec

__all__ = ["NO_MODEL", "STAT_PREFIX", "bootstrap_file", "write_bootstrap"]

#: The plan of a gateway that was never told anything.
NO_MODEL = RoutePlan(decision_id="none", weights={})
STAT_PREFIX = "gateway"

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_PROTOCOLS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
#: Envoy's own limits (1024 connections, 3 concurrent retries) would fail requests that the arms'
#: admission control (429) is there to judge.
_NO_LIMIT = 1_000_000


def bootstrap_file(directory: Path) -> Path:
    """The file to start Envoy with, below the gateway's directory."""
    return directory / "bootstrap.yaml"


def write_bootstrap(
    directory: Path,
    *,
    gateway_port: int,
    admin_port: int,
    arm_ports: Mapping[Arm, int],
    routing: RoutingSpec,
    max_body: int | None = None,
) -> Path:
    """Write what Envoy starts with, and return the file.

    The routes of an earlier run stay; without them, every request is answered 503 until the first
    plan. `max_body` (bytes, by default that of `LimitsSpec`) is the largest request that is taken.
    """
    limit = LimitsSpec().max_body if max_body is None else max_body
    routes_file(directory).parent.mkdir(parents=True, exist_ok=True)
    if not routes_file(directory).exists():
        write_routes(directory, NO_MODEL, routing)
    bootstrap = {
        "node": {"id": "gateway", "cluster": "coalmine"},
        "admin": {"address": _address(admin_port)},
        "static_resources": {
            "listeners": [_listener(directory, port=gateway_port, max_body=limit)],
            "clusters": [_cluster(arm, port, limit) for arm, port in arm_ports.items()],
        },
    }
    path = bootstrap_file(directory)
    write_atomically(path, yaml.safe_dump(bootstrap, sort_keys=False).encode())
    return path


def _listener(directory: Path, *, port: int, max_body: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "codec_type": "AUTO",
        "generate_request_id": False,
        "use_remote_address": False,
        "http2_protocol_options": _http2(max_body),
        "rds": {"route_config_name": ROUTE_CONFIG, "config_source": _routes_source(directory)},
        "local_reply_config": _local_replies(),
        "access_log": [_log_of_failures()],
        "http_filters": [
            # A whole request is held before an arm sees it, so that it can be sent again; a longer
            # one is refused with 413.
            {
                "name": "envoy.filters.http.buffer",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}.filters.http.buffer.v3.Buffer",
                    "max_request_bytes": max_body,
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "gateway",
        "address": _address(port),
        # Two gateways on one port would share its callers silently.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": max_body,
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _cluster(arm: Arm, port: int, max_body: int) -> dict[str, Any]:
    limits = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries"), _NO_LIMIT
    )
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": arm.value,
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": max_body,
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": arm.value, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            _PROTOCOLS: {
                "@type": f"type.googleapis.com/{_PROTOCOLS}",
                "use_downstream_protocol_config": {
                    "http_protocol_options": {},
                    "http2_protocol_options": _http2(max_body),
                },
            }
        },
    }


def _http2(max_body: int) -> dict[str, Any]:
    # HTTP/2 takes windows from 64 KiB to 2 GiB; the stream's is also the limit of its buffer.
    window = min(max(max_body, 65_536), 2**31 - 1)
    return {"initial_stream_window_size": window, "initial_connection_window_size": window}


def _routes_source(directory: Path) -> dict[str, Any]:
    file = routes_file(directory).absolute()
    watched = {"path": str(file.parent)}
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(file), "watched_directory": watched},
    }


def _local_replies() -> dict[str, Any]:
    """What Envoy answers itself is JSON, as every error of a model server is; gRPC has its own."""
    header = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    as_it_is = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    return {
        "mappers": [
            {"filter": {"header_filter": {"header": header}}, "body_format_override": as_it_is}
        ],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _log_of_failures() -> dict[str, Any]:
    status = {
        "op": "GE",
        "value": {"default_value": 500, "runtime_key": "coalmine.access_log.status"},
    }
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "arm": "%UPSTREAM_CLUSTER%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "duration_ms": "%DURATION%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": {"status_code_filter": {"comparison": status}},
        "typed_config": {
            "@type": f"{_EXTENSIONS}.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": fields},
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
