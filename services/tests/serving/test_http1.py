"""HTTP/1.1 on one connection: requests in pieces, in a row, too large, abandoned."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalmine.serving._http1_again import KnownHead
from coalmine.serving._http_call import Route

INFER = b"POST /v2/models/toy/infer HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def served(start: Any, model_dir: Path) -> Any:
    return start(model_dir, "--max-body", str(4 * 1024**2))


@pytest.fixture
def wire(served: Any) -> Iterator[Wire]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        yield Wire(connection)


class Wire:
    """Sends bytes as they are, and reads answers one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.file = connection.makefile("rb")

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, self.file.read(int(headers["content-length"]))


def binary(rows: int, seed: int) -> tuple[bytes, np.ndarray[Any, Any]]:
    """A request of `rows` in binary, answered in binary."""
    array = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    tensor = {"name": "features", "datatype": "FP32", "shape": [rows, 4]}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"id": str(seed), "inputs": [tensor], "outputs": outputs}).encode()
    body = head + array.tobytes()
    fields = b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
    return INFER + fields % (len(head), len(body)) + body, array


def probabilities(headers: dict[str, str], body: bytes) -> np.ndarray[Any, Any]:
    size = int(headers["inference-header-content-length"])
    return np.frombuffer(body[size:], np.float32).reshape(-1, 3)


@pytest.mark.parametrize("seed", range(6))
def test_bodies_of_all_sizes_in_pieces_of_all_sizes(wire: Wire, truth: Any, seed: int) -> None:
    """Small ones, and large ones that are received in place, one after another."""
    rng = random.Random(seed)
    for number in range(6):
        rows = rng.choice([1, 100, 4096, 5000, 30_000, 200_000])
        request, array = binary(rows, 100 * seed + number)
        at = 0
        while at < len(request):
            size = rng.choice([1, 300, 70_000, 1_000_000])
            wire.socket.sendall(request[at : at + size])
            at += size
        status, headers, body = wire.answer()
        assert status == 200
        np.testing.assert_allclose(probabilities(headers, body), truth(array)[1], atol=1e-5)


def test_requests_in_a_row_are_answered_in_their_order(wire: Wire, truth: Any) -> None:
    """Inference, and what the application answers, mixed; more than are read at once."""
    requests, expected = [], []
    for number in range(60):
        if number % 5 == 3:
            requests.append(b"GET /v2/models/toy HTTP/1.1\r\nhost: x\r\n\r\n")
            expected.append(None)
            continue
        request, array = binary(40_000 if number == 20 else 3, number)
        requests.append(request)
        expected.append(truth(array)[1])
    wire.socket.sendall(b"".join(requests))
    for number, shares in enumerate(expected):
        status, headers, body = wire.answer()
        assert status == 200, number
        if shares is None:
            assert json.loads(body)["name"] == "toy"
        else:
            assert headers["x-request-id"] == str(number)
            np.testing.assert_allclose(probabilities(headers, body), shares, atol=1e-5)


def test_a_refused_body_is_passed_over_and_the_connection_goes_on(wire: Wire) -> None:
    request, _ = binary(2, 1)
    for path in (b"/v2/models/none/infer", b"/v2/models/toy/versions/9/infer"):
        wire.socket.sendall(request.replace(b"/v2/models/toy/infer", path, 1))
        assert wire.answer()[0] == 404
    wire.socket.sendall(INFER + b"transfer-encoding: chunked\r\n\r\n")
    wire.socket.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
    for _ in range(4):
        wire.socket.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
    assert wire.answer()[0] == 413
    wire.socket.sendall(b"0\r\n\r\n" + request)
    assert wire.answer()[0] == 200


def test_chunked_and_expected(wire: Wire) -> None:
    body = b'{"instances": [[1, 2, 3, 4]]}'
    head = b"POST /v1/models/toy:predict?x=1 HTTP/1.1\r\nhost: x\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    wire.socket.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    first = wire.answer()
    length = b"content-length: %d\r\n" % len(body)
    wire.socket.sendall(head + length + b"expect: 100-continue\r\n\r\n")
    assert wire.file.readline().startswith(b"HTTP/1.1 100")
    assert wire.file.readline() == b"\r\n"
    wire.socket.sendall(body)
    second = wire.answer()
    wire.socket.sendall(head + length + b"content-encoding: br\r\n\r\n" + body)
    assert wire.answer()[0] == 415
    wire.socket.sendall(head + length + b"connection: close\r\n\r\n" + body)
    third = wire.answer()
    assert first[0] == second[0] == third[0] == 200
    assert first[2] == second[2] == third[2]
    assert third[1]["connection"] == "close"
    assert wire.file.read() == b""


