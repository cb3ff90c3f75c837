"""A candidate that is better on the whole and much worse for some is rejected, and says where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coalmine.retraining import DataInvalid, learning
from coalmine.retraining.learning import Gate, Segmentation

PARITY = {"passed": True, "rows_with_missing": 5, "label_mismatches": 0, "max_difference": 1e-7}
EVALUATION: dict[str, Any] = {
    "candidate": {"accuracy": 0.95, "rows": 1000},
    "champion": {"accuracy": 0.80, "rows": 1000},
    "paired": {"p_not_better": 1e-9},
}


def judged(loss: float, *, segments: int = 4, uploads: int = 100) -> list[dict[str, Any]]:
    """Segments in which the candidate is as good as the champion, but the first: `loss` worse."""
    rng = np.random.default_rng(3)
    old = rng.random(4 * uploads * segments) < 0.9
    new = old.copy()
    first = np.arange(len(old)) < 4 * uploads
    worse = first & old & (rng.random(len(old)) < loss / 0.9)
    new[worse] = False
    place = np.arange(len(old)) // (4 * uploads)
    masks = {f"part {number}": place == number for number in range(segments)}
    return learning.judge_segments(
        masks, new_right=new, old_right=old, groups=np.arange(len(old)) // 4
    )


def test_much_worse_in_one_segment_is_rejected_with_the_segment_named() -> None:
    found = learning.decide(EVALUATION, PARITY, Gate(), segments=judged(0.3))
    assert found.decision == "reject"
    (reason,) = found.reasons
    assert reason.startswith("worse than the champion where part 0: accuracy 0.")
    assert "over 4 segments" in reason


def test_as_good_everywhere_or_a_little_worse_somewhere_is_no_reason() -> None:
    assert learning.decide(EVALUATION, PARITY, Gate(), segments=judged(0.0)).decision == "promote"
    # Certain, but small: the gate says how much may be lost.
    little = judged(0.03, uploads=600)
    assert little[0]["p_not_worse"] < 0.001
    assert learning.decide(EVALUATION, PARITY, Gate(), segments=little).decision == "promote"


FIRST = {**EVALUATION, "champion": None}


def test_a_first_model_has_no_one_to_be_worse_than() -> None:
    assert learning.decide(FIRST, PARITY, Gate(), segments=judged(0.3)).decision == "promote"


def test_a_first_model_that_is_mostly_wrong_somewhere_is_rejected_with_the_segment_named() -> None:
    found = learning.decide(FIRST, PARITY, Gate(), segments=judged(0.7))
    assert found.decision == "reject"
    (reason,) = found.reasons
    assert reason.startswith("a first model that is mostly wrong where part 0: accuracy 0.")
    assert "0.5 is needed" in reason
    # A handful of uploads proves nothing, however wrong they are.
    few = judged(0.9, uploads=4)
    assert few[0]["candidate_accuracy"] < 0.2
    assert learning.decide(FIRST, PARITY, Gate(), segments=few).decision == "promote"


def test_a_first_model_of_which_a_segment_tells_nothing_is_rejected() -> None:
    old = [{"segment": "part 0", "p_not_worse": 0.5}]
    found = learning.decide(FIRST, PARITY, Gate(), segments=old)
    assert found.reasons == ("nothing is known of the accuracy where part 0",)


@pytest.mark.parametrize("p_value", [None, float("nan"), "0.5"])
def test_a_segment_without_a_comparison_is_a_reason_to_reject(p_value: Any) -> None:
    broken = [{**judged(0.0)[0], "p_not_worse": p_value}]
    found = learning.decide(EVALUATION, PARITY, Gate(), segments=broken)
    assert found.decision == "reject"
    assert "no paired comparison where part 0" in found.reasons[0]


def test_equal_models_are_seldom_told_apart_however_many_segments_there_are() -> None:
    rng = np.random.default_rng(5)
    rejected = 0
    for _ in range(300):
        new, old = rng.random((2, 800)) < 0.85
        masks = {str(number): np.arange(800) % 16 == number for number in range(16)}
        segments = learning.judge_segments(
            masks, new_right=new, old_right=old, groups=np.arange(800)
        )
        gate = Gate(segment_loss=0.0)
        rejected += learning.decide(EVALUATION, PARITY, gate, segments=segments).decision != (
            "promote"
        )
    assert rejected / 300 <= 0.08  # 5 % is promised


def test_rows_fall_into_the_segments_of_their_values() -> None:
    rows = pa.table(
        {
            "t": pa.array([-1.0, 5.0, 29.9, 30.0, float("nan")], pa.float32()),
            "true_label": ["a", "b", "a", "b", "b"],
        }
    )
    masks = Segmentation.parse("t: 5, 30").masks(rows)
    assert {name: mask.tolist().index(True) for name, mask in masks.items()} == {
        "t < 5": 0,
        "5 <= t < 30": 1,
        "t >= 30": 3,
        "t missing": 4,
    }
    assert sum(mask.sum() for mask in masks.values()) == 5
    by_class = Segmentation.parse("class").masks(rows)
    assert {name: int(mask.sum()) for name, mask in by_class.items()} == {
        "class a": 2,
        "class b": 3,
    }
    with pytest.raises(DataInvalid, match="'u': no such feature"):
        Segmentation.parse("u: 1").masks(rows)


@pytest.mark.parametrize("text", ["", "t", "t:", "t: a", "t: 3, 1", "t: 1, 1", "t: nan", ": 3"])
def test_a_segmentation_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        Segmentation.parse(text)
