"""The services' JSON as facts: the one place that knows the shapes of their answers.

Everything takes what `Watcher.get` gives, None for a part that is away, and leaves out an
entry that it does not understand rather than ending the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from coalmine.demo._facts import RolloutFact, RunFact, TriggerFact
from coalmine.demo._history import Event, ScoreSample
from coalmine.demo._spans import Span
from coalmine.incidents import Incident

__all__ = [
    "decisions",
    "drift_scores",
    "fault_scores",
    "features",
    "incidents",
    "rollout",
    "rollouts",
    "runs",
    "triggers",
    "weights",
    "windows",
]

_NAMED_FEATURES = 6
_HUGE = 1e300
_ROLLOUT_DETAIL = (
    *("reason", "actor", "digest", "stable_version", "why", "held", "note", "evidence", "ledger"),
)


def incidents(content: Any) -> Iterator[Incident]:
    """`GET /v1/incidents` of a monitor."""
    for entry in _entries(content, "incidents"):
        try:
            yield Incident.model_validate(entry)
        except ValidationError:
            continue


def features(incident: Incident) -> dict[str, Any]:
    """The strongest features of an incident, for a reader."""
    named = incident.features[:_NAMED_FEATURES]
    return {"features": [feature.model_dump() for feature in named]} if named else {}


def runs(content: Any) -> Iterator[RunFact]:
    """`GET /v1/runs` of the retrainer."""
    for entry in _entries(content, "runs"):
        created = _number(entry.get("created")) or 0.0
        yield RunFact(
            id=str(entry.get("id")),
            kind=str(entry.get("kind")),
            reason=str(entry.get("reason")),
            created=created,
            started=_number(entry.get("started")),
            ended=_number(entry.get("ended")),
            outcome=_text(entry.get("outcome")),
            version=_text(entry.get("version")),
            cancelled=entry.get("state") == "cancelled",
            detail=_only(entry, "reasons", "error", "steps", "attempts", "deaths", "rollout"),
        )


def triggers(content: Any) -> Iterator[TriggerFact]:
    """`GET /v1/triggers` of the retrainer."""
    for entry in _entries(content, "triggers"):
        yield TriggerFact(
            name=str(entry.get("name")),
            source=str(entry.get("source")),
            fate=str(entry.get("fate")),
            reason=str(entry.get("reason") or ""),
            time=_number(entry.get("first_at")) or 0.0,
            detail=_only(entry, "identity", "model_version", "starts_at", "run", "count"),
        )


def rollouts(content: Any) -> list[RolloutFact]:
    """`GET /v1/rollouts`, oldest first."""
    found = [rollout(entry) for entry in _entries(content, "rollouts")]
    return sorted((fact for fact in found if fact is not None), key=lambda fact: fact.started)


def rollout(content: Any) -> RolloutFact | None:
    """`GET /v1/rollouts/{id}`."""
    if not isinstance(content, Mapping) or "id" not in content:
        return None
    ended = _number(content.get("ended"))
    spans = tuple(_state_spans(content, ended))
    state = str(content.get("state"))
    return RolloutFact(
        id=str(content["id"]),
        version=str(content.get("version")),
        state=state,
        verdict=_text(content.get("verdict")),
        started=_number(content.get("started")) or 0.0,
        ended=ended,
        states=tuple(dict.fromkeys([span.name for span in spans] + [state])),
        detail={**_only(content, *_ROLLOUT_DETAIL), "spans": spans},
    )


def decisions(fact: RolloutFact) -> Iterator[tuple[int, Event]]:
    """A rollout's ledger as events, with the evidence of each, by the entry's number."""
    for entry in _entries(fact.detail.get("ledger"), "entries"):
        kind, stage = str(entry.get("kind")), entry.get("stage")
        about = f"version {fact.version}: {kind}" + (f", {stage}" if stage else "")
        if kind == "ended":
            about = f"version {fact.version}: {str(entry.get('state')).replace('_', ' ')}"
        grounds = {
            key: value
            for key, value in entry.items()
            if key not in ("number", "time", "kind", "stage", "state", "policy") and value
        }
        yield (
            int(entry.get("number", 0)),
            Event(_number(entry.get("time")) or 0.0, "rollout", about, grounds),
        )


def weights(content: Any) -> dict[str, int] | None:
    """`GET /v1/weights`: percent by arm, without the arms that get nothing."""
    if not isinstance(content, Mapping) or not isinstance(content.get("weights"), Mapping):
        return None
    shares = {str(arm): _number(weight) for arm, weight in content["weights"].items()}
    return {arm: int(weight) for arm, weight in shares.items() if weight}


def windows(content: Any) -> Iterator[Mapping[str, Any]]:
    """The judged windows of `GET /v1/drift` and `GET /v1/quality`."""
    return _entries(content, "windows")


def drift_scores(window: Mapping[str, Any]) -> list[ScoreSample]:
    """Every feature's score in one window of the drift monitor."""
    features = window.get("features")
    scores = features.items() if isinstance(features, Mapping) else ()
    samples = [_sample(window, str(name), score) for name, score in scores]
    return [sample for sample in samples if sample is not None]


def fault_scores(window: Mapping[str, Any]) -> list[ScoreSample]:
    """The faults that the quality monitor found in one window."""
    samples = [
        _sample(
            window,
            f"{fault.get('feature')} ({str(fault.get('check', 'fault')).replace('_', ' ')})",
            fault,
        )
        for fault in _entries(window.get("faults"), "faults")
    ]
    return [sample for sample in samples if sample is not None]


def _sample(window: Mapping[str, Any], feature: str, numbers: Any) -> ScoreSample | None:
    if not isinstance(numbers, Mapping):
        return None
    end = _number(window.get("end"))
    score, threshold = _number(numbers.get("score")), _number(numbers.get("threshold"))
    if end is None or score is None or threshold is None:
        return None
    return ScoreSample(end, str(window.get("version")), feature, abs(score), threshold)


def _entries(content: Any, key: str) -> Iterator[Mapping[str, Any]]:
    listed = content.get(key) if isinstance(content, Mapping) else content
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        yield from (entry for entry in listed if isinstance(entry, Mapping))


def _only(entry: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: entry[key] for key in keys if entry.get(key) not in (None, [], {})}


def _state_spans(content: Mapping[str, Any], ended: float | None) -> Iterator[Span]:
    """How long the rollout was in each state, from its ledger."""
    turns: list[tuple[float, str]] = []
    for entry in _entries(content.get("ledger"), "entries"):
        time, state = _number(entry.get("time")), entry.get("state")
        if time is not None and state and (not turns or turns[-1][1] != state):
            turns.append((time, str(state)))
    ends = [time for time, _ in turns[1:]] + [ended]
    for (start, name), end in zip(turns, ends, strict=False):
        yield Span(name, start, start if end is None else max(start, end))


def _number(value: Any) -> float | None:
    """A finite number, or nothing."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and abs(value) < _HUGE else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
