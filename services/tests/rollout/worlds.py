"""Traffic as the performance monitor would report it, without servers: for judging the judge."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coalmine.arms import Arm
from coalmine.rollout import Measured, MeasuredBlock, MeasuredPair

EDGES = tuple(100.0 * 10 ** (i / 20) for i in range(101))
STABLE, CANDIDATE = "3", "4"
#: An arm nobody is on.
OFF = "off"


@dataclass
class Requests:
    """One arm's requests, as columns."""

    second: NDArray[np.int64]
    version: str
    arm: str
    failed: NDArray[np.bool_]
    latency: NDArray[np.int64]
    right: NDArray[np.bool_]
    """[requests, instances]"""

    labelled_at: NDArray[np.float64]


@dataclass
class World:
    """Requests of several instances each, alike within a request; labels that come late.

    Accuracy, errors and slowness are by role; `incident` multiplies both arms' errors in a span.
    """

    seed: int
    rps: float = 50.0
    instances: int = 8
    accuracy: tuple[float, float] = (0.95, 0.95)
    """Of stable and candidate."""

    errors: tuple[float, float] = (0.0, 0.0)
    slower: float = 1.0
    """Factor on the candidate's latency."""

    warm_up: float = 0.0
    """Seconds in which a canary's every request is slow."""

    alike: float = 0.7
    """Share of requests whose instances stand and fall together."""

    agreement: float = 0.7
    """Share of requests that both models find equally hard."""

    label_delay: tuple[float, float] = (2.0, 15.0)
    incident: tuple[int, int, float] = (0, 0, 1.0)
    now: int = 0
    _arms: list[Requests] = field(default_factory=list)
    _pairs: list[tuple[Requests, Requests]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._canary_since: int | None = None

    def run(self, seconds: int, *, canary: float = 0.0, shadow: bool = False) -> None:
        """Let traffic flow: `canary` is its share of it."""
        if canary and self._canary_since is None:
            self._canary_since = self.now
        for second in range(self.now, self.now + seconds):
            self._second(second, canary=canary, shadow=shadow)
        self.now += seconds

    def _second(self, second: int, *, canary: float, shadow: bool) -> None:
        n, m = self._rng.poisson((self.rps * (1 - canary), self.rps * canary))
        hard = self._hardness(n)
        stable = self._answer(second, hard, role=0, arm=Arm.STABLE)
        self._arms.append(stable)
        if m:
            self._arms.append(self._answer(second, self._hardness(m), role=1, arm=Arm.CANARY))
        if shadow:
            own = self._rng.random((n, 1)) > self.agreement
            copy = np.where(own, self._hardness(n), hard)
            mirrored = self._answer(second, copy, role=1, arm=Arm.SHADOW)
            mirrored.labelled_at = stable.labelled_at
            self._arms.append(mirrored)
            self._pairs.append((stable, mirrored))

    def _hardness(self, n: int) -> NDArray[np.float64]:
        each = self._rng.random((n, self.instances))
        together = self._rng.random((n, 1)) < self.alike
        return np.where(together, each[:, :1], each)

    def _answer(self, second: int, hard: NDArray[np.float64], *, role: int, arm: Arm) -> Requests:
        n = len(hard)
        since, until, factor = self.incident
        rate = self.errors[role] * (factor if since <= second < until else 1.0)
        latency = 800.0 * self._rng.lognormal(0.0, 0.5, n) * (self.slower if role else 1.0)
        if arm == Arm.CANARY and second - (self._canary_since or 0) < self.warm_up:
            latency *= 50.0
        return Requests(
            second=np.full(n, second),
            version=(STABLE, CANDIDATE)[role],
            arm=arm.value,
            failed=self._rng.random(n) < rate,
            latency=np.searchsorted(EDGES, latency),
            right=hard < self.accuracy[role],
            labelled_at=second + self._rng.uniform(*self.label_delay, n),
        )

    def measured(self) -> Measured:
        """What the monitor says now; the last second is not evaluated yet."""
        ended = [r for r in self._arms if len(r.second) and r.second[0] < self.now - 1]
        return Measured(
            evaluated_to=float(self.now - 1),
            latency_edges_us=EDGES,
            blocks=tuple(self._block(each) for each in ended),
            pairs=tuple(self._pair(a, b) for a, b in self._pairs if len(a.second)),
        )

    def _block(self, r: Requests) -> MeasuredBlock:
        known = ~r.failed & (r.labelled_at <= self.now)
        return MeasuredBlock(
            time=float(r.second[0]),
            version=r.version,
            arm=r.arm,
            requests=len(r.second),
            errors=int(r.failed.sum()),
            latency_counts=tuple(np.bincount(r.latency, minlength=len(EDGES) + 1).tolist()),
            instances=int((~r.failed).sum()) * self.instances,
            labelled=int(known.sum()) * self.instances,
            correct=int(r.right[known].sum()),
        )

    def _pair(self, a: Requests, b: Requests) -> MeasuredPair:
        known = ~a.failed & ~b.failed & (a.labelled_at <= self.now)
        right, also = a.right[known], b.right[known]
        return MeasuredPair(
            time=float(a.second[0]),
            a_version=a.version,
            a_arm=a.arm,
            b_version=b.version,
            b_arm=b.arm,
            both_right=int((right & also).sum()),
            only_a=int((right & ~also).sum()),
            only_b=int((~right & also).sum()),
            both_wrong=int((~right & ~also).sum()),
        )
