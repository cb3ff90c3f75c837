"""Large requests like the one before, on one connection: received in place, bounded, in order."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from .test_http1 import INFER, Wire, binary


def asleep(number: int, seconds: float) -> bytes:
    """A request of 2,000 rows for `Moody`, which takes its time with it."""
    arrays = [np.zeros((2000, 4), np.float32), np.full(2000, seconds, np.float32)]
    inputs = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in zip(("raw", "wait"), arrays, strict=True)
    ]
    head = json.dumps({"id": f"r{number}", "inputs": inputs}).encode()
    body = b"".join((head, *(array.tobytes() for array in arrays)))
    fields = b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
    return INFER + fields % (len(head), len(body)) + body


def test_a_request_waits_for_the_answer_before_it(start: Any, model_dir: Path) -> None:
    served = start(model_dir, "--transformer", "moody:Moody")
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        wire = Wire(connection)
        for number in range(3):
            connection.sendall(asleep(number, 0.0))
            assert wire.answer()[1]["x-request-id"] == f"r{number}"
        for number in range(3, 7):  # each comes while the one before is run, or refused at once
            request = asleep(number, 0.2)
            connection.sendall(request if number % 2 else request.replace(b'"raw"', b'"row"'))
            time.sleep(0.02)  # to be read by itself, as what is in place is
        assert [wire.answer()[0] for _ in range(3, 7)] == [200, 400, 200, 400]


def test_what_arrives_is_bounded_however_it_is_received(start: Any, model_dir: Path) -> None:
    served = start(model_dir, "--max-queue-bytes", "1000000")
    request, _ = binary(40_000, 3)  # 640 KB
    address = ("127.0.0.1", served.port)
    with (
        socket.create_connection(address, timeout=20) as again,
        socket.create_connection(address, timeout=20) as other,
    ):
        wire = Wire(again)
        for _ in range(5):
            again.sendall(request)
            assert wire.answer()[0] == 200
        again.sendall(request[:600_000])  # a part that counts, as each of those did
        large, _ = binary(80_000, 3)
        other.sendall(large[:600_000])
        status, headers, body = Wire(other).answer()
        assert (status, headers["connection"]) == (503, "close"), body
        again.sendall(request[600_000:])
        assert wire.answer()[0] == 200
