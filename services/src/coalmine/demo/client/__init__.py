"""Clients of a served model in the three protocols, and the bytes they exchange.

They are written against the protocols' documents, not against the server's codec, so that what the
demo and the load tests measure is what a stranger's client would see. Nothing here imports FastAPI,
KServe or a generated protobuf module: a client costs a fraction of a millisecond per request.
"""

from coalmine.demo.client._clients import (
    Answer,
    Client,
    GatewayHealth,
    GrpcClient,
    HttpClient,
    NoAnswer,
    RequestFailed,
    Sent,
)
from coalmine.demo.client._wire import (
    GRPC_METHOD,
    WireError,
    grpc_answer,
    grpc_request,
    http_path,
    v1_answer,
    v1_request,
    v2_answer,
    v2_request,
)

__all__ = [
    "GRPC_METHOD",
    "Answer",
    "Client",
    "GatewayHealth",
    "GrpcClient",
    "HttpClient",
    "NoAnswer",
    "RequestFailed",
    "Sent",
    "WireError",
    "grpc_answer",
    "grpc_request",
    "http_path",
    "v1_answer",
    "v1_request",
    "v2_answer",
    "v2_request",
]
