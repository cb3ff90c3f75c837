"""Locust users: vehicles that upload battery windows over V1, V2 JSON and gRPC.

    locust -f loadtests/src/coalmine_loadtests/users.py --host http://127.0.0.1:8080 \\
        --headless --users 20 --run-time 60s

Every user is a vehicle (`x-vehicle-id`), so the gateway keeps it on one arm. An answer that
holds no prediction for every window is a failure, whatever its status.
"""

from __future__ import annotations

import random
import time
import uuid
from argparse import ArgumentParser
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.experimental.gevent
from locust import FastHttpUser, User, constant_throughput, events, task

from coalmine.demo.client import (
    GRPC_METHOD,
    WireError,
    grpc_answer,
    http_path,
    v1_answer,
    v2_answer,
)
from coalmine_loadtests._payloads import Payload, battery_payloads

__all__ = ["GrpcVehicle", "V1Vehicle", "V2Vehicle"]

_PAYLOADS = 64
_READERS = {"v1": v1_answer, "v2": v2_answer}

# Locust runs its users in gevent, and gRPC's core must be told before the first channel is opened.
grpc.experimental.gevent.init_gevent()


def _add_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("battery uploads")
    group.add_argument("--model", default="ev-battery", help="name of the served model")
    group.add_argument("--windows", type=int, default=8, help="windows of one upload")
    group.add_argument("--uploads-per-s", type=float, default=2.0, help="of one vehicle, at most")
    group.add_argument("--fleet-seed", type=int, default=0, help="of the simulated fleet")


# Locust gives its hooks no types.
_parser_hook: Any = events.init_command_line_parser
_parser_hook.add_listener(_add_options)


@cache
def _payloads(model: str, windows: int, seed: int) -> tuple[Payload, ...]:
    return battery_payloads(_PAYLOADS, model=model, windows=windows, seed=seed)


def _options(user: User) -> Any:
    return user.environment.parsed_options


def _pick(user: User) -> tuple[Payload, dict[str, str]]:
    options = _options(user)
    payload = random.choice(_payloads(options.model, options.windows, options.fleet_seed))
    return payload, {"x-request-id": str(uuid.uuid4()), "x-vehicle-id": payload.vehicle}


def _wait(user: User) -> float:
    wait: float = constant_throughput(_options(user).uploads_per_s)(user)
    return wait


class _HttpVehicle(FastHttpUser):
    abstract = True
    wait_time = _wait
    protocol: str

    def upload(self) -> None:
        """One request, failed unless it answers every window."""
        options = _options(self)
        payload, headers = _pick(self)
        headers["content-type"] = "application/json"
        path = http_path(options.model, "v1" if self.protocol == "v1" else "v2")
        client: Any = self.client  # it says that a body is text; bytes are as good
        with client.post(
            path,
            data=payload.bodies[self.protocol],
            headers=headers,
            name=self.protocol,
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            try:
                labels = _READERS[self.protocol](response.content)
            except WireError as error:
                response.failure(str(error))
                return
            if len(labels) != options.windows:
                response.failure(f"{len(labels)} predictions for {options.windows} windows")


class V1Vehicle(_HttpVehicle):
    """KServe V1 JSON."""

    protocol = "v1"

    @task
    def send(self) -> None:
        """Upload once."""
        self.upload()


class V2Vehicle(_HttpVehicle):
    """V2 JSON."""

    protocol = "v2"

    @task
    def send(self) -> None:
        """Upload once."""
        self.upload()


class GrpcVehicle(User):
    """V2 over gRPC with raw contents; the host is the same as for HTTP."""

    wait_time = _wait

    def on_start(self) -> None:
        """Open the connection."""
        address = urlsplit(self.host).netloc
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._call = self._channel.unary_unary(GRPC_METHOD)

    def on_stop(self) -> None:
        """Close the connection."""
        self._channel.close()

    @task
    def send(self) -> None:
        """Upload once."""
        payload, headers = _pick(self)
        problem: Exception | None = None
        answer = b""
        started = time.perf_counter()
        try:
            answer = self._call(
                payload.bodies["grpc"], timeout=30.0, metadata=tuple(headers.items())
            )
            took = time.perf_counter() - started
            if len(grpc_answer(answer)) != _options(self).windows:
                problem = WireError("not a prediction for every window")
        except (grpc.RpcError, WireError) as error:
            took = time.perf_counter() - started
            problem = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name="grpc",
            response_time=1e3 * took,
            response_length=len(answer),
            exception=problem,
            context={},
        )
