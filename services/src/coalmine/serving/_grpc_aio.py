"""gRPC on a port of its own, for a server that has no HTTP/2: the same edge behind grpc.aio."""

from __future__ import annotations

import struct
from typing import Any
from urllib.parse import unquote

import grpc

from coalmine.serving._asgi import Edge, Message
from coalmine.serving._errors import StartupError
from coalmine.serving._grpc import HEALTH, SERVICE

__all__ = ["start_grpc"]

_FRAME = struct.Struct(">BI")
_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def start_grpc(edge: Edge, *, host: str, port: int, max_body: int, share_port: bool) -> Any:
    """Start a grpc.aio server; the caller stops it. StartupError if the port is taken."""
    server = grpc.aio.server(
        options=[
            # The edge refuses what is too large; gRPC's own limit lies a little above.
            ("grpc.max_receive_message_length", max_body + 1024),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(share_port)),
        ]
    )
    server.add_generic_rpc_handlers((_Handler(edge),))
    try:
        server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {host}:{port}; --grpc-port names another") from error
    await server.start()
    return server


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc] # gRPC has no type information
    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def service(self, details: Any) -> Any:
        path: str = details.method
        if not path.startswith(SERVICE) and path != HEALTH:
            return None

        async def answer(payload: bytes, context: Any) -> bytes:
            return await _call(self._edge, path, payload, context)

        return grpc.unary_unary_rpc_method_handler(answer)


async def _call(edge: Edge, path: str, payload: bytes, context: Any) -> bytes:
    headers = [(key.encode(), _raw(value)) for key, value in context.invocation_metadata()]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": _FRAME.pack(0, len(payload)) + payload}

    async def send(message: Message) -> None:
        sent.append(message)

    await edge({"path": path, "headers": headers}, receive, send)
    fields = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    status = int(fields.pop("grpc-status", "0"))
    reason = fields.pop("grpc-message", "")
    for name in ("content-type", "grpc-accept-encoding"):
        del fields[name]
    await context.send_initial_metadata(tuple(fields.items()))
    if status:
        await context.abort(_CODES[status], unquote(reason))
    body: bytes = sent[1]["body"]
    return body[_FRAME.size :]


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
