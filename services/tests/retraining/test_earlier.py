"""Labels that judged the champion judge the candidate too, where the inputs have not moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coalmine.retraining import learning

Wrong = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: Uploads of four rows.
THEN, NOW = 300, 400
GOOD = {"rows": 500, "accuracy": 0.97}
PARITY = {"passed": True, "rows_with_missing": 5}


def judged(*, moved: float, wrong: Wrong, then: int = THEN) -> list[dict[str, Any]]:
    """What is said of a candidate that is wrong there, the champion being right everywhere."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4 * (then + NOW), 3)).astype(np.float32)
    is_present = np.arange(len(features)) >= 4 * then
    features[is_present, 0] += moved
    truth = (features[: 4 * then, 1] > 0).astype(np.int64)
    return learning.judge_by_earlier(
        features,
        is_present,
        groups=np.array([f"g{row // 4}" for row in range(len(features))]),
        truth=truth,
        new_right=~wrong(features[: 4 * then], truth),
        old_right=np.ones(len(truth), dtype=bool),
        classes=("a", "b"),
    )


def hot(features: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The hottest fifth of class b."""
    found: np.ndarray = (truth == 1) & (features[:, 2] > 0.84)
    return found


def everywhere(features: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.ones(len(truth), dtype=bool)


def decide(earlier: list[dict[str, Any]]) -> learning.Decision:
    evaluation = {
        "candidate": GOOD,
        "champion": {"rows": 500, "accuracy": 0.9},
        "paired": {"p_not_better": 0.001},
        "earlier": earlier,
    }
    return learning.decide(evaluation, PARITY, learning.Gate())


def test_a_region_where_nothing_moved_and_labels_did_is_for_a_person() -> None:
    found = decide(judged(moved=0.0, wrong=hot))
    assert found.decision == "reject"
    assert "all: accuracy 0.9" in found.reasons[0]
    assert "class b: accuracy 0.7" in found.reasons[0]
    assert "class a" not in found.reasons[0]
    assert found.reasons[0].endswith("a person must say which")


def test_where_the_inputs_moved_earlier_labels_say_nothing() -> None:
    assert judged(moved=8.0, wrong=everywhere) == []
    assert judged(moved=1e6, wrong=everywhere) == []
    half = judged(moved=1.0, wrong=lambda x, truth: x[:, 0] < -1.5)
    assert half[0]["rows"] < 4 * THEN
    assert decide(half).decision == "promote"


def test_a_candidate_that_is_as_good_on_them_is_promoted() -> None:
    found = judged(moved=0.0, wrong=lambda x, truth: np.abs(x[:, 2]) > 2.6)
    assert [part["segment"] for part in found] == ["all", "class a", "class b"]
    assert decide(found).decision == "promote"
    assert decide([]).decision == "promote"


@pytest.mark.parametrize("then", [0, 1, 19])
def test_a_champion_that_few_uploads_judged_is_no_judge(then: int) -> None:
    assert judged(moved=0.0, wrong=everywhere, then=then) == []


@pytest.mark.parametrize("broken", [None, float("nan"), "0.5"])
def test_a_comparison_that_is_no_number_is_no_pass(broken: Any) -> None:
    found = judged(moved=0.0, wrong=hot)
    assert decide([{**found[0], "p_not_worse": broken}]).decision == "reject"
