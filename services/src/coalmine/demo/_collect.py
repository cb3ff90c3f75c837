"""From what a play has seen to the facts and the story of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coalmine.demo._account import account_of
from coalmine.demo._expectations import judge
from coalmine.demo._facts import Facts
from coalmine.demo._history import disagreements
from coalmine.demo._ledger import Phase
from coalmine.demo._play import Play
from coalmine.demo._story import Story
from coalmine.modeldir import model_digest

__all__ = ["collect"]

_BIN_S = 2.0


def collect(play: Play, *, problem: str | None, machine: str) -> Story:
    """The story, also of a play that was cut short."""
    facts = _facts(play, problem=problem or play.courier.refused)
    return Story(
        facts=facts,
        checks=judge(facts),
        history=play.history,
        started=play.started,
        ended=play.stages[-1].end if play.stages else play.started,
        stages=tuple(play.stages),
        phases=dict(play.phases),
        bins=play.ledger.bins(seconds=_BIN_S),
        versions=_versions(play),
        failures=tuple(play.traffic.stats.failures),
        machine=machine,
    )


def _facts(play: Play, *, problem: str | None) -> Facts:
    watcher, stats = play.watcher, play.traffic.stats
    account = play.account
    if not account.emitted:  # the play did not get as far as its end
        account = account_of(play.stack.state.root, None)
    return Facts(
        scenario=play.options.scenario,
        seed=play.options.seed,
        requests=stats.requests,
        failed_requests=stats.failed,
        resent_requests=stats.resent,
        labels_due=play.ledger.labels_due,
        labels_delivered=play.ledger.labels_delivered,
        records_emitted=account.emitted,
        records_in_log=account.in_log,
        records_dropped=account.dropped,
        injected_at=play.injected_at,
        accuracy={phase: play.ledger.accuracy(phase) for phase in Phase},
        incidents=tuple(sorted(watcher.incidents.values(), key=lambda i: i.opened_at)),
        triggers=tuple(sorted(watcher.triggers, key=lambda t: t.time)),
        runs=tuple(sorted(watcher.runs.values(), key=lambda r: r.created)),
        rollouts=tuple(sorted(watcher.rollouts.values(), key=lambda r: r.started)),
        stable_before=play.stable_before,
        stable_after=play.version_answering(),
        candidate=play.candidate,
        weights_after=dict(watcher.weights),
        weight_samples=len(play.history.weights),
        weight_mismatches=disagreements(play.history.weights),
        problem=problem,
    )


def _versions(play: Play) -> list[Mapping[str, Any]]:
    """Every version that was rolled out or answered, oldest first."""
    answered = play.ledger.by_version()
    fates = {rollout.version: rollout.state for rollout in play.watcher.rollouts.values()}
    runs = {run.version: run.id for run in play.watcher.runs.values() if run.version}
    versions = sorted({*answered, *fates, *runs}, key=lambda v: (len(v), v))
    return [
        {
            "version": version,
            "fate": fates.get(version, "registered").replace("_", " "),
            "run": runs.get(version),
            "digest": _digest(play.stack.state.models / version),
            **answered.get(version, {"requests": 0, "arms": []}),
        }
        for version in versions
    ]


def _digest(directory: Path) -> str | None:
    try:
        return model_digest(directory)
    except OSError:
        return None
