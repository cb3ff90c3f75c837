"""What is not HTTP/2 is answered as RFC 9113 says, and brings nobody else down."""

from __future__ import annotations

import random
import struct

import pytest

from .conftest import (
    ACK,
    CONTINUATION,
    DATA,
    END,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH,
    RESET,
    SETTINGS,
    WINDOW,
    Client,
    Connect,
    frame,
)

NO_ERROR, PROTOCOL, INTERNAL, FLOW, _, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 11
u32 = struct.Struct(">I").pack
setting = struct.Struct(">HI").pack


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(DATA, 0, 0, b"x"), PROTOCOL),
        (frame(DATA, 0, 5, b"x"), PROTOCOL),
        (frame(DATA, 0, 2, b"x"), PROTOCOL),
        (frame(DATA, PADDED, 1, b""), PROTOCOL),
        (frame(HEADERS, END_HEADERS, 0, b"\x82"), PROTOCOL),
        (frame(HEADERS, END_HEADERS, 2, b"\x82"), PROTOCOL),
        (frame(HEADERS, END_HEADERS | PADDED, 3, b"\x09\x82"), PROTOCOL),
        (frame(HEADERS, END_HEADERS | PADDED, 3, b""), SIZE),
        (frame(HEADERS, END_HEADERS, 3, b"\xff\xff\xff\xff\xff\xff\xff\xff"), COMPRESSION),
        (frame(HEADERS, END_HEADERS, 3, b"\xff\x20"), COMPRESSION),
        (frame(HEADERS, END_HEADERS, 3, b"\x40\x81"), COMPRESSION),
        (frame(HEADERS, END_HEADERS, 3, b"\x3f\xe1\xff\x03"), COMPRESSION),
        (frame(HEADERS, 0, 3, b"\x82") + frame(DATA, 0, 1, b""), PROTOCOL),
        (frame(HEADERS, 0, 3, b"\x82") + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (frame(HEADERS, 0, 3, b"\x82") + frame(CONTINUATION, 4, 5, b""), PROTOCOL),
        (frame(HEADERS, 0, 3, b"") + frame(CONTINUATION, 0, 3, b"") * 300, CALM),
        (frame(HEADERS, 0, 3, b"\x82") + frame(CONTINUATION, 0, 3, bytes(60_000)) * 2, CALM),
        (frame(HEADERS, END_HEADERS, 3, bytes(70_000)), CALM),
        (frame(CONTINUATION, 4, 1, b""), PROTOCOL),
        (frame(PUSH, 4, 1, bytes(8)), PROTOCOL),
        (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
        (frame(PRIORITY, 0, 1, bytes(4)), SIZE),
        (frame(RESET, 0, 0, bytes(4)), PROTOCOL),
        (frame(RESET, 0, 9, bytes(4)), PROTOCOL),
        (frame(RESET, 0, 1, bytes(3)), SIZE),
        (frame(SETTINGS, 0, 1), PROTOCOL),
        (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
        (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
        (frame(SETTINGS, 0, 0, setting(2, 2)), PROTOCOL),
        (frame(SETTINGS, 0, 0, setting(4, 2**31)), FLOW),
        (frame(SETTINGS, 0, 0, setting(5, 100)), PROTOCOL),
        (frame(SETTINGS, 0, 0, setting(5, 2**24)), PROTOCOL),
        (frame(PING, 0, 1, bytes(8)), PROTOCOL),
        (frame(PING, 0, 0, bytes(7)), SIZE),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
        (frame(GOAWAY, 0, 0, bytes(7)), SIZE),
        (frame(WINDOW, 0, 0, bytes(4)), PROTOCOL),
        (frame(WINDOW, 0, 0, bytes(3)), SIZE),
        (frame(WINDOW, 0, 0, u32(2**31 - 1)), FLOW),
        (frame(WINDOW, 0, 7, u32(1)), PROTOCOL),
        (b"\xff\xff\xff" + bytes(6), SIZE),
        (frame(PING, 0, 0, bytes(8)) * 3000, CALM),
        (frame(SETTINGS, 0, 0) * 3000, CALM),
        (frame(DATA, 0, 1, b"") * 3000, CALM),
        (frame(PRIORITY, 0, 1, bytes(5)) * 3000, CALM),
        (frame(WINDOW, 0, 1, u32(1)) * 3000, CALM),
        (frame(250, 0, 1, b"?") * 3000, CALM),
    ],
)
async def test_the_connection_ends_and_says_why(connect: Connect, sent: bytes, code: int) -> None:
    client = connect()
    client.feed(frame(HEADERS, END_HEADERS, 1, client.block()))
    await client.frames()
    client.feed(sent)
    last = (await client.frames())[-1]
    assert (last.kind, last.code) == (GOAWAY, code), last
    assert client.pipe.ended
    client.feed(client.request(3, b"x"))
    assert await client.frames() == []
    assert client.connection.endpoint.held == 0


async def test_settings_come_first(connect: Connect) -> None:
    client = connect(greet=False)
    client.feed(frame(PING, 0, 0, bytes(8)))
    assert (await client.frames())[-1].code == PROTOCOL


METHOD, SCHEME, PATH = (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [METHOD, SCHEME],
        [METHOD, PATH],
        [SCHEME, PATH],
        [METHOD, METHOD, SCHEME, PATH],
        [METHOD, SCHEME, (b":path", b"")],
        [METHOD, SCHEME, (b":path", b"echo")],
        [METHOD, SCHEME, (b":path", b"*")],
        [(b":method", b"P OST"), SCHEME, PATH],
        [METHOD, SCHEME, PATH, (b":status", b"200")],
        [METHOD, SCHEME, PATH, (b":more", b"")],
        [METHOD, SCHEME, (b"a", b"b"), PATH],
        [METHOD, SCHEME, PATH, (b"Upper", b"case")],
        [METHOD, SCHEME, PATH, (b"sp ace", b"")],
        [METHOD, SCHEME, PATH, (b"", b"")],
        [METHOD, SCHEME, PATH, (b"connection", b"close")],
        [METHOD, SCHEME, PATH, (b"transfer-encoding", b"chunked")],
        [METHOD, SCHEME, PATH, (b"te", b"gzip")],
        [METHOD, SCHEME, PATH, (b"x", b"a\r\nb: c")],
        [METHOD, SCHEME, PATH, (b"x", b"a\0b")],
        [METHOD, SCHEME, PATH, (b"x", b" a")],
        [METHOD, SCHEME, PATH, (b"content-length", b"-1")],
        [METHOD, SCHEME, PATH, (b"content-length", b"1"), (b"content-length", b"2")],
        [METHOD, SCHEME, PATH, *[(b"x-%d" % n, b"") for n in range(120)]],
    ],
)
async def test_a_head_that_is_none_ends_its_stream_alone(
    connect: Connect, fields: list[tuple[bytes, bytes]]
) -> None:
    client = connect()
    await client.frames()
    client.feed(frame(HEADERS, END_HEADERS, 1, client.encoder.encode(fields)))
    (answer,) = await client.frames()
    assert (answer.kind, answer.stream) == (RESET, 1)
    assert answer.code in (PROTOCOL, CALM)
    client.feed(frame(DATA, END, 1, b"x") + client.request(3, b"fine"))
    assert (await client.answers())[3][1] == b"fine"


async def only_reset(client: Client, stream: int) -> int:
    resets = [each for each in await client.frames() if each.kind == RESET]
    assert [each.stream for each in resets] == [stream]
    assert not client.pipe.ended
    return resets[0].code


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(DATA, END, 1, b"abc"), PROTOCOL),  # content-length says 2
        (frame(DATA, END, 1, b"a"), PROTOCOL),
        (frame(WINDOW, 0, 1, u32(0)), PROTOCOL),
        (frame(WINDOW, 0, 1, u32(2**31 - 1)), FLOW),
        (frame(HEADERS, END_HEADERS, 1, b""), PROTOCOL),  # trailers that do not end
        (frame(HEADERS, END_HEADERS | END, 1, b"\x82"), PROTOCOL),  # ... with a pseudo-header
    ],
)
async def test_a_fault_of_one_stream(connect: Connect, sent: bytes, code: int) -> None:
    client = connect()
    client.feed(frame(HEADERS, END_HEADERS, 1, client.block(("content-length", "2"))))
    client.feed(sent)
    assert await only_reset(client, 1) == code
    client.feed(client.request(3, b"fine"))
    assert (await client.answers())[3][1] == b"fine"


