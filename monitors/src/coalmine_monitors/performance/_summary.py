"""Performance over stretches of time, and since when accuracy is low."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coalmine_monitors.performance._estimates import Estimates
from coalmine_monitors.performance._intervals import Level
from coalmine_monitors.performance._schema import Block, PerformanceWindow
from coalmine_monitors.performance._scores import ScoreCell
from coalmine_monitors.performance._scoring import Scoring

__all__ = ["estimate_onset", "summarise"]


def summarise(
    blocks: Sequence[Block],
    *,
    block_s: float,
    blocks_per_window: int,
    scoring: Scoring | None,
    estimates: Estimates | None = None,
    mature_to: float = math.inf,
) -> list[PerformanceWindow]:
    """Windows of whole blocks, per arm, in order of time.

    A window is scored if it ended by `mature_to`, record time. In the intervals the number of
    labels is divided by how much more the blocks differ than independent rows would (the design
    effect), since rows of one moment are alike.
    """
    found: list[PerformanceWindow] = []
    length = block_s * blocks_per_window
    for arm in sorted({block.arm for block in blocks}):
        level = Level(effect=1.0 if scoring is None else scoring.effect(arm))
        windows: dict[int, list[Block]] = {}
        for block in blocks:
            if block.arm == arm:
                # Half a block inside, where no rounding of the block's start can matter.
                windows.setdefault(int((block.time + block_s / 2) // length), []).append(block)
        for number, part in sorted(windows.items()):
            window = PerformanceWindow(
                time=number * length,
                end=(number + 1) * length,
                arm=arm,
                instances=sum(block.instances for block in part),
                labelled=sum(block.labelled for block in part),
                correct=sum(block.correct for block in part),
                mature=part[-1].time + block_s <= mature_to,
            )
            if scoring is not None:
                window = _scored(window, part, scoring=scoring, level=level, block_s=block_s)
            whole = estimates is not None and (scoring is None or not scoring.segment)
            found.append(_estimated(window, part, estimates, block_s) if whole else window)
    return sorted(found, key=lambda window: (window.time, window.arm))


def _scored(
    window: PerformanceWindow,
    blocks: Sequence[Block],
    *,
    scoring: Scoring,
    level: Level,
    block_s: float,
) -> PerformanceWindow:
    part = scoring.of(
        ScoreCell(round(block.time / block_s), block.version, block.arm) for block in blocks
    )
    instances = part.instances if scoring.segment else window.instances
    labelled = int(part.sums[0])
    counted = {
        "instances": instances,
        "labelled": labelled,
        "correct": int(part.sums[1]) if scoring.task.kind == "classification" else 0,
        "label_coverage": labelled / instances if instances else None,
    }
    if not window.mature:
        return window.model_copy(update=counted)
    measures = scoring.measure(part, level=level)
    accuracy = measures.metrics.get("accuracy")
    return window.model_copy(
        update={
            **counted,
            "accuracy": None if accuracy is None else accuracy.value,
            "lower": None if accuracy is None else accuracy.lower,
            "upper": None if accuracy is None else accuracy.upper,
            "label_lag_s": measures.label_lag_s,
            "metrics": dict(measures.metrics),
            "classes": dict(measures.classes),
        }
    )


def _estimated(
    window: PerformanceWindow, blocks: Sequence[Block], estimates: Estimates | None, block_s: float
) -> PerformanceWindow:
    guess = None if estimates is None else estimates.of(blocks, block_s=block_s)
    if guess is None:
        return window
    return window.model_copy(
        update={
            "estimated": guess.accuracy,
            "estimated_lower": guess.lower,
            "estimated_upper": guess.upper,
        }
    )


def estimate_onset(blocks: Sequence[tuple[float, int, int]], *, threshold: float) -> float:
    """Start of the block with which the last slide below `threshold` began.

    `blocks` are (start, labelled, correct), at least one. The sum of (threshold x labelled -
    correct) falls while accuracy is good and rises while it is not: the slide began at its lowest
    point (Page's CUSUM, read backwards).
    """
    slide = np.cumsum([threshold * labelled - correct for _, labelled, correct in blocks])
    return blocks[int(np.argmin(np.concatenate([[0.0], slide[:-1]])))][0]
