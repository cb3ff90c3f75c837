"""The batcher: no timer, no waiting for others, no harm by those who leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalmine.protocol import Tensors
from coalmine.serving import (
    Batcher,
    BatchLimits,
    Computed,
    InlinePolicy,
    QueueFullError,
)

from .gated import Gate, column, doubled


async def test_a_lone_request_runs_at_once_and_the_queue_while_it_runs_is_one_batch() -> None:
    gate = Gate()
    batcher = Batcher(gate)
    first = asyncio.create_task(batcher.submit(column(1), 1))
    await gate.started()
    others = [asyncio.create_task(batcher.submit(column(v), 1)) for v in (2, 3, 4)]
    await asyncio.sleep(0)
    assert batcher.queued_rows == 3
    gate.leave.release(2)
    outcomes = await asyncio.gather(first, *others)
    assert gate.batches == [[1.0], [2.0, 3.0, 4.0]]
    assert [o.computed.outputs["y"].tolist() for o in outcomes] == [[2], [4], [6], [8]]
    assert [o.batch_rows for o in outcomes] == [1, 3, 3, 3]
    assert outcomes[1].queue_seconds > 0
    assert batcher.queued_rows == 0
    batcher.close()


async def test_batches_are_bounded_alike_and_first_come_first_served() -> None:
    gate = Gate()
    batcher = Batcher(gate, limits=BatchLimits(batch_rows=3))
    tasks = [asyncio.create_task(batcher.submit(column(0), 1))]
    await gate.started()
    wide: Tensors = {"x": np.ones((1, 2), np.float32)}
    for tensors in (column(1, 2), column(3), column(4), wide, column(5)):
        tasks.append(asyncio.create_task(batcher.submit(tensors, len(tensors["x"]))))
    await asyncio.sleep(0)
    gate.leave.release(10)
    await asyncio.gather(*tasks)
    assert gate.batches == [[0], [1, 2, 3], [4, 5], [1, 1]]
    batcher.close()


async def test_a_network_without_a_batch_dimension_runs_each_request_alone() -> None:
    gate = Gate()
    batcher = Batcher(gate, batchable=False)
    tasks = [asyncio.create_task(batcher.submit(column(v), 1)) for v in (1, 2, 3)]
    gate.leave.release(10)
    await asyncio.gather(*tasks)
    assert gate.batches == [[1], [2], [3]]
    batcher.close()


@pytest.mark.parametrize("fault", [ValueError("thirteen"), RuntimeError(), GeneratorExit()])
async def test_one_bad_request_fails_alone(fault: BaseException) -> None:
    gate = Gate()
    gate.fault = fault
    batcher = Batcher(gate)
    first = asyncio.create_task(batcher.submit(column(0), 1))
    await gate.started()
    tasks = [asyncio.create_task(batcher.submit(column(v), 1)) for v in (1, 13, 2)]
    await asyncio.sleep(0)
    gate.leave.release(10)
    await first
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1] is fault
    assert [r.computed.outputs["y"].tolist() for r in (results[0], results[2])] == [[2], [4]]  # type: ignore[union-attr]
    batcher.close()


async def test_who_left_a_run_that_fails_disturbs_nobody() -> None:
    gate = Gate()
    batcher = Batcher(gate)
    gone = asyncio.create_task(batcher.submit(column(13), 1))
    await gate.started()
    waiting = asyncio.create_task(batcher.submit(column(1), 1))
    await asyncio.sleep(0)
    gone.cancel()
    gate.leave.release(2)
    assert (await waiting).computed.outputs["y"].tolist() == [2]
    assert gone.cancelled()
    batcher.close()


async def test_a_model_that_loses_rows_cannot_mix_up_callers() -> None:
    def lossy(tensors: Tensors) -> Computed:
        result = {"y": tensors["x"][:1]}
        return Computed(tensors, result, result)

    gate = Gate()
    batcher = Batcher(lambda t: lossy(t) if gate(t) else lossy(t))
    first = asyncio.create_task(batcher.submit(column(0), 1))
    await gate.started()
    tasks = [asyncio.create_task(batcher.submit(column(v), 1)) for v in (1, 2)]
    await asyncio.sleep(0)
    gate.leave.release(10)
    await first
    outcomes = await asyncio.gather(*tasks)
    assert [o.computed.outputs["y"].tolist() for o in outcomes] == [[1], [2]]
    batcher.close()


async def test_a_cheap_model_runs_in_the_callers_thread() -> None:
    threads: list[int] = []

    def noting(tensors: Tensors) -> Computed:
        threads.append(threading.get_ident())
        return doubled(tensors)

    batcher = Batcher(noting, inline=InlinePolicy(2))
    await batcher.submit(column(1, 2), 2)
    await batcher.submit(column(1, 2, 3), 3)
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()
    batcher.close()


async def test_a_full_queue_refuses_and_recovers() -> None:
    gate = Gate()
    batcher = Batcher(gate, limits=BatchLimits(queue_rows=3))
    running = asyncio.create_task(batcher.submit(column(0), 1))
    await gate.started()
    large = asyncio.create_task(batcher.submit(column(*range(10)), 10))  # alone, it may exceed
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await batcher.submit(column(1), 1)
    large.cancel()
    await asyncio.sleep(0)
    assert batcher.queued_rows == 0, "a caller that left no longer counts"
    later = asyncio.create_task(batcher.submit(column(2), 1))
    await asyncio.sleep(0)
    last = asyncio.create_task(batcher.submit(column(3, 4), 2))  # as many as may wait
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="3 rows wait"):
        await batcher.submit(column(5), 1)
    gate.leave.release(10)
    assert (await later).computed.outputs["y"].tolist() == [4]
    assert (await last).computed.outputs["y"].tolist() == [6, 8]
    await running
    assert gate.batches == [[0], [2, 3, 4]]
    batcher.close()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["stay", "before", "queued", "running"])),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 2),
    st.integers(1, 6),
)
def test_whoever_leaves_whenever_the_others_get_their_own_answer(
    callers: list[tuple[int, str]], runners: int, max_batch_rows: int
) -> None:
    asyncio.run(_some_leave(callers, runners=runners, max_batch_rows=max_batch_rows))


async def _some_leave(callers: list[tuple[int, str]], *, runners: int, max_batch_rows: int) -> None:
    gate = Gate()
    limits = BatchLimits(batch_rows=max_batch_rows)
    batcher = Batcher(gate, runners=runners, limits=limits)
    tasks: list[asyncio.Task[Any]] = []

    def leave(when: str) -> None:
        for task, (_, leaves) in zip(tasks, callers, strict=True):
            if leaves == when:
                task.cancel()

    for number, (rows, _) in enumerate(callers):
        values = [number * 10.0 + row for row in range(rows)]
        tasks.append(asyncio.create_task(batcher.submit(column(*values), rows)))
    leave("before")
    await asyncio.sleep(0)
    leave("queued")
    await asyncio.sleep(0)
    if any(when in ("stay", "running") for _, when in callers):
        await gate.started()
    leave("running")
    gate.leave.release(1000)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    for number, ((rows, leaves), result) in enumerate(zip(callers, results, strict=True)):
        if leaves == "stay":
            want = [2 * (number * 10.0 + row) for row in range(rows)]
            assert result.computed.outputs["y"].tolist() == want
        else:
            assert isinstance(result, asyncio.CancelledError)
    assert batcher.queued_rows == 0
    assert (await batcher.submit(column(1), 1)).computed.outputs["y"].tolist() == [2]
    batcher.close()


async def test_what_arrives_in_one_turn_is_one_batch_in_place() -> None:
    batches: list[list[float]] = []

    def noting(tensors: Tensors) -> Computed:
        batches.append(tensors["x"].ravel().tolist())
        return doubled(tensors)

    batcher = Batcher(noting, inline=InlinePolicy(4))
    outcomes = await asyncio.gather(*(batcher.submit(column(v), 1) for v in range(6)))
    assert batches == [[0, 1, 2, 3], [4, 5]]
    assert [o.computed.outputs["y"].tolist() for o in outcomes] == [[2 * v] for v in range(6)]
    assert [o.batch_rows for o in outcomes] == [4, 4, 4, 4, 2, 2]
    batcher.close()


async def test_a_batch_run_in_place_survives_a_request_that_the_model_refuses() -> None:
    def superstitious(tensors: Tensors) -> Computed:
        if (tensors["x"] == 13).any():
            raise ValueError("thirteen")
        return doubled(tensors)

    batcher = Batcher(superstitious, inline=InlinePolicy(100))
    values = (1, 13, 2, 13)
    results = await asyncio.gather(
        *(batcher.submit(column(v), 1) for v in values), return_exceptions=True
    )
    assert [isinstance(result, ValueError) for result in results] == [False, True, False, True]
    assert [r.computed.outputs["y"].tolist() for r in results[::2]] == [[2], [4]]  # type: ignore[union-attr]
    batcher.close()


async def test_who_leaves_between_arrival_and_batch_costs_nothing() -> None:
    seen: list[float] = []

    def noting(tensors: Tensors) -> Computed:
        seen.extend(tensors["x"].ravel().tolist())
        return doubled(tensors)

    batcher = Batcher(noting, inline=InlinePolicy(100))
    tasks: list[asyncio.Task[Any]] = []

    async def leaves() -> None:
        tasks[1].cancel()

    for value in (1, 2, 3):
        tasks.append(asyncio.create_task(batcher.submit(column(value), 1)))
    leaver = asyncio.create_task(leaves())  # in the same turn, before the batch is formed
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await leaver
    assert seen == [1, 3]
    assert isinstance(results[1], asyncio.CancelledError)
    assert batcher.queued_rows == 0
    batcher.close()


async def test_many_small_requests_and_a_huge_one_wait_for_each_other_once() -> None:
    gate = Gate()
    batcher = Batcher(gate, limits=BatchLimits(batch_rows=4))
    tasks = [asyncio.create_task(batcher.submit(column(0), 1))]
    await gate.started()
    huge = [float(n) for n in range(100, 110)]
    for values in ([1.0], huge, [2.0], [3.0], huge, [4.0]):
        tasks.append(asyncio.create_task(batcher.submit(column(*values), len(values))))
    await asyncio.sleep(0)
    gate.leave.release(10)
    await asyncio.gather(*tasks)
    assert gate.batches == [[0], [1], huge, [2, 3], huge, [4]]
    batcher.close()


async def test_the_queue_is_bounded_by_bytes_too() -> None:
    gate = Gate()
    batcher = Batcher(gate, limits=BatchLimits(queue_bytes=64, batch_bytes=16))
    tasks = [asyncio.create_task(batcher.submit(column(0), 1))]
    await gate.started()
    tasks += [
        asyncio.create_task(batcher.submit(column(1, 1), 2)) for _ in range(8)
    ]  # 8 bytes each
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="try again later"):
        await batcher.submit(column(1), 1)
    tasks[-1].cancel()
    await asyncio.sleep(0)
    tasks[-1] = asyncio.create_task(batcher.submit(column(1, 1), 2))  # as much as has left
    await asyncio.sleep(0)
    gate.leave.release(10)
    await asyncio.gather(*tasks)
    assert gate.batches == [[0]] + [[1, 1, 1, 1]] * 4
    batcher.close()


async def test_a_burst_of_one_turn_is_not_an_overload() -> None:
    batcher = Batcher(doubled, inline=InlinePolicy(4), limits=BatchLimits(queue_rows=3))
    outcomes = await asyncio.gather(*(batcher.submit(column(v), 1) for v in range(50)))
    assert [o.computed.outputs["y"].tolist() for o in outcomes] == [[2 * v] for v in range(50)]
    batcher.close()


def test_a_loop_that_ended_meanwhile_worries_no_runner() -> None:
    gate = Gate()
    before = set(threading.enumerate())

    async def begin() -> None:
        batcher = Batcher(gate)
        asyncio.ensure_future(batcher.submit(column(1), 1))
        await gate.started()

    asyncio.run(begin())
    runners = [each for each in set(threading.enumerate()) - before if "runner" in each.name]
    gate.leave.release()
    for runner in runners:  # what it raised would be an error of this test
        runner.join(60)
        assert not runner.is_alive()


def test_a_model_that_turns_slow_leaves_the_event_loop_until_it_is_cheap_again() -> None:
    policy = InlinePolicy(8, seconds=0.02)
    policy.observe(0.03)
    assert policy.rows == 8, "a hiccup of the machine is not the model's"
    policy.observe(1.5)
    assert policy.rows == 0
    cheap = 0
    while not policy.rows:
        policy.observe(0.001)
        cheap += 1
    assert policy.rows == 8
    assert cheap > 100, "one cheap batch proves nothing"
    for _ in range(3):
        policy.observe(1.5)
    again = 0
    while not policy.rows:
        policy.observe(0.001)
        again += 1
    assert again > 2 * cheap, "who wastes more time is trusted later"
    for _ in range(100):
        policy.observe(0.03)
        for _ in range(20):
            policy.observe(0.001)
        assert policy.rows == 8, "rare hiccups never add up"


def test_always_in_place_means_always() -> None:
    policy = InlinePolicy(8)
    policy.observe(30)
    assert policy.rows == 8


async def test_what_waits_when_it_closes_is_told(recwarn: Callable[..., Any]) -> None:
    gate = Gate()
    batcher = Batcher(gate)
    running = asyncio.create_task(batcher.submit(column(0), 1))
    await gate.started()
    waiting = asyncio.create_task(batcher.submit(column(1), 1))
    await asyncio.sleep(0)
    batcher.close()
    with pytest.raises(Exception, match="shutting down"):
        await waiting
    gate.leave.release(10)
    assert (await running).computed.outputs["y"].tolist() == [0]
