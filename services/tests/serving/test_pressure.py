"""Clients that are slow, large or many, at the level of connections; the same for both servers."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

GOOD = {"instances": [[1, 2, 3, 4]]}


@pytest.fixture(scope="module", params=["native", "uvicorn"])
def strict(request: pytest.FixtureRequest, start: Any, model_dir: Path) -> Any:
    return start(model_dir, "--receive-timeout", "1", kind=request.param)


def answers(served: Any) -> bool:
    url = f"{served.url}/v1/models/toy:predict"
    return httpx.post(url, json=GOOD, timeout=10).status_code == 200


def closed_with(served: Any, *parts: bytes) -> bytes:
    """Send, wait until the server closes, and give what it said."""
    said = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(0.05)
        try:
            while data := client.recv(65536):
                said += data
        except ConnectionResetError:
            pass
    return said


HEAD = b"POST /v1/models/toy:predict HTTP/1.1\r\nhost: a\r\ncontent-length: 30\r\n"


def test_a_body_that_does_not_come(strict: Any) -> None:
    assert b" 408 " in closed_with(strict, HEAD + b"\r\n", b'{"inst')
    assert answers(strict)


def test_a_head_that_does_not_come(strict: Any) -> None:
    said = closed_with(strict, HEAD)
    assert said == b"" or b" 408 " in said
    assert answers(strict)


def test_a_head_that_is_too_large(strict: Any) -> None:
    one = b"x-much: " + b"a" * 80_000 + b"\r\n\r\n"
    assert b" 431 " in closed_with(strict, HEAD + one).splitlines()[0]
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(200))
    assert b" 431 " in closed_with(strict, HEAD + many + b"\r\n").splitlines()[0]
    assert answers(strict)


def test_a_slow_request_that_comes_in_time(strict: Any) -> None:
    body = b'{"instances": [[1, 2, 3, 4]]} '
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as client:
        client.sendall(HEAD + b"\r\n")
        for start in range(0, 30, 10):
            time.sleep(0.1)
            client.sendall(body[start : start + 10])
        assert b" 200 " in whole_answer(client).splitlines()[0]
        time.sleep(1.5)  # an idle connection is not a slow request
        client.sendall(HEAD + b"\r\n" + body)
        assert b" 200 " in whole_answer(client).splitlines()[0]


def whole_answer(client: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"]}"):
        said += client.recv(65536)
    return said


@pytest.fixture(scope="module", params=["native", "uvicorn"])
def narrow(request: pytest.FixtureRequest, start: Any, model_dir: Path) -> Any:
    limits = ("--max-queue-bytes", "4000000", "--max-connections", "30")
    return start(model_dir, *limits, kind=request.param)


def test_too_many_connections(narrow: Any) -> None:
    with ExitStack() as held:
        clients = [
            held.enter_context(socket.create_connection(("127.0.0.1", narrow.port), timeout=10))
            for _ in range(60)
        ]
        until(lambda: sum(map(is_closed, clients)) >= 30)
        with pytest.raises(httpx.TransportError):
            answers(narrow)
    until(lambda: answers_at_all(narrow))


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.01)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def answers_at_all(served: Any) -> bool:
    try:
        return answers(served)
    except httpx.TransportError:
        return False


def until(condition: Any, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("form", [b"content-length: 2900000", b"transfer-encoding: chunked"])
def test_bodies_that_are_on_their_way_are_bounded_together(narrow: Any, form: bytes) -> None:
    """Each is small enough; all of them would be more than may wait. Afterwards nothing is held."""
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nhost: a\r\n%b\r\n\r\n" % form
    part = b" " * 1_500_000
    if form.endswith(b"chunked"):
        part = b"%x\r\n%b\r\n" % (len(part), part)
    for _ in range(3):
        with ExitStack() as stack:
            address = ("127.0.0.1", narrow.port)
            clients = [
                stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(4)
            ]
            for client in clients[:2]:
                client.sendall(head + part)
            for client in clients[2:]:  # whichever of them is one too many
                try:
                    client.sendall(head + part)
                except ConnectionError:
                    pass
            readable, _, _ = select.select(clients, [], [], 30)
            said = readable[0].recv(65536)
            assert b" 503 " in said.splitlines()[0], said
            assert b"retry-after: " in said
            assert answers(narrow)  # what comes at once needs none of that
    whole = httpx.post(
        f"{narrow.url}/v1/models/toy:predict",
        content=b'{"instances": [[1, 2, 3, 4]]}' + b" " * 2_900_000,
        timeout=30,
    )
    assert whole.status_code == 200, whole.text
