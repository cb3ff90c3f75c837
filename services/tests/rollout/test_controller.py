"""Rollouts from the first tick to the last, in a world that complains when it is mistreated."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied
from coalmine.rollout import CandidateUnavailable, RolloutRefused, replay
from coalmine.spec import GuardsSpec, RolloutSpec, StepSpec

from .conftest import POLICY, Stage


def weights(stage: Stage) -> list[dict[str, int]]:
    return [dict(plan.weights) for plan in stage.world.history]


async def test_the_first_champion_is_deployed_and_promoted(stage: Stage) -> None:
    await stage.tick()
    assert weights(stage) == [{}]

    done = await stage.until_ended(stage.start("3"))

    assert done.state == "promoted"
    assert weights(stage) == [{}, {"stable": 100}]
    assert stage.world.champion() == "3"
    assert stage.world.current()[Arm.STABLE].version == "3"


async def test_a_good_candidate_goes_through_shadow_and_canary_and_is_promoted(
    stage: Stage,
) -> None:
    await stage.with_champion()
    stage.traffic.accuracy["3"] = 0.6
    id = stage.start("4")

    done = await stage.until_ended(id)

    assert (done.state, done.verdict) == ("promoted", "non_inferior")
    assert weights(stage)[-5:] == [
        {"stable": 100},
        {"stable": 90, "canary": 10},
        {"stable": 50, "canary": 50},
        {"canary": 100},
        {"stable": 100},
    ]
    assert [plan.mirror for plan in stage.world.history[-5:]] == [
        (Arm.SHADOW, 1.0), None, None, None, None,
    ]  # fmt: skip
    assert {plan.salt for plan in stage.world.history[-5:]} == {id}, "sticky users stay put"
    await stage.tick()
    assert {arm: model.version for arm, model in stage.world.current().items()} == {"stable": "4"}
    assert stage.world.champion() == "4"


async def test_states_are_seen_in_order_and_the_ledger_says_why(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    assert stage.rollout(id).state == "pending"

    await stage.until_ended(id)

    ledger = stage.store.ledger(id)
    states = list(dict.fromkeys(entry.state for entry in ledger))
    assert states == ["pending", "shadowing", "stepping", "promoted"]
    assert ledger[0].kind == "started"
    assert ledger[0].actor == "tester"
    assert ledger[0].body["config"].startswith("sha256:")
    assert ledger[0].body["candidate"]["digest"].startswith("sha256:")
    applied = {plan.decision_id for plan in stage.world.history}
    assert applied - {"none", "r1.settle"} <= {entry.decision for entry in ledger}


async def test_an_equal_candidate_is_promoted_too_when_the_evidence_suffices(stage: Stage) -> None:
    await stage.with_champion()
    done = await stage.until_ended(stage.start("4"), limit=200)
    assert done.state == "promoted"


async def test_a_broken_candidate_never_answers_a_user(stage: Stage) -> None:
    await stage.with_champion()
    stage.traffic.accuracy["4"] = 0.3
    id = stage.start("4")

    done = await stage.until_ended(id, limit=20)

    assert (done.state, done.verdict) == ("rolled_back", "regression")
    assert done.why is not None
    assert "accuracy (pairs)" in done.why
    assert all(Arm.CANARY not in plan.weights for plan in stage.world.history)
    assert dict(stage.world.history[-1].weights) == {"stable": 100}
    assert stage.world.history[-1].mirror is None
    assert stage.world.registry()["rejected 4"] == done.why
    await stage.tick()
    assert list(stage.world.current()) == [Arm.STABLE]
    assert stage.world.champion() == "3"


async def test_without_a_shadow_a_broken_candidate_is_rolled_back_by_split_labels(
    stage: Stage,
) -> None:
    await stage.with_champion()
    stage.traffic.accuracy["4"] = 0.3
    done = await stage.until_ended(stage.start("4", shadow=False), limit=25)
    assert (done.state, done.verdict) == ("rolled_back", "regression")
    assert weights(stage)[-2:] == [{"stable": 90, "canary": 10}, {"stable": 100}]
    assert done.why is not None
    assert "accuracy (labels)" in done.why


@pytest.mark.parametrize("trouble", ["errors", "slow"])
async def test_a_canary_that_fails_or_crawls_is_rolled_back(stage: Stage, trouble: str) -> None:
    await stage.with_champion()
    getattr(stage.traffic, trouble)["4"] = 0.5
    done = await stage.until_ended(stage.start("4"), limit=120)
    assert (done.state, done.verdict) == ("rolled_back", "regression")
    assert stage.world.champion() == "3"


async def test_silence_is_never_a_pass(stage: Stage) -> None:
    await stage.with_champion()
    stage.traffic.problem = "nobody answers"
    id = stage.start("4")

    await stage.tick(POLICY.max_duration - 10)
    assert stage.rollout(id).state == "shadowing"
    assert stage.controller.note is not None
    assert "nobody answers" in stage.controller.note

    await stage.tick(30)
    held = stage.rollout(id)
    assert held.state == "holding"
    assert held.held == "insufficient evidence after 600 s"
    assert dict(stage.world.history[-1].weights) == {"stable": 100}


async def test_an_answer_that_is_not_evidence_decides_nothing(stage: Stage) -> None:
    await stage.with_champion()
    stage.traffic.malformed = True
    id = stage.start("4")
    await stage.tick(60)
    assert stage.rollout(id).state == "shadowing"
    stage.traffic.malformed = False
    assert (await stage.until_ended(id)).state == "promoted"


async def test_insufficient_evidence_reverts_where_the_policy_says_so(stage: Stage) -> None:
    await stage.with_champion()
    stage.traffic.problem = "nobody answers"
    policy = POLICY.model_copy(update={"on_insufficient": "revert", "max_duration": 30.0})
    done = await stage.until_ended(stage.start("4", policy=policy), limit=60)
    assert (done.state, done.verdict) == ("rolled_back", None)
    assert done.why == "insufficient evidence after 30 s"


async def test_a_held_rollout_still_rolls_back_on_a_regression(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    stage.command(id, "pause")
    await stage.tick(60)
    assert stage.rollout(id).state == "holding", "no evidence moves what a person holds"
    assert weights(stage)[-1] == {"stable": 90, "canary": 10}

    stage.traffic.errors["4"] = 0.5
    assert (await stage.until_ended(id, limit=60)).state == "rolled_back"


async def test_a_paused_rollout_resumes_and_is_promoted(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.tick(10)
    stage.command(id, "pause")
    await stage.tick(30)
    stage.command(id, "resume")
    assert (await stage.until_ended(id)).state == "promoted"
    actors = {entry.kind: entry.actor for entry in stage.store.ledger(id)}
    assert actors["pause"] == actors["resume"] == "tester"


@pytest.mark.parametrize("seconds", [1, 6, 20, 40])
async def test_an_abort_brings_stable_back_from_anywhere(stage: Stage, seconds: int) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.tick(seconds)
    stage.command(id, "abort")
    done = await stage.until_ended(id, limit=20)
    assert (done.state, done.why) == ("aborted", "aborted by tester")
    assert weights(stage)[-1] == {"stable": 100}
    await stage.tick()
    assert list(stage.world.current()) == [Arm.STABLE]
    with pytest.raises(RolloutRefused, match="too late"):
        stage.command(id, "abort")


async def test_an_abort_in_the_middle_of_a_promotion_restarts_the_old_model_first(
    stage: Stage,
) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).phase == "replace")
    await stage.tick()  # The stable arm restarts with version 4 ...
    assert stage.world.current()[Arm.STABLE].version == "4"
    stage.command(id, "abort")
    done = await stage.until_ended(
        id, limit=20
    )  # ... and FileWorld allows no route before it is up
    assert done.state == "aborted"
    assert stage.world.current()[Arm.STABLE].version == "3"
    assert stage.world.champion() == "3"


async def test_somebody_may_promote_without_evidence(stage: Stage) -> None:
    await stage.with_champion()
    stage.traffic.problem = "nobody answers"
    id = stage.start("4")
    await stage.tick(6)
    stage.command(id, "promote")
    done = await stage.until_ended(id, limit=30)
    assert (done.state, done.verdict) == ("promoted", None)
    assert stage.world.champion() == "4"


async def test_a_candidate_that_does_not_start_is_given_up(stage: Stage) -> None:
    await stage.with_champion()
    stage.world.never_ready = ("4",)
    id = stage.start("4")
    await stage.tick(50)
    assert stage.rollout(id).state == "pending"
    assert stage.controller.note == "waiting for shadow to answer"
    done = await stage.until_ended(id, limit=30)
    assert done.state == "aborted"
    assert done.why == "version 4 did not answer on shadow in 60 s"
    assert weights(stage)[-1] == {"stable": 100}


async def test_a_first_champion_that_does_not_start_leaves_nothing_behind(stage: Stage) -> None:
    stage.world.never_ready = ("3",)
    done = await stage.until_ended(stage.start("3"), limit=80)
    assert done.state == "aborted"
    assert stage.world.current() == {}
    assert stage.world.champion() is None


async def test_an_arm_that_crashes_is_waited_for(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    stage.world.crash(Arm.CANARY)
    await stage.tick(1)
    assert stage.controller.note == "waiting for canary to answer"
    assert (await stage.until_ended(id)).state == "promoted"


async def test_the_way_back_does_not_wait_for_ever_for_a_dead_stable(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    stage.world.never_ready = ("3",)
    stage.world.may_misroute = True
    stage.command(id, "abort")
    done = await stage.until_ended(id, limit=15)
    assert done.state == "aborted"
    assert weights(stage)[-1] == {"stable": 100}


async def test_the_way_back_is_not_begun_anew_by_every_controller(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    stage.world.never_ready = ("3",)
    stage.world.may_misroute = True
    stage.command(id, "abort")
    for _ in range(6):  # none of which lives long enough to lose its patience
        await stage.tick(3)
        stage.die()
    assert stage.rollout(id).state == "aborted"
    assert weights(stage)[-1] == {"stable": 100}


async def test_a_gateway_that_refuses_is_asked_again(stage: Stage) -> None:
    await stage.with_champion()
    stage.world.route_problem = RouteNotApplied("Envoy rejected it")
    id = stage.start("4")
    await stage.tick(20)
    assert stage.rollout(id).state == "pending", "no window opens on routes that are not confirmed"
    assert stage.controller.note == "RouteNotApplied: Envoy rejected it"
    stage.world.route_problem = None
    assert (await stage.until_ended(id)).state == "promoted"


async def test_one_rollout_at_a_time_and_none_of_what_serves(stage: Stage) -> None:
    await stage.with_champion()
    stage.world.add_version("5")
    with pytest.raises(RolloutRefused, match="already serves"):
        stage.start("3")
    with pytest.raises(CandidateUnavailable, match="no version '9'"):
        stage.start("9")
    id = stage.start("4")
    with pytest.raises(RolloutRefused, match=f"{id} is under way with version 4"):
        stage.start("5")


async def test_rejected_content_is_not_offered_again_until_the_cooldown_ends(
    stage: Stage,
) -> None:
    await stage.with_champion()
    stage.traffic.accuracy["4"] = 0.3
    await stage.until_ended(stage.start("4"))
    stage.world.add_version("5", content="model 4")

    with pytest.raises(RolloutRefused, match=r"r2 rolled back; it may be .* in 86\d+ s"):
        stage.start("5")

    stage.clock.advance(POLICY.cooldown)
    assert stage.start("5")


async def test_a_rollout_that_would_compare_nothing_is_refused(stage: Stage) -> None:
    policy = RolloutSpec(steps=(StepSpec(weight=100),))
    await stage.with_champion()
    with pytest.raises(RolloutRefused, match="nothing would be compared"):
        stage.start("4", shadow=False, policy=policy)


async def test_evidence_from_before_the_routes_were_confirmed_does_not_count(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "shadowing")
    opened = stage.rollout(id).windows[0].opened_at
    await stage.tick(3)
    assert min(stage.traffic.fetched) == opened
    assert opened >= stage.world.plans()[-1][0]


async def test_the_registrys_champion_serves_after_the_database_was_lost(stage: Stage) -> None:
    await stage.with_champion()
    stage.close()
    for file in stage.root.glob("rollout.db*"):
        file.unlink()
    stage.world.retire(Arm.CANARY)
    stage.restart()
    await stage.tick(10)
    assert stage.world.current()[Arm.STABLE].version == "3"
    assert stage.world.history[-1].decision_id == "champion-3"


async def test_a_decision_can_be_recomputed_from_the_ledger(stage: Stage) -> None:
    await stage.with_champion()
    stage.traffic.accuracy["4"] = 0.96
    id = stage.start("4")
    await stage.until_ended(id)

    replayed = replay(stage.database, id)

    assert {each.recorded.kind for each in replayed} == {"insufficient_evidence", "non_inferior"}
    assert all(each.same for each in replayed)
    assert replayed[-1].stage == "switch"


async def test_a_later_edit_of_the_policy_is_for_the_next_rollout(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4", policy=POLICY.model_copy(update={"guards": GuardsSpec(accuracy=0.5)}))
    stage.restart()
    assert stage.rollout(id).policy.guards.accuracy == 0.5
