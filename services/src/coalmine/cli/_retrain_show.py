"""How `coalmine retrain` shows what the retrainer answers: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

__all__ = ["history", "outcome", "runs", "status"]


def history(triggers: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """What asked for runs."""
    if as_json:
        typer.echo(json.dumps(triggers, indent=2))
        return
    if not triggers:
        typer.echo("nothing has asked for a run yet")
        return
    rows = [
        (
            _time(trigger["last_at"]),
            trigger["source"],
            trigger["name"][:40],
            str(trigger["count"]),
            trigger["fate"],
            trigger["run"] or "",
            trigger["outcome"] or "",
            trigger["reason"],
        )
        for trigger in triggers
    ]
    _table(("time (UTC)", "by", "what", "times", "fate", "run", "outcome", "why"), rows)


def outcome(run: Mapping[str, Any] | None) -> str | None:
    """How a run ended, or where it is; with how its rollout ended, if it had one."""
    if run is None:
        return None
    found = str(run["outcome"] or run.get("state") or "running")
    verdict = run.get("verdict")
    return f"{found}, {verdict.replace('_', ' ')}" if verdict else found


def runs(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """The runs."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("no run yet")
        return
    rows = [
        (
            str(run["id"]),
            _time(run.get("created")),
            outcome(run) or "",
            run.get("version") or "",
            run["reason"],
            run.get("error") or run.get("waiting_for") or "; ".join(run.get("reasons") or ()),
        )
        for run in found
    ]
    _table(("run", "asked for (UTC)", "outcome", "version", "reason", "details"), rows)


def status(found: Mapping[str, Any], as_json: bool) -> None:
    """What runs, and what stands in the way of the next run."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    run, breaker, back_off = found["run"], found["breaker"], found["back_off"]
    failures = f"{breaker['failures']} of {breaker['max_failures']} failures in a row"
    told = f"; last: {breaker['last']} ({breaker['run']})" if breaker["failures"] else ""
    stopped = "OPEN, a person is needed (coalmine retrain reset), " if breaker["open"] else ""
    waits = f"{back_off['rejections']} candidates rejected in a row"
    lines = {
        "run": "none" if run is None else _active(run, found),
        "breaker": f"{stopped}{failures}{told}",
        "back-off": f"{_until(back_off['until'])}{waits}",
        "cooldown": _until(found["cooldown_until"]) or "over",
        "budget": f"{found['runs_today']} of {found['daily_budget']} runs within a day",
        "schedule": _until(found["next_scheduled"], "next at ") or "none",
    }
    for name, text in lines.items():
        typer.echo(f"{name:9} {text.rstrip(', ').rstrip()}")


def _active(run: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What the run that is under way does, and how far it is."""
    told = f"{run['id']} {run['state']}"
    progress = run.get("progress")
    if progress is None:
        waiting = f"for {run['waiting_for']}" if run["waiting_for"] else ""
        return f"{told} {waiting}"
    elapsed = f"{found['now'] - run['started']:.0f} s of at most {found['time_limit']:.0f} s"
    steps = [f"{name} for {seconds:.0f} s" for name, seconds in progress["steps"].items()]
    now = ", ".join(steps) or "between two steps"
    trials = ", ".join(
        f"{search['family']} {search['done']} of {search['total']} trials, best loss "
        f"{search['best_loss']:.4g}"
        for search in progress["searches"]
    )
    done = f"{progress['steps_done']} steps done, now {now}"
    return f"{told} for {elapsed}; {done}{f' ({trials})' if trials else ''}"


def _until(time: float | None, word: str = "until ") -> str:
    return "" if time is None else f"{word}{_time(time)} UTC, "


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head) - 1)]
    for row in (head, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]).rstrip())
