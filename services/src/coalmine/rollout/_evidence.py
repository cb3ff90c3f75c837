"""The evidence of a rollout: two arms side by side, block by block.

Only what was measured while the data plane was confirmed to route by the stage's plan counts
(`Window`), only of the two versions that are compared, and only blocks that are complete and in
which both arms had requests. Everything else is absence of data, which decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from coalmine.arms import Arm
from coalmine.rollout._measured import Measured, MeasuredBlock

__all__ = ["ArmCounts", "Block", "Evidence", "PairBlock", "Window", "select"]

#: Stable's own latency that counts as slow: the smallest measured edge that at most this share of
#: its requests exceed.
_SLOW_SHARE = 0.05


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(_Frozen):
    """A stretch of time in which the candidate was on an arm and the routes were confirmed."""

    arm: Arm
    opened_at: float
    closed_at: float | None = None
    """Seconds since the epoch; None while it lasts."""

    def holds(self, time: float, end: float) -> bool:
        """Whether a block lies wholly inside."""
        return self.opened_at <= time and (self.closed_at is None or end <= self.closed_at)


class ArmCounts(_Frozen):
    """One arm in one block."""

    requests: int
    errors: int
    slow: int
    """Requests slower than the edge."""

    labelled: int
    correct: int

    @property
    def wrong(self) -> int:
        """Labelled instances that were answered wrongly."""
        return self.labelled - self.correct


class Block(_Frozen):
    """Candidate and stable in the same block of time."""

    time: float
    arm: Arm
    """Where the candidate was: `shadow` or `canary`."""

    age: float
    """Seconds since the candidate first got traffic on this arm."""

    candidate: ArmCounts
    stable: ArmCounts


class PairBlock(_Frozen):
    """Labelled instances that both models answered, in one block of time."""

    time: float
    won: int
    """The candidate alone was right."""

    lost: int
    """Stable alone was right."""

    even: int


class Evidence(_Frozen):
    """All that a verdict is made of."""

    evaluated_to: float
    stage_seconds: float
    """How long the current stage has been watched, in record time."""

    slow_edge_us: float | None
    request_size: float | None
    """Instances of the largest requests, since these are alike; None: unknown."""

    blocks: tuple[Block, ...]
    pairs: tuple[PairBlock, ...]


def select(
    measured: Measured, *, windows: Sequence[Window], candidate: str, stable: str, block_s: float
) -> Evidence:
    """The evidence on version `candidate` against `stable` within the windows, in time order."""
    stable_blocks = {b.time: b for b in measured.blocks if (b.arm, b.version) == ("stable", stable)}
    found: list[tuple[MeasuredBlock, MeasuredBlock, Arm, float]] = []
    for block in sorted(measured.blocks, key=lambda each: each.time):
        beside = stable_blocks.get(block.time)
        end = block.time + block_s
        window = _window(windows, block.time, end=end, arm=block.arm)
        if window is None or beside is None or block.version != candidate:
            continue
        if end <= measured.evaluated_to and block.requests and beside.requests:
            first = min(each.opened_at for each in windows if each.arm == window.arm)
            found.append((block, beside, window.arm, block.time - first))
    edge = _slow_edge([beside for _, beside, _, _ in found])
    return Evidence(
        evaluated_to=measured.evaluated_to,
        stage_seconds=_stage_seconds(windows, measured.evaluated_to),
        slow_edge_us=None if edge is None else measured.latency_edges_us[edge],
        request_size=_request_size(each for pair in found for each in pair[:2]),
        blocks=tuple(
            Block(
                time=block.time,
                arm=arm,
                age=age,
                candidate=_counts(block, edge),
                stable=_counts(beside, edge),
            )
            for block, beside, arm, age in found
        ),
        pairs=_pairs(
            measured, windows=windows, candidate=candidate, stable=stable, block_s=block_s
        ),
    )


def _pairs(
    measured: Measured, *, windows: Sequence[Window], candidate: str, stable: str, block_s: float
) -> tuple[PairBlock, ...]:
    wanted = (stable, "stable", candidate, "shadow")
    return tuple(
        PairBlock(
            time=pair.time,
            won=pair.only_b,
            lost=pair.only_a,
            even=pair.both_right + pair.both_wrong,
        )
        for pair in sorted(measured.pairs, key=lambda each: each.time)
        if (pair.a_version, pair.a_arm, pair.b_version, pair.b_arm) == wanted
        and pair.time + block_s <= measured.evaluated_to
        and _window(windows, pair.time, end=pair.time + block_s, arm=pair.b_arm) is not None
    )


def _window(windows: Sequence[Window], time: float, *, end: float, arm: str) -> Window | None:
    return next((each for each in windows if each.arm == arm and each.holds(time, end)), None)


def _stage_seconds(windows: Sequence[Window], evaluated_to: float) -> float:
    opened = [each.opened_at for each in windows if each.closed_at is None]
    return max(0.0, evaluated_to - opened[-1]) if opened else 0.0


def _slow_edge(stable: Sequence[MeasuredBlock]) -> int | None:
    """The index of the edge beyond which stable's slowest requests are."""
    if not stable:
        return None
    totals = [sum(column) for column in zip(*(b.latency_counts for b in stable), strict=True)]
    allowed, beyond = _SLOW_SHARE * sum(totals), 0
    for index in range(len(totals) - 2, -1, -1):
        beyond += totals[index + 1]
        if beyond > allowed:
            # Even the last edge may be exceeded too often: then nothing slower can be told apart.
            return index + 1 if index + 1 < len(totals) - 1 else None
    return 0


def _request_size(blocks: Iterable[MeasuredBlock]) -> float | None:
    sizes: list[float] = []
    for block in blocks:
        if block.instances is None:
            return None
        if block.requests > block.errors:
            sizes.append(block.instances / (block.requests - block.errors))
    return max([1.0, *sizes]) if sizes else None


def _counts(block: MeasuredBlock, edge: int | None) -> ArmCounts:
    return ArmCounts(
        requests=block.requests,
        errors=block.errors,
        slow=0 if edge is None else sum(block.latency_counts[edge + 1 :]),
        labelled=block.labelled,
        correct=block.correct,
    )
