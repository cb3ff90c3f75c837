"""Measuring: rounds over all targets in turn, so that a noisy minute falls on each alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from coalmine_loadtests._payloads import Payload
from coalmine_loadtests.bench._load import Ask, Target

__all__ = ["BenchOptions", "Case", "Measured", "Result", "measure"]

_WARM_UP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure; everything has a default, so that `coalmine bench` alone does something."""

    url: str | None = None
    """A running gateway or server; None: a server and a gateway are started for the run."""

    model: Path | None = None
    """Model directory for the peer in process, the one that `url` serves; None: one is made."""

    name: str = "ev-battery"
    transformer: str = "coalmine_transformers.battery:BatteryTransformer"
    windows: tuple[int, ...] = (1, 8, 64)
    """Windows of one request, a case each."""

    connections: tuple[int, ...] = (1, 8)
    """Requests under way at a time, a case each; 1 shows the latency, more the throughput."""

    seconds: float = 1.0
    """Of one measurement."""

    rounds: int = 3
    """Measurements of each target, of which the median is reported."""

    json: Path | None = None
    """Where the numbers are written too."""


@dataclass(frozen=True, slots=True)
class Case:
    """Windows per request, and requests under way at a time."""

    windows: int
    connections: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of one target."""

    windows_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds; `ratio` is the share of the windows per second in process."""

    case: Case
    target: str
    protocol: str
    windows_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        """Flat, for JSON."""
        content = asdict(self)
        return {**content.pop("case"), **content}


async def measure(
    targets: Sequence[Target],
    payloads: Sequence[Payload],
    *,
    case: Case,
    seconds: float,
    rounds: int,
) -> list[Result]:
    """All targets in one case. The first target is the peer in process that the ratios are against.

    Every target must first give the labels that the peer gives, for every payload.
    """
    expected = await _answers(targets[0], payloads)
    for target in targets[1:]:
        answers = await _answers(target, payloads)
        for payload, wanted, found in zip(payloads, expected, answers, strict=True):
            if not np.array_equal(wanted, found):
                raise ValueError(
                    f"{target.name} over {target.protocol} answers {found.tolist()} where the "
                    f"model in process answers {wanted.tolist()} (vehicle {payload.vehicle})"
                )
    rounds_of: list[list[Measured]] = [[] for _ in targets]
    for _ in range(rounds):
        for measured, target in zip(rounds_of, targets, strict=True):
            measured.append(await _load(target, payloads, case=case, seconds=seconds))
    peer = median(m.windows_per_s for m in rounds_of[0])
    return [
        Result(
            case=case,
            target=target.name,
            protocol=target.protocol,
            windows_per_s=median(m.windows_per_s for m in measured),
            p50_ms=median(m.p50_ms for m in measured),
            p99_ms=median(m.p99_ms for m in measured),
            errors=sum(m.errors for m in measured),
            ratio=median(m.windows_per_s for m in measured) / peer,
        )
        for target, measured in zip(targets, rounds_of, strict=True)
    ]


async def _answers(target: Target, payloads: Sequence[Payload]) -> list[Any]:
    async with target.connect() as ask:
        return [await ask(payload) for payload in payloads]


async def _load(
    target: Target, payloads: Sequence[Payload], *, case: Case, seconds: float
) -> Measured:
    """A closed loop: every connection sends its next request when the last one is answered."""
    async with AsyncExitStack() as stack:
        asks = [await stack.enter_async_context(target.connect()) for _ in range(case.connections)]
        for number in range(_WARM_UP):
            await asks[number % len(asks)](payloads[number % len(payloads)])
        took: list[float] = []
        started = time.perf_counter()
        errors = await asyncio.gather(
            *(_loop(ask, payloads, start=i, until=started + seconds, took=took)
              for i, ask in enumerate(asks))
        )  # fmt: skip
        elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(took, [50, 99]) if took else (float("nan"), float("nan"))
    rate = len(took) * case.windows / elapsed
    return Measured(rate, 1e3 * float(p50), 1e3 * float(p99), sum(errors))


async def _loop(
    ask: Ask, payloads: Sequence[Payload], *, start: int, until: float, took: list[float]
) -> int:
    errors = 0
    for number in count(start):
        sent = time.perf_counter()
        if sent >= until:
            break
        try:
            await ask(payloads[number % len(payloads)])
        except Exception:  # whatever a server or a broken connection can do, counted as one error
            errors += 1
            # A refused connection costs nothing to try again, and must not spin.
            await asyncio.sleep(0.01)
        else:
            took.append(time.perf_counter() - sent)
    return errors
