"""Malformed requests, from a seed: what is sent, never what should come back."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .trees import corrupt, dump, mutate, valid_v1, valid_v2

__all__ = ["V2_PATH", "Post", "grpc_request", "http_post"]

Rng = random.Random
V2_PATH = "/v2/models/mixed/infer"
V1_PATH = "/v1/models/mixed:predict"


@dataclass(frozen=True)
class Post:
    """One HTTP request with a body whose length is told truly."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"

    def wire(self) -> bytes:
        """The bytes of HTTP/1.1."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "host: fuzz"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


def _json_post(rng: Rng) -> Post:
    first = rng.random() < 0.4
    tree = valid_v1(rng) if first else valid_v2(rng)
    body = dump(mutate(rng, tree))
    if rng.random() < 0.15:
        body = corrupt(rng, body)
    return Post(V1_PATH if first else V2_PATH, body)


def _binary_post(rng: Rng) -> Post:
    content = valid_v2(rng)
    blobs = []
    for item in content["inputs"]:
        if rng.random() < 0.7:
            blob = _raw(item["datatype"], item.pop("data"))
            size: Any = len(blob)
            if rng.random() < 0.12:
                size = rng.choice(
                    [size + 1, size - 1, 0, -1, 2**31, 2**64, str(size), 1.5, None, []]
                )
            if rng.random() < 0.08:
                blob = corrupt(rng, blob)
            item["parameters"] = {"binary_data_size": size}
            blobs.append(blob)
    if rng.random() < 0.4:
        content = mutate(rng, content)
    head = dump(content)
    length: Any = len(head)
    if rng.random() < 0.25:
        length = rng.choice(
            [
                length + 1,
                length - 1,
                0,
                -1,
                10**9,
                10**30,
                "",
                "abc",
                "1e3",
                f" {length}",
                f"+{length}",
                f"{length}, {length}",
                "\u00b2",
                f"0x{length:x}",
                len(head) + sum(map(len, blobs)),
            ]
        )
    body = head + b"".join(blobs)
    if rng.random() < 0.1:
        body = corrupt(rng, body)
    if rng.random() < 0.1:
        body += rng.randbytes(rng.choice([1, 100, 100_000]))
    return Post(V2_PATH, body, (("Inference-Header-Content-Length", str(length)),))


def _raw(datatype: str, data: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text.encode() for text in data)
    kinds = {"FP32": "f4", "FP16": "f2", "INT64": "i8", "UINT8": "u1", "BOOL": "?"}
    return np.array(data, dtype=kinds[datatype]).tobytes()


_HEADER_VALUES = (
    "",
    "gzip",
    "deflate",
    "br",
    "gzip, gzip",
    "identity",
    "\xff\xfe",
    "a" * 5000,
    "0",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/grpc",
    "application/json; charset=utf-16",
    "text/plain",
    "*/*;q=nan",
    "00-0-0-0",
    "-1",
    f"00-{'f' * 32}-{'0' * 16}-01",
    "bytes=0-1",
    "trailers",
    "%00",
    "1e9",
    "1S",
    "9" * 30,
)
_HEADERS = (
    "content-type",
    "content-encoding",
    "accept",
    "accept-encoding",
    "x-request-id",
    "ce-id",
    "traceparent",
    "tracestate",
    "authorization",
    "te",
    "grpc-timeout",
    "grpc-encoding",
    "x-forwarded-for",
    "x-coalmine-arm",
    "range",
    "cookie",
    "if-none-match",
)
_PATHS = (
    "/v2/models/mixed/versions/1/infer",
    "/v2/models/mixed/versions/9/infer",
    "/v2/models//infer",
    "/v2/models/other/infer",
    "/v2/models/%00/infer",
    "/v2/models/m%69xed/infer",
    "/v2/models/mixed/infer/",
    "/v2/models/mixed/infer?a=b&a=%ff",
    "/v1/models/mixed:explain",
    "/v1/models/:predict",
    "/v1/models/mixed/versions/1:predict",
    "//v2/models/mixed/infer",
    "/v2/models/mixed/../mixed/infer",
    "/v2/models/" + "x" * 3000 + "/infer",
    "/v2/repository/x",
    "/v2/models/mixed/generate",
    "/nothing",
    "/v2/models/mixed/versions//infer",
    "/v2/health/live",
    "/v2/models/\xff\xfe/infer",
    "/v2/models/%ff/infer",
    "/v2%bb",
    "/v2/models/%ED%A0%80",
    "/v2/models/%C3%A4/infer",
    "/v2/models/%zz/infer",
    "/metrics",
    "/v2/models/mixed/config",
    "/v2/models/mixed/stats",
    "/v2/models/mixed/versions/1/stats",
    "/v2/models/stats",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/status",
    "/v2/cudasharedmemory/status",
    "/openapi.json",
    "/inference.GRPCInferenceService/ModelInfer",
    "/grpc.health.v1.Health/Check",
)


def _compressed(rng: Rng, body: bytes) -> Post:
    encoding = rng.choice(["gzip", "deflate"])
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    what = rng.randrange(5)
    if what == 0:
        packed = corrupt(rng, packed)
    elif what == 1:
        packed = gzip.compress(b" " * rng.choice([10, 4_000_000]))
    elif what == 2:
        packed = packed * 2
    return Post(V2_PATH, packed, (("content-encoding", encoding),))


def _header_post(rng: Rng) -> Post:
    body = dump(valid_v2(rng))
    if rng.random() < 0.35:
        return _compressed(rng, body)
    headers = tuple(
        (rng.choice(_HEADERS), rng.choice(_HEADER_VALUES)) for _ in range(rng.randrange(1, 5))
    )
    path = rng.choice(_PATHS) if rng.random() < 0.4 else rng.choice([V1_PATH, V2_PATH])
    method = rng.choice(
        ["POST", "POST", "POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]
    )
    return Post(path, body, headers, method)


def _frame_post(rng: Rng) -> Post:
    """gRPC's frames, and lies about them, over HTTP/1.1."""
    message = grpc_request(rng)
    flag = rng.choice([0, 0, 0, 1, 2, 255])
    length = rng.choice([len(message), len(message), 0, len(message) + 1, 2**31, 2**32 - 1])
    body = struct.pack(">BI", flag, length) + message
    body = rng.choice(
        [body, body, body * 2, body[: rng.randrange(len(body))], b"", corrupt(rng, body)]
    )
    headers = [("content-type", rng.choice(["application/grpc", "application/grpc+proto"]))]
    if flag or rng.random() < 0.3:
        headers.append(("grpc-encoding", rng.choice(["gzip", "deflate", "identity", "snappy", ""])))
    method = rng.choice(
        ["ModelInfer"] * 4 + ["ModelReady", "ServerLive", "ModelStreamInfer", "Nothing", ""]
    )
    return Post(f"/inference.GRPCInferenceService/{method}", body, tuple(headers))