async def test_more_after_the_end(connect: Connect) -> None:
    for extra in (frame(DATA, 0, 1, b"x"), frame(HEADERS, 5, 1, b"\x82")):
        client = connect()
        client.feed(client.request(1, b"x") + extra)
        assert await only_reset(client, 1) == CLOSED


async def test_a_stream_that_is_over_is_not_opened_again(connect: Connect) -> None:
    client = connect()
    client.feed(client.request(5, b"x"))
    await client.answers()
    client.feed(client.request(3, b"x"))
    last = (await client.frames())[-1]
    assert (last.kind, last.code) == (GOAWAY, CLOSED)


async def test_more_than_the_window(connect: Connect) -> None:
    client = connect()
    client.feed(frame(HEADERS, END_HEADERS, 1, client.block()))
    for _ in range(6):
        client.connection.on_data(1, 60_000)
    assert await only_reset(client, 1) == FLOW


async def test_too_many_streams_at_once_are_refused(connect: Connect) -> None:
    client = connect(max_streams=5)
    for number in range(8):
        client.feed(frame(HEADERS, END_HEADERS, 2 * number + 1, client.block()))
    resets = [each for each in await client.frames() if each.kind == RESET]
    assert [(each.stream, each.code) for each in resets] == [(11, 7), (13, 7), (15, 7)]


