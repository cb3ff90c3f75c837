"""The parts that processes of one server work together with: channel, merged metrics, versions."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalmine.serving import ModelLoadError
from coalmine.serving._channel import Channel, ChannelClosedError, call_now
from coalmine.serving._hub import Member
from coalmine.serving._merge import Family, counts_only, merged
from coalmine.serving._ports import hold_port, is_listening, shared_socket
from coalmine.serving._versions import VersionLedger
from coalmine.serving._watchdog import watch


async def double(op: str, args: dict[str, Any]) -> Any:
    await asyncio.sleep(args.get("wait", 0))
    if op == "refuse":
        raise ModelLoadError("not this one")
    if op == "break":
        raise KeyError("secret")
    return {"op": op, "twice": args["value"] * 2}


async def pair() -> tuple[Channel, Channel, list[asyncio.Task[None]]]:
    one, other = socket.socketpair()
    ends = (await Channel.over(one, double), await Channel.over(other, double))
    return (*ends, [asyncio.create_task(end.run()) for end in ends])


async def test_requests_go_both_ways_and_overtake_each_other() -> None:
    one, other, running = await pair()
    slow = asyncio.create_task(one.request("slow", value=1, wait=0.05))
    quick = await asyncio.gather(*(end.request("quick", value=2) for end in (one, other)))
    assert [answer["twice"] for answer in quick] == [4, 4]
    assert not slow.done()
    assert (await slow) == {"op": "slow", "twice": 2}
    large = "x" * 3_000_000
    assert (await other.request("large", value=large))["twice"] == 2 * large
    for task in running:
        task.cancel()


async def test_errors_cross_as_themselves() -> None:
    one, _, running = await pair()
    with pytest.raises(ModelLoadError, match="not this one"):
        await one.request("refuse", value=1)
    with pytest.raises(RuntimeError, match="KeyError"):
        await one.request("break", value=1)
    for task in running:
        task.cancel()


async def watched(channel: Channel, *, patience: float) -> tuple[asyncio.Task[None], list[str]]:
    member = Member(0)
    member.channel, member.joined = channel, True
    killed: list[str] = []
    return asyncio.create_task(
        watch(member, patience=patience, kill=lambda: killed.append("killed"))
    ), killed


async def test_who_answers_is_not_killed_and_who_is_gone_neither() -> None:
    one, other = socket.socketpair()

    async def alive(op: str, args: dict[str, Any]) -> None:
        assert (op, args) == ("ping", {})

    end, theirs = await Channel.over(one, double), await Channel.over(other, alive)
    running = [asyncio.create_task(each.run()) for each in (end, theirs)]
    watching, killed = await watched(end, patience=0.05)
    await asyncio.sleep(0.3)
    assert not watching.done()
    running[1].cancel()
    await asyncio.wait_for(watching, 20)
    assert not killed
    running[0].cancel()


async def test_who_does_not_answer_is_killed() -> None:
    one, other = socket.socketpair()
    with other:  # which nobody reads
        end = await Channel.over(one, double)
        running = asyncio.create_task(end.run())
        watching, killed = await watched(end, patience=0.05)
        await asyncio.wait_for(watching, 20)
        assert killed == ["killed"]
        running.cancel()


async def test_a_watchdog_that_slept_itself_lets_the_others_speak_first() -> None:
    one, other, running = await pair()
    watching, killed = await watched(one, patience=0.05)

    async def ping(op: str, args: dict[str, Any]) -> None:
        return None

    other._handle = ping
    await asyncio.sleep(0.01)
    for _ in range(5):
        time.sleep(0.2)  # four times its patience; nobody in this process could answer
        await asyncio.sleep(0.02)
    assert not killed
    watching.cancel()
    for task in running:
        task.cancel()


async def test_when_the_other_end_dies_nobody_waits() -> None:
    one, _, running = await pair()
    asking = asyncio.create_task(one.request("slow", value=1, wait=60))
    await asyncio.sleep(0.02)
    running[1].cancel()  # its end is closed
    with pytest.raises(ChannelClosedError):
        await asking
    with pytest.raises(ChannelClosedError):
        await one.request("quick", value=1)


async def test_one_who_left_does_not_disturb_another() -> None:
    one, _, running = await pair()
    leaves, stays = (
        asyncio.create_task(one.request("slow", value=value, wait=0.05)) for value in (1, 2)
    )
    await asyncio.sleep(0.01)
    leaves.cancel()
    assert (await stays)["twice"] == 4
    assert (await one.request("quick", value=5))["twice"] == 10
    for task in running:
        task.cancel()


async def test_asking_before_there_is_a_loop() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(theirs, double)
    running = asyncio.create_task(channel.run())
    answer = await asyncio.to_thread(call_now, ours, "quick", value=3)
    assert answer == {"op": "quick", "twice": 6}
    with pytest.raises(ModelLoadError):
        await asyncio.to_thread(call_now, ours, "refuse", value=3)
    ours.close()
    await running


def counter(value: float, **labels: str) -> Family:
    samples = [("c_total", labels, value), ("c_created", labels, 100 - value)]
    return Family("c", "counter", "text", samples)


def gauge(name: str, value: float) -> Family:
    return Family(name, "gauge", "text", [(name, {}, value)])


@given(st.lists(st.integers(0, 1000), min_size=1), st.lists(st.integers(0, 1000)))
def test_counts_are_summed_by_labels(ours: list[int], theirs: list[int]) -> None:
    processes = [[counter(v, m="a")] for v in ours] + [[counter(v, m="b")] for v in theirs]
    (family,) = merged(processes)
    found = {(name, labels["m"]): value for name, labels, value in family.samples}
    assert found["c_total", "a"] == sum(ours)
    assert found["c_created", "a"] == min(100 - value for value in ours), "the oldest"
    assert found.get(("c_total", "b"), 0) == sum(theirs)


def test_gauges_that_count_and_gauges_that_say_what_is() -> None:
    names = ("coalmine_queue_rows", "coalmine_model_state", "coalmine_gpu_memory_bytes")
    families = [gauge(name, 2) for name in names]
    values = [family.samples[0][2] for family in merged([families, families])]
    assert values == [4, 2, 2]
    assert counts_only([*families, counter(1)]) == [counter(1)]


def test_versions() -> None:
    ledger = VersionLedger()

    def name(digest: str | None, declared: str | None = None) -> str:
        return ledger.version("m", declared=declared, digest=digest)

    assert [name("a"), name("b"), name("a"), name("c")] == ["1", "2", "1", "3"]
    assert name("x", "9") == "9"
    assert [name("x"), name("y")] == ["9", "10"], "no name twice"
    assert [name(None), name(None)] == ["11", "12"], "no digest: it may be anything"
    assert ledger.version("other", declared=None, digest="a") == "1"


def test_a_held_port_is_nobody_elses() -> None:
    with hold_port("127.0.0.1", 0) as port:
        assert not is_listening(port)
        with shared_socket("127.0.0.1", port) as shared:
            shared.listen()
            assert is_listening(port)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
