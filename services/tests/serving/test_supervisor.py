"""The supervisor of `--processes N` when starting a process fails for a reason of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coalmine.serving import _processes
from coalmine.serving._errors import ModelLoadError
from coalmine.serving._hub import Hub
from coalmine.serving._options import ServeOptions
from coalmine.serving._ports import hold_port


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """What fails for the second process, the first time."""
    happened: list[str] = []
    fork, join = asyncio.create_subprocess_exec, Hub._join
    calls = iter(range(100))

    async def forking(*command: Any, **options: Any) -> Any:
        if next(calls) == 1 and request.param == "fork":
            happened.append("fork")
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await fork(*command, **options)

    async def joining(self: Hub, member: Any, plans: Any) -> None:
        if member.index == 1 and request.param == "join" and not happened:
            happened.append("join")
            raise ModelLoadError("the source is gone")
        await join(self, member, plans)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", forking)
    monkeypatch.setattr(Hub, "_join", joining)
    return happened


@pytest.mark.parametrize("failures", ["fork", "join"], indirect=True)
async def test_a_process_that_cannot_start_just_now_is_started_again(
    model_dir: Path,
    failures: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with hold_port("127.0.0.1", 0) as port:
        supervisor = _processes._Supervisor(
            ServeOptions(model=str(model_dir), name="toy", processes=2, port=port)
        )
        running = asyncio.create_task(supervisor.run())
        try:
            async with asyncio.timeout(60):
                while not all(member.joined for member in supervisor._members):
                    assert not running.done()
                    await asyncio.sleep(0.05)
        finally:
            supervisor._stop()
            assert await running == 0
    assert len(failures) == 1
    assert [member.restarts for member in supervisor._members] == [0, 1]
    why = {"fork": "Resource temporarily unavailable", "join": "the source is gone"}
    assert why[failures[0]] in caplog.text