async def test_rapid_resets(connect: Connect) -> None:
    client = connect()
    for number in range(3000):
        stream = 2 * number + 1
        client.feed(frame(HEADERS, END_HEADERS, stream, client.block()))
        client.feed(frame(RESET, 0, stream, u32(8)))
    last = (await client.frames())[-1]
    assert (last.kind, last.code) == (GOAWAY, CALM)
    assert not client.connection.streams


async def test_a_client_that_works_may_ping_and_widen_for_ever(connect: Connect) -> None:
    client = connect()
    for number in range(3000):
        stream = 2 * number + 1
        client.feed(client.request(stream, b"x"))
        client.feed(frame(PING, 0, 0, bytes(8)) + frame(WINDOW, 0, 0, u32(1)))
        if number % 100 == 0:
            await client.frames()
    await client.frames()
    assert not client.pipe.ended


async def test_heads_that_inflate(connect: Connect) -> None:
    """A small block may stand for a large head: one entry of the table, named many times."""
    client = connect()
    block = client.block(("x-large", "y" * 3900))
    client.feed(frame(HEADERS, END_HEADERS, 1, block))
    assert client.encoder.header_table.dynamic_entries
    client.feed(frame(HEADERS, END_HEADERS, 3, b"\xbe" * 5000))
    last = (await client.frames())[-1]
    assert (last.kind, last.code) == (GOAWAY, CALM)


@pytest.mark.parametrize("seed", range(300))
async def test_nonsense(connect: Connect, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Random frames, and good ones with bytes changed: an orderly end at most, nothing held."""
    rng = random.Random(seed)
    client = connect(greet=rng.random() < 0.9)
    good = b"".join(
        client.request(2 * n + 1, rng.randbytes(rng.choice([1, 50_000]))) for n in range(4)
    )
    noise = bytearray(good)
    for _ in range(rng.choice([0, 1, 3, 20])):
        noise[rng.randrange(min(len(noise), rng.choice([60, len(noise)])))] = rng.randrange(256)
    for _ in range(rng.randrange(10)):
        at = rng.randrange(len(noise))
        payload = rng.randbytes(rng.choice([0, 1, 4, 5, 8, 60]))
        kind, stream = rng.randrange(12), rng.choice([0, 1, 2, 3, 9, 2**31 - 1])
        noise[at:at] = frame(kind, rng.randrange(256), stream, payload)
    client.feed(bytes(noise), pieces=iter(lambda: rng.choice([1, 50, 16384]), 0))
    frames = await client.frames()
    ends = [each for each in frames if each.kind == GOAWAY]
    assert len(ends) == client.pipe.ended
    assert all(each.code != INTERNAL for each in frames if each.kind in (GOAWAY, RESET))
    assert not caplog.records
    client.connection.connection_lost(None)
    await client.frames()
    endpoint = client.connection.endpoint
    assert (endpoint.held, client.connection.streams) == (0, {})
    assert client.connection.out.pending == 0
