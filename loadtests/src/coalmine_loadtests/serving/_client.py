"""A client that reads every answer: it verifies before the load, and spot-checks under it."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Protocol

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._errors import WrongAnswerError
from coalmine_loadtests.serving._wire import Request

__all__ = ["Answer", "Client", "connect"]

#: Headers, in lower case, and content.
Answer = tuple[Mapping[str, str], bytes]

_TIMEOUT_S = 30.0


class Client(Protocol):
    """One connection."""

    def ask(self, request: Request) -> Answer:
        """The answer; `WrongAnswerError` when it is an error or none comes."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def connect(cell: Cell, *, http_port: int, grpc_port: int) -> Client:
    """A connection to a server on this machine, in the protocol of the cell."""
    return _Grpc(grpc_port) if cell.protocol == "grpc" else _Http(http_port)


class _Http:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)

    def ask(self, request: Request) -> Answer:
        try:
            self._connection.request("POST", request.path, request.body, dict(request.headers))
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise WrongAnswerError(f"no answer: {error!r}") from error
        if response.status != 200:
            raise WrongAnswerError(f"status {response.status}: {body[:300]!r}")
        return {name.lower(): value for name, value in response.getheaders()}, body

    def close(self) -> None:
        self._connection.close()


class _Grpc:
    def __init__(self, port: int) -> None:
        import grpc

        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        self._error = grpc.RpcError
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)

    def ask(self, request: Request) -> Answer:
        call = self._channel.unary_unary(request.path)
        try:
            return {}, call(request.body, timeout=_TIMEOUT_S)
        except self._error as error:
            raise WrongAnswerError(f"{error.code().name}: {error.details()}") from error

    def close(self) -> None:
        self._channel.close()
