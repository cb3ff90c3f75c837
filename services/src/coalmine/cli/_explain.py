"""A rollout's ledger as a story for a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalmine.rollout import Replayed

__all__ = ["compared", "explained", "listed"]

_INDENT = " " * 12
_VERDICTS = {
    "regression": "the candidate is worse",
    "non_inferior": "the candidate is no worse than the margins allow",
    "insufficient_evidence": "not enough evidence yet",
}
_KINDS = {
    "started": "offered",
    "opened": "the data plane has confirmed the routes: evidence counts from here",
    "judged": "judged",
    "passed": "passed",
    "held": "held",
    "reverted": "back to stable",
    "ended": "ended",
    "pause": "paused",
    "resume": "resumed",
    "promote": "promoted by hand",
    "abort": "aborted by hand",
}


def explained(rollout: dict[str, Any]) -> str:
    """What happened, on what evidence, and what comes next; `rollout` as the HTTP API shows it."""
    lines = [*_header(rollout), ""]
    for entry in rollout.get("ledger", ()):
        lines += _entry(entry)
    lines += [*_asked(rollout), "", *_now(rollout)]
    return "\n".join(lines)


def listed(rollout: dict[str, Any]) -> str:
    """One line: when, which, what came of it, and why."""
    started = rollout.get("started")
    when = "" if started is None else datetime.fromtimestamp(started, UTC).strftime("%F %T  ")
    why = rollout.get("held") or rollout.get("why") or rollout.get("verdict") or ""
    line = f"{rollout['id']}  {when}version {rollout['version']}  {rollout['state']:<11}  {why}"
    return line.rstrip()


def compared(rollout: str, verdicts: Sequence[Replayed]) -> str:
    """Every verdict of the ledger beside the one that its evidence gives now."""
    lines = [
        f"{_time(each.time)}  entry {each.number:<5} {each.stage or '':<24} {each.recorded.kind}  "
        + ("same" if each.same else f"DIFFERENT: now {each.recomputed.kind}")
        for each in verdicts
    ]
    for each in verdicts:
        if not each.same:
            lines += [f"entry {each.number}, recorded:", *_reasons(each.recorded.reasons)]
            lines += [f"entry {each.number}, now:", *_reasons(each.recomputed.reasons)]
    different = sum(not each.same for each in verdicts)
    outcome = f"{different} of them differ" if different else "all of them the same"
    if not verdicts:
        outcome = "none was recorded"
    return "\n".join([*lines, f"{rollout}: {len(verdicts)} verdicts recomputed, {outcome}"])


def _header(rollout: dict[str, Any]) -> list[str]:
    beside = rollout.get("stable_version")
    beside = "as the first champion" if beside is None else f"beside version {beside}"
    reason = f": {rollout['reason']}" if rollout.get("reason") else ""
    return [
        f"rollout {rollout['id']}: version {rollout['version']} {beside}, {rollout['state']}",
        f"offered by {rollout.get('actor') or 'unknown'}{reason}",
        f"model {rollout.get('digest')}, policy {rollout.get('config')}",
    ]


def _entry(entry: dict[str, Any]) -> list[str]:
    what = _KINDS.get(entry["kind"], entry["kind"])
    why = entry.get("why") or entry.get("reason")
    by = "" if entry["actor"] == "controller" else f" by {entry['actor']}"
    line = f"{_time(entry['time'])}  {entry.get('stage') or ''}: {what}{by}"
    lines = [f"{line}: {why}" if why else line]
    verdict = entry.get("verdict")
    if verdict:
        lines.append(f"{_INDENT}{_VERDICTS.get(verdict['kind'], verdict['kind'])}")
        lines += _reasons(verdict["reasons"])
    return lines


def _now(rollout: dict[str, Any]) -> list[str]:
    if rollout["state"] in ("promoted", "rolled_back", "aborted"):
        why = f": {rollout['why']}" if rollout.get("why") else ""
        return [f"ended {_time(rollout['ended'])}, {rollout['state']}{why}"]
    lines = [f"now at {rollout.get('stage')}"]
    if rollout.get("held"):
        lines = [f"held at {rollout.get('stage')}: {rollout['held']}; coalmine rollout resume"]
    if rollout.get("note"):
        lines.append(f"{_INDENT}{rollout['note']}")
    evidence = rollout.get("evidence")
    if evidence:
        lines.append(f"{_INDENT}{_VERDICTS[evidence['verdict']]}")
        lines += _reasons(evidence["reasons"])
    return lines


def _asked(rollout: dict[str, Any]) -> list[str]:
    """Who was asked for the last verdict's evidence, word for word, and the answer's digest."""
    entry = next((e for e in reversed(rollout.get("ledger", ())) if "asked" in e), None)
    if entry is None:
        return []
    lines = [f"evidence from: {entry['asked']}"]
    lines += [f"{_INDENT}{query['name']}: {query['text']}" for query in entry["queries"]]
    return [*lines, f"{_INDENT}answers {entry['source']}"]


def _reasons(reasons: Sequence[str]) -> list[str]:
    return [f"{_INDENT}- {reason}" for reason in reasons]


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
