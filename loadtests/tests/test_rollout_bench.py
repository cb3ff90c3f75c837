"""Rollouts under load, in small: the controller is killed, weights change, nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coalmine.arms import Arm
from coalmine.clock import ManualClock
from coalmine.gateway import RoutePlan
from coalmine.rollout import DeployedModel
from coalmine.rollout._state import Serving
from coalmine.rollout._store import Entry, Store
from coalmine_loadtests.rollout import ChaosOptions, WeightsOptions, run_chaos, run_weights
from coalmine_loadtests.rollout._ground import Ground
from coalmine_loadtests.rollout._watch import Watch

#: The whole of it: COALMINE_KILLS=500, or `coalmine bench chaos-rollout --kills 500`.
KILLS = int(os.environ.get("COALMINE_KILLS", "15"))


@pytest.mark.slow
def test_a_controller_that_is_killed_harms_nobody(tmp_path: Path) -> None:
    report = run_chaos(ChaosOptions(kills=KILLS, seed=11, directory=tmp_path))
    assert report.kills == KILLS
    assert report.passed, report
    assert report.requests > 10 * KILLS
    assert report.plans > 3
    assert report.verdicts > 0
    assert sum(report.outcomes.values()) > 1


def test_weight_changes_under_load_lose_no_request() -> None:
    report = run_weights(WeightsOptions(changes=10, connections=4))
    assert report.failed == []
    assert len(report.routed) == len(report.acknowledged) == 10
    assert report.requests > 100
    assert 0.0 < report.summary(report.ordinary)["median"]


def test_a_weight_that_nobody_decided_is_told_apart(tmp_path: Path) -> None:
    clock = ManualClock(start=1000.0)
    store = Store(tmp_path / "rollout.db", clock=clock)
    token = store.take_lease("me", instead_of=None)
    assert token is not None
    model = DeployedModel("3", tmp_path, "sha256:3")
    decided = RoutePlan("champion-3", {Arm.STABLE: 100})
    serving = Serving(stable=model, decision_id=decided.decision_id)
    store.adopt(serving, Entry("adopted", "me", decided), token=token)
    other = RoutePlan("champion-3", {Arm.STABLE: 90, Arm.CANARY: 10})
    foreign = RoutePlan("somebody", {Arm.STABLE: 100})
    nothing = RoutePlan("none", {})
    watch = Watch(Ground(tmp_path, (1, 2, 3)))
    for at, plan in ((999.0, decided), (1001.0, other), (1002.0, foreign)):
        watch.seen = [(900.0, nothing), (at, plan)]
        assert len(watch.undecided(store)) == 1, "too early, with other weights, unknown"
    watch.seen = [(1001.0, decided)]
    assert watch.undecided(store) == []
    store.close()
