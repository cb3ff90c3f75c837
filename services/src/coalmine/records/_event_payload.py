"""The body of a logged request or response, as far as JSON goes: it comes as it was on the wire.

That may be compressed, and KServe's logger drops `Inference-Header-Content-Length` from responses,
so where the JSON of a V2 body with binary tensors ends is seen: where its outermost brace closes.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from coalmine.records._cloudevents import Event

__all__ = ["Payload", "read_payload"]

#: What one may inflate to: as much as the collector takes at all.
_MAX_INFLATED = 64 * 1024**2
_GZIP = b"\x1f\x8b"
_EITHER = 47
"""For zlib: gzip's header or its own."""
_SPACE = b" \t\r\n"


@dataclass(frozen=True)
class Payload:
    """One side of a call: its JSON, and the tensors behind it."""

    content: dict[str, Any] = field(default_factory=dict)
    tail: bytes = b""
    wrong: str = ""


def read_payload(event: Event | None) -> Payload:
    """What is in an event; `wrong` says why there is nothing."""
    if event is None:
        return Payload()
    try:
        body = _inflated(event.payload)
        content, tail = _parted(body)
    except (ValueError, TypeError, RecursionError) as error:  # the latter of a thousand brackets
        return Payload(wrong=f"{event.kind}: {error}")
    if not isinstance(content, dict):
        return Payload(wrong=f"{event.kind}: not a JSON object")
    return Payload(content, tail)


def _inflated(body: bytes) -> bytes:
    """Without the compression that the client, or the model, chose; JSON never begins so."""
    is_zlib = body[:1] == b"\x78" and int.from_bytes(body[:2]) % 31 == 0
    if not (body.startswith(_GZIP) or is_zlib):
        return body
    stream = zlib.decompressobj(_EITHER)
    try:
        inflated = stream.decompress(body, _MAX_INFLATED)
    except zlib.error as error:
        raise ValueError(f"not what its compression says: {error}") from None
    if stream.unconsumed_tail:
        raise ValueError(f"it inflates to more than {_MAX_INFLATED} bytes")
    if not stream.eof:
        raise ValueError("it is compressed, and ends too early")
    return inflated


def _parted(body: bytes) -> tuple[Any, bytes]:
    """The JSON at the beginning, and what is behind it."""
    try:
        return orjson.loads(body), b""
    except orjson.JSONDecodeError as error:
        told = f"not JSON: {error}"
    # Latin-1 keeps the places of bytes; the text is read again as what it is.
    start = len(body) - len(body.lstrip(_SPACE))
    try:
        found, end = json.JSONDecoder().raw_decode(body.decode("latin-1"), start)
    except (ValueError, RecursionError):
        raise ValueError(told) from None
    try:
        content = orjson.loads(body[start:end])
    except orjson.JSONDecodeError:  # NaN, which some servers write for a missing number
        content = orjson.loads(orjson.dumps(json.loads(body[start:end])))
    return content, _tail(found, body[end:])


def _tail(content: Any, rest: bytes) -> bytes:
    """The binary tensors, of what follows the JSON: clients pad that to a round length."""
    if not isinstance(content, dict):
        return rest
    items = content.get("inputs") or content.get("outputs")
    size = 0
    for item in items if isinstance(items, list) else ():
        parameters = item.get("parameters") if isinstance(item, dict) else None
        told = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        size += told if type(told) is int and told >= 0 else 0
    pad = len(rest) - size
    return rest[pad:] if pad > 0 and not rest[:pad].strip(_SPACE) else rest
