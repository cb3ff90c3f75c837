"""Rollouts, plans and ledgers as the HTTP API shows them."""

from __future__ import annotations

from typing import Any

from coalmine.gateway import RoutePlan
from coalmine.rollout._controller import Controller
from coalmine.rollout._decide import Verdict
from coalmine.rollout._state import Rollout
from coalmine.rollout._store import LedgerEntry

__all__ = ["plan", "rollout", "whole"]

#: Of a ledger's entry; the blocks stay in the database, for `replay`.
_INPUTS = ("evidence",)


def plan(shown: RoutePlan | None) -> dict[str, Any]:
    """The routes in force."""
    if shown is None:
        return {"decision_id": None, "weights": {}, "mirror": None}
    mirror = shown.mirror
    return {
        "decision_id": shown.decision_id,
        "weights": {arm.value: weight for arm, weight in shown.weights.items()},
        "mirror": None if mirror is None else {"arm": mirror[0].value, "fraction": mirror[1]},
    }


def rollout(shown: Rollout) -> dict[str, Any]:
    """One rollout in a few words."""
    return {
        "id": shown.id,
        "version": shown.candidate.version,
        "digest": shown.candidate.digest,
        "stable_version": None if shown.stable is None else shown.stable.version,
        "state": shown.state,
        "stage": shown.stage,
        "verdict": shown.verdict,
        "weights": _weights(shown),
        "started": shown.started,
        "ended": shown.ended,
        "reason": shown.reason,
        "actor": shown.actor,
        "held": shown.held,
        "why": shown.why,
    }


def whole(shown: Rollout, ledger: list[LedgerEntry], *, controller: Controller) -> dict[str, Any]:
    """One rollout with its evidence and its ledger."""
    return {
        **rollout(shown),
        "config": shown.config,
        "note": controller.note if shown.under_way else None,
        "evidence": _evidence(shown, ledger, controller=controller),
        "ledger": [_entry(each) for each in ledger],
    }


def _weights(shown: Rollout) -> dict[str, int]:
    if not shown.under_way:
        return {}
    stays = 100 - shown.weight - shown.baseline
    weights = {"stable": stays, "canary": shown.weight}
    return {**weights, "baseline": shown.baseline} if shown.policy.baseline else weights


def _evidence(
    shown: Rollout, ledger: list[LedgerEntry], *, controller: Controller
) -> dict[str, Any] | None:
    """The last verdict with its numbers: this moment's, or the ledger's."""
    latest = controller.judge.latest
    if shown.under_way and latest is not None and latest[0] == shown.id:
        return _verdict(latest[1].model_dump(mode="json"))
    for entry in reversed(ledger):
        if "verdict" in entry.body:
            return _verdict(entry.body["verdict"])
    return None


def _verdict(recorded: dict[str, Any]) -> dict[str, Any]:
    verdict = Verdict.model_validate(recorded)
    return {
        "verdict": verdict.kind,
        "reasons": list(verdict.reasons),
        "guards": [
            {
                **guard.model_dump(mode="json"),
                "regression": guard.regression,
                "non_inferior": guard.non_inferior,
            }
            for guard in verdict.guards
        ],
    }


def _entry(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "time": entry.time,
        "kind": entry.kind,
        "actor": entry.actor,
        "state": entry.state,
        "stage": entry.stage,
        "decision_id": entry.decision,
        **{key: value for key, value in entry.body.items() if key not in _INPUTS},
    }
