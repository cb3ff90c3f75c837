"""The worlds that are simulated, and what is asked of a judge in each."""

from __future__ import annotations

from dataclasses import dataclass

from coalmine_loadtests.verdicts._worlds import World

__all__ = ["LABEL_SCENARIOS", "SCENARIOS", "LabelScenario", "Scenario"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One column of the table. Its number seeds it, so keep the order."""

    name: str
    title: str
    world: World
    shows: str
    """`rolled_back` or `promoted`: of which fate the share is shown."""

    at_least: float | None = None
    at_most: float | None = None
    """The bar, as a share of the runs."""

    median: int | None = None
    """The bar on the median minute."""

    promoted: float | None = None
    """The bar on the share that is promoted as soon as the policy's 30 minutes are over."""


@dataclass(frozen=True, slots=True)
class LabelScenario:
    """Paired labels until two lost points of accuracy are found."""

    name: str
    won: float
    lost: float
    within: int | None = None
    """The bar: labels at the 90th percentile."""


def _p99(shape: str) -> Scenario:
    world = World(shape=shape, slower=1.3)
    return Scenario(f"p99 {shape}", f"p99 +30 %, {shape}", world, "rolled_back", at_least=0.85)


SCENARIOS = (
    Scenario("null", "no regression", World(), "rolled_back", at_most=0.05, promoted=0.90),
    Scenario(
        "margin",
        "errors worse by the margin, promoted",
        World(errors=3.0),
        "promoted",
        at_most=0.05,
    ),
    Scenario("errors 1.5x", "errors 1.5x", World(errors=1.5), "rolled_back"),
    Scenario("errors 2x", "errors 2x", World(errors=2.0), "rolled_back", at_least=0.85),
    Scenario("errors 4x", "errors 4x", World(errors=4.0), "rolled_back", at_least=0.85, median=4),
    Scenario("incident", "incident on both arms", World(incident=6.0), "rolled_back", at_most=0.05),
    Scenario("bursts", "pauses, both arms alike", World(bursts=0.05), "rolled_back", at_most=0.05),
    Scenario("callers", "odd sticky callers", World(callers=100), "rolled_back", at_most=0.05),
    Scenario("trickle", "3 requests/min, promoted", World(per_minute=3.0), "promoted", at_most=0.0),
    Scenario(
        "split", "split 60:40 for 50:50, promoted", World(canary_share=0.6), "promoted", at_most=0.0
    ),
    Scenario("drift", "20 % other answers", World(shifted=0.2), "rolled_back", at_least=0.85),
    *(_p99(shape) for shape in ("lognormal 0.5", "lognormal 1", "gamma 2", "bimodal")),
    _p99("slow mode only"),
)

LABEL_SCENARIOS = (
    LabelScenario("4 % lost, 2 % won", won=0.02, lost=0.04, within=2500),
    LabelScenario("3 % lost, 1 % won", won=0.01, lost=0.03, within=2500),
    LabelScenario("5 % lost, 3 % won", won=0.03, lost=0.05),
    LabelScenario("6 % lost, 4 % won", won=0.04, lost=0.06),
)
