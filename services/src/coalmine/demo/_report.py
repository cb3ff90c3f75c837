"""The report: report.json for machines, report.html and the pictures for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from coalmine.demo._facts import Facts
from coalmine.demo._ledger import Accuracy, Phase
from coalmine.demo._story import Story

__all__ = ["report_content", "write_json", "write_pages"]


def report_content(story: Story) -> dict[str, Any]:
    """The content of report.json. Times are seconds since the epoch, durations seconds."""
    facts = story.facts
    return {
        "scenario": facts.scenario.value,
        "seed": facts.seed,
        "ok": story.ok,
        "problem": facts.problem,
        "checks": [asdict(check) for check in story.checks],
        "started": story.started,
        "ended": story.ended,
        "machine": story.machine,
        "requests": facts.requests,
        "failed_requests": facts.failed_requests,
        "resent_requests": facts.resent_requests,
        "failures": list(story.failures),
        "labels": {"due": facts.labels_due, "delivered": facts.labels_delivered},
        "records_emitted": facts.records_emitted,
        "records_in_log": facts.records_in_log,
        "records_dropped": facts.records_dropped,
        "weights": {
            "samples": facts.weight_samples,
            "mismatches": facts.weight_mismatches,
            "after": dict(facts.weights_after),
        },
        "drift": _drift(story),
        "alerts": _alerts(facts),
        "triggers": [asdict(trigger) for trigger in facts.triggers],
        "retraining": _retraining(facts),
        "rollout": _rollout(facts),
        "rollouts": [_plain(asdict(rollout)) for rollout in facts.rollouts],
        "versions": [dict(version) for version in story.versions],
        "accuracy": {phase.value: _number(facts.accuracy[phase].value) for phase in Phase},
        "accuracy_detail": {phase.value: _accuracy(facts.accuracy[phase]) for phase in Phase},
        "stages": _stages(story),
        "events": [asdict(event) for event in story.history.events],
    }


def write_json(story: Story, directory: Path) -> Path:
    """Write report.json, making the directory if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "report.json"
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    options |= orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    path.write_bytes(orjson.dumps(report_content(story), option=options, default=str))
    return path


def write_pages(story: Story, directory: Path) -> Path:
    """Write the pictures and report.html, which holds them; returns the path of the page."""
    from coalmine.demo._page import render
    from coalmine.demo._plots import PICTURES, draw

    directory.mkdir(parents=True, exist_ok=True)
    pictures = {name: draw(name, story) for name in PICTURES}
    for name, content in pictures.items():
        (directory / f"{name}.png").write_bytes(content)
    path = directory / "report.html"
    path.write_text(render(story, pictures), encoding="utf-8")
    return path


def _drift(story: Story) -> dict[str, Any]:
    incident = story.drift()
    injected = story.facts.injected_at
    if incident is None:
        return {"onset": None, "detected": None, "features": [], "injected": injected}
    return {
        "onset": incident.onset_at,
        "detected": incident.opened_at,
        "features": [feature.name for feature in incident.features],
        "injected": injected,
        "delay": None if injected is None else incident.opened_at - injected,
        "kind": incident.kind,
        "version": incident.model_version,
        "summary": incident.summary,
    }


def _alerts(facts: Facts) -> list[dict[str, Any]]:
    return [
        {
            "alertname": incident.alertname,
            "model_version": incident.model_version,
            "features": [feature.name for feature in incident.features],
            "summary": incident.summary,
            "onset": incident.onset_at,
            "opened": incident.opened_at,
            "closed": incident.closed_at,
            "fates": [
                f"{alert.fate}: {alert.reason}" if alert.reason else alert.fate
                for alert in facts.alerts()
                if alert.name == incident.alertname
            ],
            "incident": incident.id,
        }
        for incident in sorted(facts.incidents, key=lambda i: i.opened_at)
    ]


def _retraining(facts: Facts) -> dict[str, Any]:
    runs = facts.retraining_runs()
    return {
        "runs": len(runs),
        "outcome": runs[-1].outcome if runs else None,
        "history": [_plain(asdict(run)) for run in facts.runs],
    }


def _rollout(facts: Facts) -> dict[str, Any]:
    rollout = facts.reaction()
    if rollout is None:
        return {"verdict": None, "started": None, "ended": None, "evidence": None}
    return {
        "verdict": rollout.verdict,
        "state": rollout.state,
        "version": rollout.version,
        "states": list(rollout.states),
        "started": rollout.started,
        "ended": rollout.ended,
        "evidence": rollout.detail.get("evidence"),
    }


def _stages(story: Story) -> dict[str, float]:
    stages: dict[str, float] = {}
    for span in story.stages:
        stages[span.name] = round(stages.get(span.name, 0.0) + span.seconds, 2)
    stages["total"] = round(story.ended - story.started, 2)
    return stages


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    return {key: _number(value) for key, value in asdict(accuracy).items()}


def _number(value: float) -> float | None:
    """A number as JSON can say it."""
    return value if math.isfinite(value) else None


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only the pictures need."""
    detail = {key: value for key, value in content.get("detail", {}).items() if key != "spans"}
    return {**content, "detail": detail}
