"""HTTP/2 as it should be: whatever way its frames come, the answers are the same."""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
from typing import Any

import pytest

from .conftest import (
    ACK,
    CONTINUATION,
    DATA,
    END,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    MAX_BODY,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    RESET,
    SETTINGS,
    WINDOW,
    Connect,
    frame,
)


async def test_a_request_is_answered(connect: Connect) -> None:
    client = connect()
    greeting = await client.frames()
    assert [each.kind for each in greeting] == [SETTINGS, WINDOW, SETTINGS]
    assert greeting[2].flags == ACK
    client.feed(client.request(1, b"hello"))
    headers, body = (await client.answers())[1]
    assert (headers[":status"], headers["x-path"], body) == ("200", "/echo", b"hello")


@pytest.mark.parametrize("seed", range(40))
async def test_however_the_bytes_are_cut_and_mixed(connect: Connect, seed: int) -> None:
    """Random sizes, frames, paddings, interleavings and pieces of the stream of bytes."""
    rng = random.Random(seed)
    client = connect(most_held=10**7)
    sizes = (0, 1, 9, 300, 40_000, 150_000)
    bodies = {1 + 2 * n: rng.randbytes(rng.choice(sizes)) for n in range(6)}
    queues = []
    for stream, body in bodies.items():
        ends = 0 if body else END
        block = client.block(("x-n", rng.choice(["a", "b", "c" * 200])), ("x-trailers", "1"))
        cuts = sorted(rng.randrange(len(block) + 1) for _ in range(rng.choice([0, 0, 2])))
        parts = [block[i:j] for i, j in itertools.pairwise([0, *cuts, len(block)])]
        opening = b""
        for number, part in enumerate(parts):
            flags = END_HEADERS if number == len(parts) - 1 else 0
            if number:
                opening += frame(CONTINUATION, flags, stream, part)
                continue
            flags |= ends
            if rng.random() < 0.3:
                flags, part = flags | PRIORITISED, bytes(5) + part
            if rng.random() < 0.3:
                pad = rng.randrange(20)
                flags, part = flags | PADDED, bytes((pad,)) + part + bytes(pad)
            opening += frame(HEADERS, flags, stream, part)
        client.feed(opening, pieces=iter(lambda: rng.choice([1, 7, 5000]), 0))
        queue = []
        at = 0
        while at < len(body):
            size = rng.choice([1, 100, 16384, 100_000])
            chunk, at = body[at : at + size], at + size
            flags = END if at >= len(body) else 0
            if rng.random() < 0.3:
                pad = rng.randrange(256)
                flags, chunk = flags | PADDED, bytes((pad,)) + chunk + bytes(pad)
            queue.append(frame(DATA, flags, stream, chunk))
            if rng.random() < 0.1:
                queue.append(frame(PING, 0, 0, bytes(8)) + frame(99, 255, stream, b"?"))
        queues.append(queue)
    mixed = b""
    while queues := [queue for queue in queues if queue]:
        mixed += rng.choice(queues).pop(0)
    client.feed(mixed, pieces=iter(lambda: rng.choice([1, 9, 10, 1000, 65536, 262144]), 0))
    answers = await _all(client)
    for stream, body in bodies.items():
        headers, returned = answers[stream]
        assert (headers[":status"], headers["x-size"]) == ("200", str(len(body)))
        assert headers["x-done"] == "yes"
        assert returned == body


async def _all(client: Any) -> dict[int, Any]:
    """All answers, the client's windows wide open."""
    client.feed(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1)))
    client.feed(frame(WINDOW, 0, 0, struct.pack(">I", 2**30)))
    for _ in range(20):
        await asyncio.sleep(0)
    found: dict[int, Any] = await client.answers()
    return found


async def test_windows_of_the_client_are_kept(connect: Connect) -> None:
    client = connect()
    client.feed(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1000)))
    body = bytes(range(256)) * 20
    client.feed(client.request(1, body) + client.request(3, b"small"))
    sent = [each for each in await client.frames() if each.kind == DATA]
    first = b"".join(each.payload for each in sent if each.stream == 1)
    assert len(first) == 1000
    assert [each.payload for each in sent if each.stream == 3] == [b"small"]
    client.feed(frame(WINDOW, 0, 1, struct.pack(">I", 500)))
    more = [each for each in await client.frames() if each.kind == DATA]
    assert [len(each.payload) for each in more] == [500]
    client.feed(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 100_000)))
    rest = [each for each in await client.frames() if each.kind == DATA]
    assert rest[-1].flags & END
    assert first + b"".join(each.payload for each in more + rest) == body


