"""Whatever a service answers, reading it ends no run."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coalmine.demo import _views as views

KEYS = st.sampled_from(
    ["incidents", "runs", "triggers", "rollouts", "weights", "windows", "features", "faults", "id",
     "ledger", "score", "threshold", "end", "time", "state", "number", "started", "ended", "soc"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=300)
@given(JSON)
def test_any_json_can_be_read(content: Any) -> None:
    list(views.incidents(content))
    list(views.runs(content))
    list(views.triggers(content))
    views.weights(content)
    for fact in [*views.rollouts(content), views.rollout(content)]:
        if fact is not None:
            list(views.decisions(fact))
    for window in views.windows(content):
        views.drift_scores(window)
        views.fault_scores(window)


@given(JSON)
def test_any_window_can_be_read(features: Any) -> None:
    window = {"end": 5.0, "version": "1", "features": features, "faults": features}
    for sample in [*views.drift_scores(window), *views.fault_scores(window)]:
        assert sample.time == 5.0
