"""What the tests of clusters share: on which kinds they run, and plans of a stable and a canary."""

from __future__ import annotations

from typing import Any

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RoutePlan

from .api_server import Object
from .controllers import ISVC, ROUTE
from .data_planes import NAME, OnCluster, OwnRoute, Serverless, Standard

ALL = (Serverless, Standard, OwnRoute)
#: The object that holds the weights.
WEIGHTS = {Serverless: (ISVC, NAME), Standard: (ISVC, NAME), OwnRoute: (ROUTE, NAME)}


def on(*kinds: type[OnCluster]) -> pytest.MarkDecorator:
    """Run the test on these kinds of cluster, each as the fixture `made`."""
    return pytest.mark.parametrize("made", kinds, indirect=True, ids=lambda kind: kind.__name__)


def plan(canary: int, **more: Any) -> RoutePlan:
    weights = {Arm.STABLE: 100 - canary, Arm.CANARY: canary}
    weights = {arm: weight for arm, weight in weights.items() if weight}
    return RoutePlan(f"r1.step-{canary}", weights, salt="r1", **more)


def predictor(made: OnCluster) -> Object:
    found: Object = made.cluster.api.objects[(ISVC, NAME)]["spec"]["predictor"]
    return found
