"""Evidence made to be judged: any at all, and enough of it with all well."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from coalmine.arms import Arm
from coalmine.rollout import (
    ArmCounts,
    Block,
    Evidence,
    PairBlock,
    Policy,
    Split,
)
from coalmine.spec import GuardsSpec


def counts(draw: Any) -> ArmCounts:
    requests = draw(st.integers(0, 200))
    labelled = draw(st.integers(0, 1000))
    return ArmCounts(
        requests=requests,
        errors=draw(st.integers(0, requests)),
        slow=draw(st.integers(0, requests)),
        tail=draw(st.none() | st.integers(0, requests)),
        labelled=labelled,
        correct=draw(st.integers(0, labelled)),
        predictions=draw(st.none() | st.tuples(*[st.integers(0, 50)] * 3)),
    )


@st.composite
def evidences(draw: Any) -> Evidence:
    seconds = range(draw(st.integers(0, 12)))
    arm = draw(st.sampled_from([Arm.SHADOW, Arm.CANARY]))
    return Evidence(
        evaluated_to=20.0,
        stage_seconds=draw(st.floats(0, 100)),
        slow_edge_us=draw(st.sampled_from([None, 1000.0])),
        request_size=draw(st.sampled_from([None, 1.0, 8.0])),
        blocks=tuple(
            Block(time=s, arm=arm, age=s, candidate=counts(draw), stable=counts(draw))
            for s in seconds
            if draw(st.booleans())
        ),
        pairs=tuple(
            PairBlock(
                time=s,
                won=draw(st.integers(0, 500)),
                lost=draw(st.integers(0, 500)),
                even=draw(st.integers(0, 500)),
            )
            for s in seconds
            if draw(st.booleans())
        ),
    )


SPLIT = Split(weights={Arm.STABLE: 90, Arm.CANARY: 10}, requests={Arm.STABLE: 900, Arm.CANARY: 100})


def good(**changes: Any) -> Evidence:
    """Enough of everything, and all well."""
    each = {"requests": 300, "errors": 0, "slow": 12, "tail": 2, "labelled": 300, "correct": 290}
    counts = ArmCounts(**each, predictions=(200, 100))
    block = Block(time=0.0, arm=Arm.CANARY, age=60.0, candidate=counts, stable=counts)
    whole = {
        "evaluated_to": 3600.0, "stage_seconds": 3600.0, "slow_edge_us": 1e3, "tail_edge_us": 2e3,
        "request_size": 1.0, "prediction_names": ("a", "b"), "splits": (SPLIT,),
        "blocks": tuple(block.model_copy(update={"time": 60.0 * i}) for i in range(60)),
        "pairs": (PairBlock(time=0.0, won=40, lost=40, even=4000),),
    }  # fmt: skip
    return Evidence(**{**whole, **changes})


ALL = Policy(guards=GuardsSpec(prediction_drift=0.1), significance=0.05)
