"""From what a source measured to what counts as evidence.

Only what was measured while the data plane was confirmed to route by the stage's plan counts
(`Window`), only of the two versions that are compared, and only blocks that are complete and in
which both arms had requests. Everything else is absence of data, which decides nothing.

Requests count as slow beyond an edge of the measured latencies. The edges are fixed by the first
requests of the reference arm, and those are then left out: an edge chosen after looking at what
it divides would have made one arm look better by the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from coalmine.arms import Arm
from coalmine.rollout._evidence import (
    ArmCounts,
    Block,
    Callers,
    Evidence,
    PairBlock,
    Split,
    Window,
)
from coalmine.rollout._measured import Measured, MeasuredBlock

__all__ = ["select"]

#: Of the reference's requests, at most this share may be beyond the edge.
_SLOW_SHARE, _TAIL_SHARE = 0.05, 0.01
#: Requests of the reference arm that fix the edges: three of them are beyond its p99.
_EDGE_REQUESTS = 300


class _Found(NamedTuple):
    candidate: MeasuredBlock
    reference: MeasuredBlock
    window: Window
    age: float


class _Edges(NamedTuple):
    """Indices of edges, and how many blocks went into them."""

    slow: int | None
    tail: int | None
    blocks: int


def select(
    measured: Measured,
    *,
    windows: Sequence[Window],
    candidate: str,
    stable: str,
    block_s: float,
    sticky: bool = False,
) -> Evidence:
    """The evidence on version `candidate` against `stable` within the windows, in time order."""
    found = _found(measured, windows=windows, versions=(candidate, stable), block_s=block_s)
    edges = _edges([each.reference for each in found])

    def edge_us(index: int | None) -> float | None:
        return None if index is None else measured.latency_edges_us[index]

    return Evidence(
        evaluated_to=measured.evaluated_to,
        stage_seconds=_stage_seconds(windows, measured.evaluated_to),
        slow_edge_us=edge_us(edges.slow),
        tail_edge_us=edge_us(edges.tail),
        request_size=_request_size(each for pair in found for each in pair[:2]),
        blocks=tuple(
            Block(
                time=each.candidate.time,
                arm=each.window.arm,
                age=each.age,
                candidate=_counts(each.candidate, edges, counted=number >= edges.blocks),
                stable=_counts(each.reference, edges, counted=number >= edges.blocks),
                reference=each.window.reference,
            )
            for number, each in enumerate(found)
        ),
        pairs=_pairs(measured, windows=windows, versions=(candidate, stable), block_s=block_s),
        splits=_splits(measured, windows=windows, versions=(candidate, stable), block_s=block_s),
        sticky=sticky,
        callers=_callers(measured, windows=windows, versions=(candidate, stable)),
        prediction_names=measured.prediction_names,
        source=measured.source,
        queries=measured.queries,
    )


def _found(
    measured: Measured, *, windows: Sequence[Window], versions: tuple[str, str], block_s: float
) -> list[_Found]:
    candidate, stable = versions
    references = {(b.arm, b.time): b for b in measured.blocks if b.version == stable}
    found: list[_Found] = []
    for block in sorted(measured.blocks, key=lambda each: each.time):
        end = block.time + block_s
        window = _window(windows, block.time, end=end, arm=block.arm)
        if window is None or block.version != candidate or end > measured.evaluated_to:
            continue
        beside = references.get((window.reference, block.time))
        if beside is not None and block.requests and beside.requests:
            first = min(each.opened_at for each in windows if each.arm == window.arm)
            found.append(_Found(block, beside, window, block.time - first))
    return found


def _pairs(
    measured: Measured, *, windows: Sequence[Window], versions: tuple[str, str], block_s: float
) -> tuple[PairBlock, ...]:
    candidate, stable = versions
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


def _splits(
    measured: Measured, *, windows: Sequence[Window], versions: tuple[str, str], block_s: float
) -> tuple[Split, ...]:
    """Requests by arm and window: of all blocks, also those in which an arm had none.

    An arm of which nothing at all is known is no arm that got no requests.
    """
    expected = _versions_of(versions)
    splits = []
    for window in windows:
        if window.arm is not Arm.CANARY or not window.weights:
            continue
        requests = dict.fromkeys(window.weights, 0)
        known: set[Arm] = set()
        for block in measured.blocks:
            arm = next((each for each in window.weights if each == block.arm), None)
            if arm is None or block.version != expected.get(arm):
                continue
            known.add(arm)
            end = block.time + block_s
            if end <= measured.evaluated_to and window.holds(block.time, end):
                requests[arm] += block.requests
        if known == set(window.weights) and any(requests.values()):
            splits.append(Split(weights=window.weights, requests=requests))
    return tuple(splits)


def _callers(
    measured: Measured, *, windows: Sequence[Window], versions: tuple[str, str]
) -> dict[Arm, Callers] | None:
    """The callers of the arms that are compared; None where those of one of them are not known."""
    arms = {arm for window in windows for arm in (window.arm, window.reference, *window.weights)}
    expected = _versions_of(versions)
    asked = {b.arm for b in measured.blocks if b.requests} & arms
    found = {
        Arm(each.arm): each.sums
        for each in measured.callers
        if each.arm in asked and each.version == expected[Arm(each.arm)]
    }
    return found if asked and asked == found.keys() else None


def _versions_of(versions: tuple[str, str]) -> dict[Arm, str]:
    candidate, stable = versions
    return {
        Arm.SHADOW: candidate,
        Arm.CANARY: candidate,
        Arm.STABLE: stable,
        Arm.BASELINE: stable,
    }


def _window(windows: Sequence[Window], time: float, *, end: float, arm: str) -> Window | None:
    return next((each for each in windows if each.arm == arm and each.holds(time, end)), None)


def _stage_seconds(windows: Sequence[Window], evaluated_to: float) -> float:
    opened = [each.opened_at for each in windows if each.closed_at is None]
    return max(0.0, evaluated_to - opened[-1]) if opened else 0.0


def _edges(references: Sequence[MeasuredBlock]) -> _Edges:
    seen = 0
    for number, block in enumerate(references, 1):
        seen += sum(block.latency_counts or ())
        if seen >= _EDGE_REQUESTS:
            first = [b.latency_counts for b in references[:number] if b.latency_counts is not None]
            totals = np.sum(first, axis=0)
            return _Edges(_edge(totals, _SLOW_SHARE), _edge(totals, _TAIL_SHARE), number)
    return _Edges(None, None, 0)


def _edge(totals: np.ndarray, share: float) -> int | None:
    """The first edge that at most this share is beyond; None: even the last is exceeded oftener."""
    beyond = totals.sum() - np.cumsum(totals)[:-1]
    below = np.flatnonzero(beyond <= share * totals.sum())
    return int(below[0]) if below.size else None


def _request_size(blocks: Iterable[MeasuredBlock]) -> float | None:
    sizes: list[float] = []
    for block in blocks:
        if block.instances is None or block.errors is None:
            return None
        if block.requests > block.errors:
            sizes.append(block.instances / (block.requests - block.errors))
    return max([1.0, *sizes]) if sizes else None


def _counts(block: MeasuredBlock, edges: _Edges, *, counted: bool) -> ArmCounts:
    def beyond(edge: int | None) -> int | None:
        if edge is None or not counted or block.latency_counts is None:
            return None
        return sum(block.latency_counts[edge + 1 :])

    return ArmCounts(
        requests=block.requests,
        errors=block.errors,
        slow=beyond(edges.slow),
        tail=beyond(edges.tail),
        labelled=block.labelled,
        correct=block.correct,
        predictions=block.predictions,
    )