_POSTS: tuple[tuple[Callable[[Rng], Post], int], ...] = (
    (_json_post, 60),
    (_binary_post, 22),
    (_header_post, 12),
    (_frame_post, 6),
)


def http_post(rng: Rng) -> Post:
    """One malformed request, whole on HTTP's own level."""
    makers, shares = zip(*_POSTS, strict=True)
    maker: Callable[[Rng], Post] = rng.choices(makers, shares)[0]
    return maker(rng)


def grpc_request(rng: Rng) -> bytes:
    """A ModelInferRequest with something wrong, or bytes that are none."""
    from coalmine.protocol.protobuf import message_class

    if rng.random() < 0.05:
        return rng.randbytes(rng.choice([0, 1, 5, 50, 500]))
    fields = {"BYTES": "bytes", "BOOL": "bool", "FP32": "fp32", "INT64": "int64", "UINT8": "uint"}
    request = message_class("ModelInferRequest")(
        model_name=rng.choice(["mixed"] * 20 + ["", "other"])
    )
    raw = rng.random() < 0.6
    for item in valid_v2(rng)["inputs"]:
        data, datatype = item["data"], item["datatype"]
        tensor = request.inputs.add(name=item["name"], datatype=datatype, shape=item["shape"])
        if raw:
            request.raw_input_contents.append(_raw(datatype, data))
        elif datatype in fields:
            if datatype == "BYTES":
                data = [text.encode() for text in data]
            getattr(tensor.contents, f"{fields[datatype]}_contents").extend(data)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        _damage(rng, request)
    payload: bytes = request.SerializeToString()
    return corrupt(rng, payload) if rng.random() < 0.3 else payload


def _damage(rng: Rng, request: Any) -> None:
    what = rng.randrange(8)
    tensor = rng.choice(request.inputs) if request.inputs else request.inputs.add()
    if what == 0:
        tensor.shape.append(rng.choice([0, 1, -1, 2**62, -(2**63)]))
    elif what == 1 and tensor.shape:
        tensor.shape[0] = rng.choice([0, -1, 2, 2**31, 2**62, -(2**63)])
    elif what == 2:
        tensor.datatype = rng.choice(["", "FP32", "fp32", "BF16", "STRING", "x" * 1000])
    elif what == 3:
        tensor.name = rng.choice(["", "features", "count", "\u0000", "x" * 1000])
    elif what == 4 and request.raw_input_contents:
        at = rng.randrange(len(request.raw_input_contents))
        request.raw_input_contents[at] = corrupt(rng, request.raw_input_contents[at])
    elif what == 5:
        request.raw_input_contents.append(rng.randbytes(rng.choice([0, 8, 1000])))
    elif what == 6:
        tensor.contents.fp32_contents.extend([float("inf")] * rng.choice([1, 4]))
    else:
        request.outputs.add(name=rng.choice(["", "text_out", "nothing"]))