async def test_the_window_of_the_connection_is_shared(connect: Connect) -> None:
    client = connect()
    for stream in (1, 3, 5):
        client.feed(client.request(stream, bytes(40_000)))
    sent = [each for each in await client.frames() if each.kind == DATA]
    assert sum(len(each.payload) for each in sent) == 65_535
    assert all(len(each.payload) <= 16_384 for each in sent)
    client.feed(frame(WINDOW, 0, 0, struct.pack(">I", 2**20)))
    rest = [each for each in await client.frames() if each.kind == DATA]
    assert sum(len(each.payload) for each in sent + rest) == 120_000


async def test_an_application_waits_for_a_client_that_does_not_read(connect: Connect) -> None:
    client = connect()
    client.feed(client.request(1, bytes(100_000), ("x-repeat", "50")))
    total = sum(len(each.payload) for each in await client.frames() if each.kind == DATA)
    assert client.connection.out.pending < 10 * 100_000
    for _ in range(200):
        client.feed(frame(WINDOW, 0, 0, struct.pack(">I", 100_000)))
        client.feed(frame(WINDOW, 0, 1, struct.pack(">I", 100_000)))
        frames = [each for each in await client.frames() if each.kind == DATA]
        total += sum(len(each.payload) for each in frames)
        if frames and frames[-1].flags & END:
            break
    assert total == 50 * 100_000
    assert client.connection.out.pending == 0


async def test_heads_that_repeat_and_change(connect: Connect) -> None:
    """What a block stood for is forgotten when the table of headers changes."""
    client = connect()
    for number, value in enumerate(["a", "a", "a", "b", "a", "b" * 3000, "a", "a"]):
        stream = 2 * number + 1
        client.feed(client.request(stream, b"x", ("x-value", value)))
        client.feed(frame(PING, 0, 0, bytes(8)))
        assert (await client.answers())[stream][1] == b"x"
    client.encoder.header_table_size = 0
    for stream in (21, 23):
        client.feed(client.request(stream, b"y", ("x-value", "c")))
        assert (await client.answers())[stream][1] == b"y"


async def test_a_client_without_a_table_is_told_so_first(connect: Connect) -> None:
    client = connect(greet=False)
    client.feed(frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 0)))
    client.decoder.max_allowed_table_size = 0
    client.feed(client.request(1, b"x") + client.request(3, b"x"))
    answers = await client.answers()
    assert set(answers) == {1, 3}


async def test_a_client_that_leaves_is_not_answered(connect: Connect) -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(scope["path"])

    client = connect(app=waits)
    client.feed(client.request(1) + client.request(3))
    await client.frames()
    client.feed(frame(RESET, 0, 1, struct.pack(">I", 8)))
    await client.frames()
    assert (len(begun), len(ended)) == (2, 1)
    client.connection.connection_lost(None)
    await client.frames()
    assert len(ended) == 2
    assert not client.connection.endpoint.connections


async def test_an_answer_before_the_request_has_ended_ends_it(connect: Connect) -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    client = connect(app=early)
    client.feed(frame(HEADERS, END_HEADERS, 1, client.block()))
    kinds = [(each.kind, each.stream) for each in (await client.frames())[3:]]
    assert kinds == [(HEADERS, 1), (DATA, 1), (RESET, 1)]
    # What was on its way already is passed over, trailers too.
    client.feed(frame(DATA, 0, 1, b"late") + frame(HEADERS, 5, 1, client.encoder.encode([])))
    client.feed(frame(HEADERS, 5, 3, client.block()))
    assert [each.stream for each in await client.frames()] == [3, 3]


