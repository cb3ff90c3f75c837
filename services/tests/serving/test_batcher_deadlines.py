"""The batcher: whose time is over hears so in time, and costs the model nothing."""

from __future__ import annotations

import asyncio
import weakref

import numpy as np
import pytest

from coalmine.clock import SYSTEM_CLOCK
from coalmine.protocol import Tensors
from coalmine.serving import (
    Batcher,
    DeadlineError,
)

from .gated import Gate, column, doubled


async def test_an_expired_request_is_dropped_before_it_is_run() -> None:
    gate = Gate()
    batcher = Batcher(gate)
    running = asyncio.create_task(batcher.submit(column(0), 1))
    await gate.started()
    soon = SYSTEM_CLOCK.monotonic() + 0.05
    late = asyncio.create_task(batcher.submit(column(1), 1, deadline=soon))
    patient = asyncio.create_task(batcher.submit(column(2), 1, deadline=soon + 60))
    with pytest.raises(DeadlineError):  # told in time, though the model is still busy
        await late
    assert batcher.queued_rows == 1
    gate.leave.release(10)
    assert (await patient).computed.outputs["y"].tolist() == [4]
    await running
    with pytest.raises(DeadlineError):
        await batcher.submit(column(3), 1, deadline=SYSTEM_CLOCK.monotonic() - 1)
    await batcher.submit(column(4), 1)
    assert gate.batches == [[0], [2], [4]]
    batcher.close()


async def test_each_request_that_waits_hears_in_time_whatever_its_shape() -> None:
    gate = Gate()
    batcher = Batcher(gate)
    tasks = [asyncio.create_task(batcher.submit(column(0), 1))]
    await gate.started()
    wide: Tensors = {"x": np.ones((1, 2), np.float32)}
    tasks.append(asyncio.create_task(batcher.submit(wide, 1)))
    while not batcher.queued_rows:
        await asyncio.sleep(0)
    soon = SYSTEM_CLOCK.monotonic() + 0.05
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(batcher.submit(column(1), 1, deadline=soon), 60)
    gate.leave.release(10)
    await asyncio.gather(*tasks)
    assert gate.batches == [[0], [1, 1]]
    batcher.close()


async def test_a_request_that_runs_too_long_is_told_so_and_harms_nobody() -> None:
    gate = Gate()
    batcher = Batcher(gate)
    soon = SYSTEM_CLOCK.monotonic() + 0.05
    tasks = [
        asyncio.create_task(batcher.submit(column(1), 1, deadline=soon)),
        asyncio.create_task(batcher.submit(column(2), 1)),
    ]
    await gate.started()
    with pytest.raises(DeadlineError):
        await tasks[0]
    gate.leave.release(10)
    assert (await tasks[1]).computed.outputs["y"].tolist() == [4]
    assert gate.batches == [[1, 2]]
    batcher.close()


async def test_an_answered_request_is_let_go_long_before_its_time_is_over() -> None:
    batcher = Batcher(doubled)
    tensors = column(1)
    held = weakref.ref(tensors["x"])
    in_an_hour = SYSTEM_CLOCK.monotonic() + 3600
    assert (await batcher.submit(tensors, 1, deadline=in_an_hour)).batch_rows == 1
    del tensors
    for _ in range(1000):  # the runner lets go of it a moment later
        if held() is None:
            break
        await asyncio.sleep(0.01)
    assert held() is None, "held by a timer, or by an idle runner"
    batcher.close()
