"""One run of a world: a candidate and a baseline of the same size, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coalmine.arms import Arm
from coalmine.rollout import Callers, Evidence, Measured, MeasuredBlock, PairBlock, Window, select
from coalmine_loadtests.verdicts._latency import EDGES_US, SHAPES

__all__ = ["BLOCK_S", "Run", "World", "simulate"]

Counts = NDArray[np.int64]

#: Seconds. The monitor's blocks last one by default; longer ones are the harder case for latency,
#: and a tenth of the work.
BLOCK_S = 10.0
_CLASSES = np.array([0.7, 0.2, 0.1])
_WINDOW = Window(arm=Arm.CANARY, opened_at=0.0, weights={Arm.CANARY: 50, Arm.BASELINE: 50})


@dataclass(frozen=True, slots=True)
class World:
    """What happens. Errors are 0.5 %, right answers 95 %; every request is labelled at once."""

    per_minute: float = 300.0
    """Requests of each arm."""

    minutes: int = 30
    errors: float = 1.0
    """The candidate's error rate in the baseline's."""

    incident: float = 1.0
    """Both arms' error rate in the usual one, from minute 10 to 15."""

    shape: str = "lognormal 0.5"
    slower: float = 1.0
    """The candidate's latency in the baseline's."""

    bursts: float = 0.0
    """Share of an arm's blocks in which one of its processes pauses for two seconds."""

    callers: int = 0
    """Of each arm, if they stick to it: a tenth of them makes nearly all of the errors."""

    won: float = 0.03
    lost: float = 0.03
    """Shares of the pairs in which the candidate alone, or stable alone, is right."""

    pairs_per_minute: int = 83
    """Labelled pairs of an earlier shadow stage that come in: 2,500 in half an hour."""

    shifted: float = 0.0
    """Share of the candidate's answers that move from the first class to the second."""

    canary_share: float = 0.5
    """Of both arms' requests, where the weights say a half."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was counted, by arm (candidate, baseline) and minute; and all of it as evidence."""

    requests: Counts
    """[2, minutes]"""

    errors: Counts
    latency: Counts
    """[2, minutes, bins]"""

    measured: Measured
    whole: Evidence
    callers: tuple[dict[Arm, Callers], ...]

    def looks(self) -> Iterator[Evidence]:
        """The evidence as it is after each minute.

        A look sees a beginning of the blocks, and nothing of a block depends on later ones: the
        latency edges are those of the first 300 requests.
        """
        for minute in range(1, self.requests.shape[1] + 1):
            now = 60.0 * minute
            update = {
                "evaluated_to": now,
                "stage_seconds": now,
                "blocks": tuple(b for b in self.whole.blocks if b.time < now),
                "pairs": tuple(p for p in self.whole.pairs if p.time < now),
                "callers": self.callers[minute - 1] if self.callers else None,
            }
            yield self.whole.model_copy(update=update)