async def test_shutting_down_lets_what_runs_finish(connect: Connect) -> None:
    go = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await echo_nothing(send)

    client = connect(app=slow)
    client.feed(client.request(1))
    await client.frames()
    client.connection.shutdown()
    client.feed(client.request(3))
    frames = await client.frames()
    assert [(each.kind, each.stream) for each in frames] == [(GOAWAY, 0), (RESET, 3)]
    assert (frames[0].payload[:4], frames[0].code) == (b"\0\0\0\1", 0)
    assert frames[1].code == 7
    assert not client.pipe.closed
    go.set()
    assert (await client.answers())[1][0][":status"] == "204"
    assert client.pipe.closed


async def echo_nothing(send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def test_half_closed(connect: Connect) -> None:
    client = connect()
    client.feed(client.request(1, b"x") + frame(HEADERS, END_HEADERS, 3, client.block()))
    assert client.connection.eof_received()
    answers = await client.answers()
    assert answers[1][1] == b"x"
    assert client.pipe.closed


async def test_a_body_that_is_too_large(connect: Connect) -> None:
    client = connect()
    body = bytes(MAX_BODY + 1)
    head = frame(HEADERS, END_HEADERS, 1, client.block())
    client.feed(head + b"".join(frame(DATA, 0, 1, body[i : i + 50_000]) for i in (0, 1, 2, 3, 4)))
    answers = await _all(client)
    assert answers[1][0][":status"] == "413"
    assert client.connection.endpoint.held == 0


async def test_bytes_on_their_way_are_bounded(connect: Connect) -> None:
    client = connect()
    for stream in range(1, 21, 2):
        client.feed(frame(HEADERS, END_HEADERS, stream, client.block()))
        client.feed(frame(DATA, 0, stream, bytes(100_000)))
        assert client.connection.endpoint.held <= 4 * MAX_BODY
    refused = [each for each in await client.frames() if each.kind == HEADERS]
    assert len(refused) >= 5
    assert dict(client.decoder.decode(refused[0].payload))[":status"] == "503"
    client.connection.connection_lost(None)
    assert client.connection.endpoint.held == 0


async def test_many_small_pieces_take_no_more_memory_than_their_bytes(connect: Connect) -> None:
    client = connect()
    client.feed(frame(HEADERS, END_HEADERS, 1, client.block()))
    client.feed(frame(DATA, 0, 1, b"ab") * 5000 + frame(DATA, END, 1, b"c"))
    headers, body = (await _all(client))[1]
    assert body == b"ab" * 5000 + b"c"
    assert headers["x-size"] == "10001"


async def test_slow_and_silent_clients(connect: Connect) -> None:
    client = connect(receive_timeout=5.0)
    client.feed(frame(HEADERS, END_HEADERS, 1, client.block()))
    client.feed(frame(HEADERS, END_HEADERS, 3, client.block(("content-type", "application/grpc"))))
    await client.frames()
    client.clock.advance(6)
    client.connection.check(client.clock.monotonic())
    heads = [each for each in await client.frames() if each.kind == HEADERS]
    assert dict(client.decoder.decode(heads[0].payload))[":status"] == "408"
    assert dict(client.decoder.decode(heads[1].payload))["grpc-status"] == "4"
    client.clock.advance(301)
    client.connection.check(client.clock.monotonic())
    assert [each.kind for each in await client.frames()] == [GOAWAY]
    assert client.pipe.ended

    client = connect(greet=False)
    client.clock.advance(11)
    client.connection.check(client.clock.monotonic())
    assert (await client.frames())[-1].kind == GOAWAY


async def test_those_who_do_not_read_are_not_read_from(connect: Connect) -> None:
    client = connect(receive_timeout=5.0)
    client.connection.pause_writing()
    assert client.pipe.paused
    client.connection.resume_writing()
    assert not client.pipe.paused
    client.connection.pause_writing()
    client.clock.advance(6)
    client.connection.check(client.clock.monotonic())
    assert client.pipe.closed


async def test_what_costs_nothing_is_passed_over(connect: Connect) -> None:
    client = connect()
    client.feed(frame(PRIORITY, 0, 3, bytes(5)) + frame(200, 0, 0, bytes(100_000)))
    client.feed(frame(PING, ACK, 0, bytes(8)) + client.request(1, b"x"))
    assert (await client.answers())[1][1] == b"x"
