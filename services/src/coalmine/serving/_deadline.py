"""How long a request may take: the shortest of what the client, the gateway and the server say."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["header_timeout"]

#: The second is what our own Envoy leaves of the first (`_pyvoy`).
_ENVOY = (b"x-envoy-expected-rq-timeout-ms", b"x-coalmine-timeout-ms")
_GRPC = b"grpc-timeout"
_NAMES = frozenset((*_ENVOY, _GRPC))
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_DIGITS = 8


def header_timeout(headers: Mapping[bytes, bytes]) -> float:
    """Seconds that the headers leave, from the arrival of the request; infinite if they are silent.

    `grpc-timeout` is of the gRPC protocol, `x-envoy-expected-rq-timeout-ms` is how Envoy tells an
    upstream how long it will wait. What is neither is passed over, as Envoy and gRPC do.

    >>> header_timeout({b"grpc-timeout": b"250m", b"x-envoy-expected-rq-timeout-ms": b"15000"})
    0.25
    """
    if _NAMES.isdisjoint(headers):
        return math.inf
    left = math.inf
    for name in _ENVOY:
        if (value := headers.get(name)) is not None and value.isdigit() and len(value) <= _DIGITS:
            left = min(left, int(value) / 1000 or math.inf)  # Envoy's 0 is: no timeout
    if (value := headers.get(_GRPC)) is not None:
        amount, unit = value[:-1], _UNITS.get(value[-1:])
        if unit is not None and amount.isdigit() and len(amount) <= _DIGITS:
            left = min(left, int(amount) * unit)
    return left