def simulate(world: World, rng: np.random.Generator) -> Run:
    """One run, in which all that happens follows from the generator."""
    blocks = int(world.minutes * 60 / BLOCK_S)
    mean = 2 * world.per_minute * BLOCK_S / 60
    shares = np.array([[world.canary_share], [1 - world.canary_share]])
    requests = rng.poisson(mean * shares, (2, blocks))
    minute = (np.arange(blocks) * BLOCK_S // 60).astype(int)
    callers: tuple[dict[Arm, Callers], ...] = ()
    if world.callers:
        errors, callers = _errors_by_caller(world, requests, rng)
    else:
        rate = 0.005 * np.where((minute >= 10) & (minute < 15), world.incident, 1.0)
        factors = np.array([[world.errors], [1.0]])
        errors = rng.binomial(requests, np.minimum(1.0, factors * rate))
    latency = _latency(world, requests, rng)
    right = rng.binomial(requests, 0.95)
    classes = _CLASSES + world.shifted * np.array([-1.0, 1.0, 0.0])
    answers = [rng.multinomial(requests[i], p) for i, p in enumerate((classes, _CLASSES))]
    measured = Measured(
        evaluated_to=world.minutes * 60.0,
        latency_edges_us=tuple(EDGES_US.tolist()),
        prediction_names=("a", "b", "c"),
        source="simulation",
        blocks=tuple(
            MeasuredBlock(
                time=block * BLOCK_S,
                version="2" if arm is Arm.CANARY else "1",
                arm=arm.value,
                requests=int(requests[i, block]),
                errors=int(errors[i, block]),
                latency_counts=tuple(latency[i, block].tolist()),
                labelled=int(requests[i, block]),
                correct=int(right[i, block]),
                predictions=tuple(answers[i][block].tolist()),
            )
            for i, arm in enumerate((Arm.CANARY, Arm.BASELINE))
            for block in range(blocks)
            if requests[i, block]
        ),
    )
    evidence = select(
        measured, windows=(_WINDOW,), candidate="2", stable="1", block_s=BLOCK_S,
        sticky=bool(world.callers),
    )  # fmt: skip
    whole = evidence.model_copy(update={"request_size": 1.0, "pairs": _pairs(world, rng)})
    by_minute = (2, world.minutes, -1)
    return Run(
        requests=requests.reshape(by_minute).sum(2),
        errors=errors.reshape(by_minute).sum(2),
        latency=latency.reshape((*by_minute, latency.shape[2])).sum(2),
        measured=measured,
        whole=whole,
        callers=callers,
    )


def _pairs(world: World, rng: np.random.Generator) -> tuple[PairBlock, ...]:
    chances = (world.won, world.lost, 1 - world.won - world.lost)
    counts = rng.multinomial(world.pairs_per_minute, chances, size=world.minutes).tolist()
    return tuple(
        PairBlock(time=60.0 * minute, won=won, lost=lost, even=even)
        for minute, (won, lost, even) in enumerate(counts)
    )


def _latency(world: World, requests: Counts, rng: np.random.Generator) -> Counts:
    shape = SHAPES[world.shape]
    found = np.stack(
        [rng.multinomial(requests[i], shape.shares(f)) for i, f in enumerate((world.slower, 1.0))]
    )
    if world.bursts:
        # In two seconds of ten a fifth of the requests wait for the pause to end.
        waits = rng.random(requests.shape) < world.bursts
        late = np.where(waits, rng.binomial(requests, 0.2), 0)
        for arm, block in zip(*np.nonzero(late), strict=True):
            counts = found[arm, block]
            moved = min(int(late[arm, block]), int(counts.sum()))
            taken = rng.multivariate_hypergeometric(counts, moved)
            counts -= taken
            counts[80] += moved
    return found.astype(np.int64)


def _errors_by_caller(
    world: World, requests: Counts, rng: np.random.Generator
) -> tuple[Counts, tuple[dict[Arm, Callers], ...]]:
    """Errors of callers who stick to an arm, and what is known of them after each minute."""
    blocks, per_minute = requests.shape[1], int(60 / BLOCK_S)
    errors = np.zeros_like(requests)
    by_minute: list[dict[Arm, Callers]] = [{} for _ in range(world.minutes)]
    for i, arm in enumerate((Arm.CANARY, Arm.BASELINE)):
        busy = rng.lognormal(0.0, 1.0, world.callers)
        odd = rng.random(world.callers) < 0.1
        rate = np.where(odd, 0.0455, 0.0005) * (world.errors if i == 0 else 1.0)
        n = rng.multinomial(requests[i], busy / busy.sum())
        e = rng.binomial(n, rate)
        errors[i] = e.sum(1)
        for minute in range(world.minutes):
            until = min(blocks, (minute + 1) * per_minute)
            so_far, failed = n[:until].sum(0), e[:until].sum(0)
            by_minute[minute][arm] = Callers(
                callers=int((so_far > 0).sum()),
                requests=int(so_far.sum()),
                errors=int(failed.sum()),
                requests_squared=int((so_far**2).sum()),
                requests_errors=int((so_far * failed).sum()),
                errors_squared=int((failed**2).sum()),
            )
    return errors, tuple(by_minute)