ROW = b'{"instances": [[1, 2, 3, 4]]}'
PREDICT = b"POST /v1/models/toy:predict HTTP/1.%d\r\nhost: x\r\n%bcontent-length: %d \r\n\r\n%b"


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize(
    "offer",
    [
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"UPGRADE:websocket \r\nCONNECTION:UPGRADE\r\n",
    ],
)
def test_an_offer_of_another_protocol_is_passed_over(
    wire: Wire, offer: bytes, minor: int, piece: int
) -> None:
    """Wherever its head begins and ends, and whatever follows."""
    good = PREDICT % (1, b"", len(ROW), ROW)
    sent = good + PREDICT % (1, offer, len(ROW), ROW) + PREDICT % (minor, offer, len(ROW), ROW)
    for at in range(0, len(sent), piece):
        wire.socket.sendall(sent[at : at + piece])
    for _ in range(3):
        status, _, body = wire.answer()
        assert status == 200
        assert b"predictions" in body
    if minor:
        wire.socket.sendall(good)
        assert wire.answer()[0] == 200
    else:
        assert wire.file.read() == b""


def test_space_behind_a_value_is_not_part_of_it(wire: Wire) -> None:
    request, _ = binary(2, 5)
    request = request.replace(b"\r\ncontent-length", b" \t\r\nContent-Length")
    wire.socket.sendall(request)
    assert wire.answer()[0] == 200
    head, _, body = request.partition(b"\r\n\r\n")
    wire.socket.sendall(head + b"\r\nexpect: 100-continue \r\n\r\n")
    assert wire.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    wire.file.readline()
    wire.socket.sendall(body)
    assert wire.answer()[0] == 200


@pytest.mark.parametrize(
    "rubbish",
    [b"\0\r\n\r\n", INFER + b"content-length: -1\r\n\r\n", INFER + b"x: " + b"a" * 70_000],
)
def test_what_is_not_a_request_is_answered_after_those_before_it(
    wire: Wire, rubbish: bytes
) -> None:
    """An error in front of their answers would be taken for one of them."""
    wire.socket.sendall(PREDICT % (1, b"", len(ROW), ROW) * 3 + rubbish)
    for _ in range(3):
        assert wire.answer()[0] == 200
    said = wire.file.read()
    assert said == b"" or said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


def test_what_is_not_a_request_is_refused_in_words(wire: Wire) -> None:
    wire.socket.sendall(INFER + b"content-length: -1\r\n\r\n")
    status, _, body = wire.answer()
    assert status == 400
    assert json.loads(body)["error"]


def test_half_closed_and_of_http_1_0(served: Any) -> None:
    request, _ = binary(3, 5)
    old = request.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(old)
        wire = Wire(connection)
        assert wire.answer()[0] == 200
        assert wire.file.read() == b""


@pytest.mark.parametrize(
    "hosts", [b"", b"host: x\r\nhost: x\r\n", b"Host: x\r\nx-y: z\r\nHOST: y\r\n"]
)
def test_a_request_names_its_host_once(wire: Wire, hosts: bytes) -> None:
    good = PREDICT % (1, b"", len(ROW), ROW)
    wire.socket.sendall(good * 2 + good.replace(b"host: x\r\n", hosts) + good)
    for expected in (200, 200):
        assert wire.answer()[0] == expected
    said = wire.file.read()  # an error in front of their answers would be taken for one of them
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")


