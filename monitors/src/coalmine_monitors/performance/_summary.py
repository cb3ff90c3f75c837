"""Accuracy over stretches of time: intervals, and since when it is low."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coalmine_monitors.performance._estimates import Estimates
from coalmine_monitors.performance._schema import Block, PerformanceWindow

__all__ = ["estimate_onset", "summarise"]

_Z = 1.96


def summarise(
    blocks: Sequence[Block],
    *,
    block_s: float,
    blocks_per_window: int,
    estimates: Estimates | None = None,
) -> list[PerformanceWindow]:
    """Windows of whole blocks, per arm, in order of time.

    The interval is Wilson's at 95 %, with the number of labels divided by how much more the blocks
    differ than independent rows would (the design effect), since rows of one moment are alike.
    """
    found: list[PerformanceWindow] = []
    length = block_s * blocks_per_window
    for arm in sorted({block.arm for block in blocks}):
        mine = [block for block in blocks if block.arm == arm]
        effect = _design_effect(mine)
        windows: dict[int, list[Block]] = {}
        for block in mine:
            # Half a block inside, where no rounding of the block's start can matter.
            windows.setdefault(int((block.time + block_s / 2) // length), []).append(block)
        for number, part in sorted(windows.items()):
            labelled = sum(block.labelled for block in part)
            correct = sum(block.correct for block in part)
            lower, upper = _wilson(correct, labelled, effect=effect)
            guess = None if estimates is None else estimates.of(part, block_s=block_s)
            found.append(
                PerformanceWindow(
                    time=number * length,
                    end=(number + 1) * length,
                    arm=arm,
                    instances=sum(block.instances for block in part),
                    labelled=labelled,
                    correct=correct,
                    accuracy=correct / labelled if labelled else None,
                    lower=lower,
                    upper=upper,
                    estimated=None if guess is None else guess.accuracy,
                    estimated_lower=None if guess is None else guess.lower,
                    estimated_upper=None if guess is None else guess.upper,
                )
            )
    return sorted(found, key=lambda window: (window.time, window.arm))


def estimate_onset(blocks: Sequence[tuple[float, int, int]], *, threshold: float) -> float:
    """Start of the block with which the last slide below `threshold` began.

    `blocks` are (start, labelled, correct), at least one. The sum of (threshold x labelled -
    correct) falls while accuracy is good and rises while it is not: the slide began at its lowest
    point (Page's CUSUM, read backwards).
    """
    slide = np.cumsum([threshold * labelled - correct for _, labelled, correct in blocks])
    return blocks[int(np.argmin(np.concatenate([[0.0], slide[:-1]])))][0]


def _design_effect(blocks: Sequence[Block]) -> float:
    labelled = np.array([block.labelled for block in blocks if block.labelled], dtype=np.float64)
    correct = np.array([block.correct for block in blocks if block.labelled], dtype=np.float64)
    if len(labelled) < 2:
        return 1.0
    share = correct.sum() / labelled.sum()
    # A block away from the common share by e rows has e**2 / n, about share * (1 - share) if the
    # rows were independent.
    usual = max(share * (1 - share), 1e-9)
    observed = (((correct - share * labelled) ** 2) / labelled).sum() / (len(labelled) - 1)
    return float(max(observed / usual, 1.0))


def _wilson(correct: int, labelled: int, *, effect: float) -> tuple[float | None, float | None]:
    if not labelled:
        return None, None
    count = labelled / effect
    share = correct / labelled
    centre = share + _Z**2 / (2 * count)
    half = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return float(max((centre - half) / scale, 0.0)), float(min((centre + half) / scale, 1.0))
