"""Malformed requests to real servers: no 5xx, no crash, no hang, flat memory, no traceback.

COALMINE_FUZZ_COUNT and COALMINE_FUZZ_SEED say how many and which; `docs/protocol.md` says how to
run more of them. What fails names its request; the same seed sends it again.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import grpc
import httpx
import orjson
import pytest

from ..servers import MIXED, Server, identity, serving
from . import garbage, slow
from .cases import V2_PATH, Post, grpc_request, http_post
from .framing import call_many
from .trees import dump, valid_v2
from .wire import Answer, Manner, Wire, exchange

COUNT = int(os.environ.get("COALMINE_FUZZ_COUNT", "3000"))
SEED = int(os.environ.get("COALMINE_FUZZ_SEED", "1"))
MANY = 100_000
MAX_BODY = 1024**2
#: Requests on their way at once, each on a connection of its own; slow clients at once.
AT_ONCE, CROWD = 8, 128
RECEIVE_SECONDS = 10
#: 501 is for what the protocol knows and we do not have; 505 for a version of HTTP there is not.
NOT_OURS = {501, 505}
GROWTH = 25 * 1024**2
GRPC_FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}


@pytest.fixture(scope="module", params=["native", "uvicorn", "pyvoy"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp(f"fuzz-{request.param}")
    model = identity(directory / "mixed.onnx", MIXED)
    arguments = ("--max-body", str(MAX_BODY), "--receive-timeout", str(RECEIVE_SECONDS))
    with serving(model, directory / "log", *arguments, kind=request.param) as started:
        # KServe's own application is imported when it is first asked: 100 MB, and seconds of CPU.
        assert httpx.get(f"{started.url}/openapi.json", timeout=100).status_code == 200
        yield started


@pytest.fixture
def target(server: Server) -> Iterator[Target]:
    with ExitStack() as stack:
        wires = [stack.enter_context(closing(Wire(server.port))) for _ in range(AT_ONCE)]
        yield Target(server, wires, stack.enter_context(ThreadPoolExecutor(CROWD)))


class Target:
    """A server under fuzz, and what must be true of it all the time."""

    def __init__(self, server: Server, wires: list[Wire], crowd: ThreadPoolExecutor) -> None:
        self.server = server
        self.seen: Counter[str] = Counter()
        self.worst = 0.0
        """Seconds of the slowest answer."""

        self._wires, self._crowd = wires, crowd
        self._canary = dump(valid_v2(random.Random(0)))

    def run(self, count: int, some: Callable[[int], object], *, chunk: int = 504) -> None:
        """Do `some` of so many in all; all is well in between, and in the end."""
        self.check()
        first = base = self.server.resident
        for start in range(0, count, chunk):
            some(min(chunk, count - start))
            self.check()
            if start <= min(count // 10, 5000):  # code and buffers have been used once
                base = self.server.resident
        last = self.server.resident
        sizes = " ".join(f"{size / 1024**2:.1f}" for size in (first, base, last))
        print(
            f"\n{self.server.kind}: {count} with a slowest answer of {1000 * self.worst:.0f} ms; "
            f"MB before, after the first tenth, and in the end: {sizes}; {dict(self.seen)}"
        )
        assert last - base < GROWTH, f"grown to {sizes} MB"

    def check(self) -> None:
        """It lives, answers a good request rightly, and has logged no traceback."""
        assert self.server.process.poll() is None, self.server.text[-3000:]
        with closing(Wire(self.server.port)) as wire:
            answer = wire.ask(Post(V2_PATH, self._canary).wire())
        assert answer is not None
        assert answer.status == 200, answer
        sent = {item["name"]: item for item in orjson.loads(self._canary)["inputs"]}
        for item in orjson.loads(answer.body)["outputs"]:
            given = sent[item["name"].removesuffix("_out")]
            assert (item["datatype"], item["shape"]) == (given["datatype"], given["shape"])
            if not item["datatype"].startswith("FP"):
                assert item["data"] == given["data"]
        log = self.server.text
        assert "Traceback" not in log, log[log.index("Traceback") - 200 :][:5000]

    def post(self, posts: list[Post]) -> None:
        """Send requests, some at once; each answer must be one that a client can use."""
        for start in range(0, len(posts), AT_ONCE):
            asked = []
            for wire, post in zip(self._wires, posts[start:], strict=False):
                asked.append((wire, post, time.monotonic()))
                wire.send(post.wire())
            for wire, post, begun in asked:
                _judge(answer := wire.receive(), post)
                self.worst = max(self.worst, time.monotonic() - begun)
                assert answer is not None
                self.seen[str(answer.status)] += 1

    def crowd(self, manners: list[tuple[int, Manner]]) -> list[bytes]:
        """Many clients at once, each with a port and a manner; what each is answered."""

        def one(client: tuple[int, Manner]) -> bytes:
            return exchange(*client)

        answers = list(self._crowd.map(one, manners))
        for received, (_, manner) in zip(answers, manners, strict=True):
            if not received.startswith(b"HTTP/1.1 "):
                self.seen["bytes" if received else "nothing"] += 1
                continue
            for line in received.split(b"HTTP/1.1 ")[1:]:
                self.seen[str(code := int(line[:3]))] += 1
                told = f"{received[:300]!r} to {manner.sent[:2000]!r} ({manner.ending})"
                assert code < 500 or code in NOT_OURS, told
        return answers


def _judge(answer: Answer | None, post: Post) -> None:
    assert answer is not None, f"no answer to {post!r:.3000}"
    told = f"{answer.status} {answer.body[:300]!r} to {post!r:.3000}"
    assert answer.status < 500 or answer.status in NOT_OURS, told
    assert b"Traceback" not in answer.body, told
    if answer.headers.get("content-type", "").startswith("application/json") and answer.body:
        content = orjson.loads(answer.body)
        if answer.status >= 400:
            assert isinstance(content["error"], str), told
            assert content["error"], told
    assert answer.headers.get("grpc-status", "0") not in ("2", "4", "13", "14", "15"), told


def requests(target: Target, count: int) -> None:
    rng = random.Random(SEED)
    target.run(count, lambda some: target.post([http_post(rng) for _ in range(some)]))
    assert target.seen["400"] > target.seen["200"] > 0, target.seen


def grpc_messages(target: Target, count: int) -> None:
    rng = random.Random(SEED + 1)
    seen = target.seen
    with grpc.insecure_channel(f"127.0.0.1:{target.server.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def some(number: int) -> None:
            for start in range(0, number, AT_ONCE):
                begun = time.monotonic()
                payloads = [grpc_request(rng) for _ in range(min(AT_ONCE, number - start))]
                futures = [infer.future(payload, timeout=20) for payload in payloads]
                for payload, future in zip(payloads, futures, strict=True):
                    code = future.code()
                    seen[code.name] += 1
                    assert code not in GRPC_FAULTS, (
                        f"{code} {future.details()} to {payload!r:.3000}"
                    )
                target.worst = max(target.worst, time.monotonic() - begun)

        target.run(count, some)
    assert seen["INVALID_ARGUMENT"] > seen["OK"] > 0, seen


def sockets(target: Target, count: int) -> None:
    rng, port = random.Random(SEED + 2), target.server.port

    def one() -> tuple[int, Manner]:
        ending = "half-close" if rng.random() < 0.5 else "listen"
        return port, Manner((garbage.http1(rng),), ending=ending)

    target.run(count, lambda some: target.crowd([one() for _ in range(some)]))


def frames(target: Target, count: int) -> None:
    rng = random.Random(SEED + 3)
    ports = (target.server.port, target.server.grpc_port)

    def one() -> tuple[int, Manner]:
        ending = "half-close" if rng.random() < 0.5 else "listen"
        return rng.choice(ports), Manner((garbage.http2(rng),), ending=ending)

    def reset() -> tuple[int, Manner]:
        return rng.choice(ports), Manner((garbage.rapid_reset(rng),))

    target.run(count, lambda some: target.crowd([one() for _ in range(some)]))
    resets = max(4, count // 100)
    target.run(resets, lambda some: target.crowd([reset() for _ in range(some)]), chunk=4)


def slowness(target: Target, count: int) -> None:
    rng, port = random.Random(SEED + 5), target.server.port

    def some(number: int) -> None:
        kinds = rng.choices((slow.patient, slow.slowly), (0.3, 0.7), k=number)
        manners = [kind(rng) for kind in kinds]
        answers = target.crowd([(port, manner) for manner in manners])
        for kind, manner, answer in zip(kinds, manners, answers, strict=True):
            if kind is slow.patient:
                assert answer.startswith(b"HTTP/1.1 200 "), f"{answer!r} to {manner}"

    target.run(count, some)


def stalling(target: Target, count: int) -> None:
    rng, port = random.Random(SEED + 6), target.server.port

    def some(number: int) -> None:
        manners = [slow.stalled(rng) for _ in range(number)]
        answers = target.crowd([(port, manner) for manner in manners])
        for manner, answer in zip(manners, answers, strict=True):
            # `P` may have been meant for HTTP/2, which has no such words.
            assert answer.startswith(b"HTTP/1.1 408 ") or manner.sent == b"P", (answer, manner)

    target.run(count, some, chunk=CROWD)


def framing(target: Target, count: int) -> None:
    if target.server.kind == "uvicorn":
        pytest.skip("gRPC's own library reads the frames there")
    rng, seen = random.Random(SEED + 4), target.seen
    faults = {str(code.value[0]) for code in GRPC_FAULTS}

    def some(number: int) -> None:
        for _ in range(number):
            statuses = call_many(rng, target.server.grpc_port)
            seen.update(status or "reset" for status in statuses.values())
            assert faults.isdisjoint(filter(None, statuses.values())), statuses

    target.run(count, some, chunk=100)
    assert min(seen["3"], seen["8"]) > 0, seen  # wrong, and too large


#: Who sends what share of the malformed requests.
SHARES = (
    (requests, 0.63),
    (grpc_messages, 0.25),
    (sockets, 0.05),
    (frames, 0.03),
    (slowness, 0.02),
    (stalling, 0.01),
    (framing, 0.01),
)
PARTS = pytest.mark.parametrize(
    ("part", "share"), SHARES, ids=lambda it: getattr(it, "__name__", "")
)


@PARTS
def test_malformed(target: Target, part: Callable[[Target, int], None], share: float) -> None:
    if part is stalling:
        pytest.skip("it waits for RECEIVE_SECONDS; a person has the time")
    part(target, int(COUNT * share))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
@PARTS
def test_malformed_many(target: Target, part: Callable[[Target, int], None], share: float) -> None:
    part(target, int(MANY * share))


def _open(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_those_who_never_finish_cost_the_others_nothing(target: Target) -> None:
    port = target.server.port
    head = f"POST {V2_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n".encode()
    with ExitStack() as stack:
        for number in range(200):
            lingering = stack.enter_context(_open(port))
            lingering.sendall(head[: random.Random(number).randrange(len(head) + 1)])
        stalled = [stack.enter_context(_open(port)) for _ in range(50)]
        for connection in stalled:
            connection.sendall(head + b'{"inputs"')
        target.check()
        for connection in stalled[:25]:
            # A reset in the middle of the body.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        for connection in stalled[25:]:
            connection.sendall(b" ")
            connection.shutdown(socket.SHUT_WR)
        target.check()
    deadline = time.monotonic() + 20
    while target.server.metric("coalmine_inflight_requests") > 0:
        assert time.monotonic() < deadline, "still answering those who left"
        time.sleep(0.05)
    target.check()