def test_the_body_of_a_refused_head_is_not_the_one_befores(wire: Wire) -> None:
    good = PREDICT % (1, b"", len(ROW), ROW)
    large = PREDICT % (1, b"x: y\r\n" * 200, len(ROW), ROW)
    wire.socket.sendall(good * 2 + large)
    assert [wire.answer()[0] for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("method", ["GET /v2/health/live", "POST /v1/models/toy:predict"])
def test_a_request_without_a_host_is_refused_in_words(wire: Wire, method: str) -> None:
    head = f"{method} HTTP/1.1\r\ncontent-length: {len(ROW)}\r\n\r\n"
    wire.socket.sendall(head.encode() + ROW)
    status, headers, body = wire.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert "names its host once" in json.loads(body)["error"]


def test_many_requests_in_a_row_are_no_large_head(wire: Wire) -> None:
    """Nor is the head that follows them, as far as it has come."""
    asked = b"GET /v2/models/toy HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 2000 + b"\r\n\r\n"
    for _ in range(3):
        wire.socket.sendall(asked * 40 + asked[:1000])
        assert [wire.answer()[0] for _ in range(40)] == [200] * 40
        wire.socket.sendall(asked[1000:])
        assert wire.answer()[0] == 200


def test_http_1_0_has_no_host(wire: Wire) -> None:
    wire.socket.sendall((PREDICT % (0, b"", len(ROW), ROW)).replace(b"host: x\r\n", b""))
    assert wire.answer()[0] == 200


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_who_leaves_in_the_middle_of_a_large_body_costs_nobody(
    served: Any, wire: Wire, share: float
) -> None:
    request, _ = binary(50_000, 3)
    for reset in (True, False):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as leaving:
            leaving.sendall(request[: int(len(request) * share)])
            if reset:
                linger = struct.pack("ii", 1, 0)
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wire.socket.sendall(request)
    assert wire.answer()[0] == 200
    assert "Traceback" not in served.text()


@pytest.mark.parametrize("rows", [100, 4000, 30_000])
def test_large_requests_one_behind_the_other(wire: Wire, truth: Any, rows: int) -> None:
    """What ends a body and begins the next head in one piece is no large head."""
    requests = [binary(rows, number) for number in range(10, 20)]
    sent = b"".join([request for request, _ in requests])
    cut = len(sent) - len(requests[-1][0]) + 100
    sender = threading.Thread(target=wire.socket.sendall, args=(sent[:cut],))
    sender.start()
    answers = [wire.answer() for _ in requests[:-1]]
    sender.join()
    wire.socket.sendall(sent[cut:])
    answers.append(wire.answer())
    for (status, headers, body), (_, array) in zip(answers, requests, strict=True):
        assert status == 200, body
        np.testing.assert_allclose(probabilities(headers, body), truth(array)[1], rtol=1e-5)


def test_a_client_that_never_reads_is_not_read_for_ever(served: Any, wire: Wire) -> None:
    request, _ = binary(30_000, 9)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(1)
        with pytest.raises(TimeoutError):
            deaf.sendall(request * 200)
        wire.socket.sendall(request)
        assert wire.answer()[0] == 200


@pytest.mark.parametrize("rows", [3, 3000, 30_000])
def test_a_head_that_comes_again_means_the_same(wire: Wire, truth: Any, rows: int) -> None:
    """Whole, in pieces, with the next one behind it, and with something else in between."""
    rng = random.Random(rows)
    requests = [binary(rows, number) for number in range(10, 34)]  # ids of one length
    assert len({request.partition(b"\r\n\r\n")[0] for request, _ in requests}) == 1
    waiting: list[tuple[int, Any]] = []
    for number, (request, array) in enumerate(requests, start=10):
        waiting.append((number, array))
        way = number % 4
        if way == 1:
            cut = rng.randrange(1, len(request))
            wire.socket.sendall(request[:cut])
            wire.socket.sendall(request[cut:])
        elif way == 2:
            wire.socket.sendall(request)
            continue  # and the next one, before this one's answer is read
        elif way == 3:
            other = request.replace(b"host: x", b"host: y", 1)
            wire.socket.sendall(other)
        else:
            wire.socket.sendall(request)
        for identifier, sent in waiting:
            status, headers, body = wire.answer()
            assert (status, headers["x-request-id"]) == (200, str(identifier))
            np.testing.assert_allclose(probabilities(headers, body), truth(sent)[1], atol=1e-5)
        waiting.clear()


@pytest.mark.parametrize(("rows", "name", "status"), [(30_000, b"no", 404), (300_000, b"toy", 413)])
def test_a_head_that_comes_again_and_is_refused_each_time(
    wire: Wire, rows: int, name: bytes, status: int
) -> None:
    """Whether the body has come by then, in part, or not at all; and the connection goes on."""
    good, _ = binary(30_000, 1)
    bad, _ = binary(rows, 1)
    bad = bad.replace(b"/toy/", b"/%b/" % name, 1)
    head = bad.index(b"\r\n\r\n") + 4
    for again in range(3):
        for there in (head, head + 1000, len(bad)):
            wire.socket.sendall(bad[:there])
            assert (wire.answer()[0] if there < len(bad) else status) == status, again
            wire.socket.sendall(bad[there:])
            if there == len(bad):
                assert wire.answer()[0] == status
        wire.socket.sendall(good)
        assert wire.answer()[0] == 200


def test_a_known_head_with_a_wrong_body_is_refused_and_the_connection_goes_on(wire: Wire) -> None:
    request, _ = binary(2000, 10)
    head, _, body = request.partition(b"\r\n\r\n")
    for again in range(3):
        for content, status in ((body, 200), (b"[" + body[1:], 400), (body, 200)):
            wire.socket.sendall(head + b"\r\n\r\n" + content)
            assert wire.answer()[0] == status, again


@pytest.mark.parametrize(
    "text",
    [
        b"POST / HTTP/1.1\r\nhost: x\ncontent-length: 5\r\n\r\nhello",
        b"\r\nPOST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\n",
        b"POST / HTTP/1.1\r\nx: " + bytes(5000) + b"\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
def test_a_head_is_known_only_if_its_text_says_all(text: bytes) -> None:
    route = Route("v2", "toy", None)
    assert KnownHead.learn(text, route, {b"content-length": b"5"}) is None
    plain = b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello"
    for headers in ({}, {b"content-length": b"5", b"transfer-encoding": b"chunked"}):
        assert KnownHead.learn(plain, route, headers) is None
    known = KnownHead.learn(plain, route, {b"content-length": b"5"})
    assert known is not None
    assert (known.text, known.length) == (plain[:-5], 5)


@pytest.mark.parametrize("size", [1, 2, 5000])
@pytest.mark.parametrize("before", [b"", b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_body_in_chunks_of_any_size(wire: Wire, before: bytes, size: int) -> None:
    """Answered directly, and behind a request that the application answers."""
    rows = 4000
    body = json.dumps({"instances": [[1, 2, 3, 4]] * rows}).encode()
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    wire.socket.sendall(before + head + chunks + b"0\r\n\r\n")
    if before:
        assert wire.answer()[0] == 200
    status, _, answer = wire.answer()
    assert status == 200
    assert len(json.loads(answer)["predictions"]) == rows
