"""Judging a candidate: against the champion, on the same rows, in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models' right and wrong answers on the same rows, rows of one upload taken together.

    Neighbouring windows of one vehicle fail together, so the rows are not independent: each upload
    casts one vote, for the model that has more of its rows right, and the exact sign test counts
    the votes (Dixon & Mood 1946, https://doi.org/10.1080/01621459.1946.10501898).
    """

    rows: int
    groups: int
    only_new_right: int
    only_old_right: int
    votes_new: int
    votes_old: int
    p_not_better: float
    """Probability of so many votes for the new one, or more, if it were no better."""

    p_not_worse: float
    """The same for the old one."""

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def compare(new_right: np.ndarray, old_right: np.ndarray, *, groups: np.ndarray) -> Paired:
    """Paired comparison of two boolean arrays [rows], by `groups` [rows].

    >>> ok = np.array([True] * 8)
    >>> compare(ok, ~ok, groups=np.arange(8)).p_not_better  # 2 ** -8
    0.00390625
    """
    _, codes = np.unique(groups, return_inverse=True)
    lead = np.bincount(codes, weights=new_right.astype(float) - old_right.astype(float))
    votes_new, votes_old = int((lead > 0).sum()), int((lead < 0).sum())
    return Paired(
        rows=len(new_right),
        groups=len(lead),
        only_new_right=int((new_right & ~old_right).sum()),
        only_old_right=int((~new_right & old_right).sum()),
        votes_new=votes_new,
        votes_old=votes_old,
        p_not_better=_sign_tail(votes_new, votes_new + votes_old),
        p_not_worse=_sign_tail(votes_old, votes_new + votes_old),
    )


def classification_report(
    truth: np.ndarray, predicted: np.ndarray, *, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracy, and for every class its rows, recall and precision (NaN where undefined)."""
    per_class: dict[str, Mapping[str, float]] = {}
    for index, name in enumerate(classes):
        is_true, is_said = truth == index, predicted == index
        hit = float((is_true & is_said).sum())
        per_class[name] = {
            "rows": float(is_true.sum()),
            "recall": hit / is_true.sum() if is_true.any() else float("nan"),
            "precision": hit / is_said.sum() if is_said.any() else float("nan"),
        }
    accuracy = float((truth == predicted).mean()) if len(truth) else float("nan")
    return {"rows": len(truth), "accuracy": accuracy, "classes": per_class}


def _sign_tail(successes: int, trials: int) -> float:
    """P(X >= successes), X binomial with `trials` fair coins."""
    ways = term = comb(trials, max(successes, 0))
    for heads in range(max(successes, 0), trials):
        term = term * (trials - heads) // (heads + 1)
        ways += term
    return float(Fraction(ways, 2**trials))
