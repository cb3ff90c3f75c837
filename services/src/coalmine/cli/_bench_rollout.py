"""`coalmine bench chaos-rollout` and `weights`: run, show, write the numbers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import typer

from coalmine_loadtests.rollout import (
    ChaosOptions,
    ChaosReport,
    WeightsOptions,
    run_chaos,
    run_weights,
)

__all__ = ["change_weights", "chaos"]

#: Of what went wrong, as many as help.
_SHOWN = 5


def chaos(
    *, kills: int, seed: int, connections: int, directory: Path | None, json: Path | None
) -> int:
    """Returns the exit status."""

    def progress(report: ChaosReport) -> None:
        _progress(f"killed {report.kills} of {kills} times", last=report.kills == kills)

    options = ChaosOptions(kills=kills, seed=seed, connections=connections, directory=directory)
    report = run_chaos(options, progress=progress)
    phases = ", ".join(f"{phase} {count}" for phase, count in sorted(report.killed_in.items()))
    ends = ", ".join(f"{outcome} {count}" for outcome, count in sorted(report.outcomes.items()))
    typer.echo(f"{report.kills} kills in {report.seconds:.0f} s, in the phases: {phases}")
    typer.echo(f"rollouts that ended: {ends}; verdicts replayed: {report.verdicts}")
    _say("requests that no model answered", report.failed, of=report.requests)
    _say("weights at the gateway that nobody had decided", report.undecided, of=report.plans)
    _say("verdicts that replay otherwise", [""] * report.replayed_otherwise, of=report.verdicts)
    _say("not at rest at the end", report.unsettled)
    _write(json, {**asdict(report), "passed": report.passed})
    return 0 if report.passed else 1


def change_weights(*, changes: int, connections: int, limit: float, json: Path | None) -> int:
    """Returns the exit status."""
    options = WeightsOptions(changes=changes, connections=connections)
    report = run_weights(
        options, progress=lambda done: _progress(f"{done} of {changes}", last=done == changes)
    )
    found = {
        "routed_ms": report.summary(report.routed),
        "acknowledged_ms": report.summary(report.acknowledged),
    }
    for name, about in (
        ("routed_ms", "first request routed by the new weights"),
        ("acknowledged_ms", "shown by the gateway's admin port   "),
    ):
        numbers = ", ".join(f"{key} {value:.1f} ms" for key, value in found[name].items())
        typer.echo(f"{about}: {numbers}")
    _say("requests that no model answered", report.failed, of=report.requests)
    _write(
        json, {"changes": changes, "requests": report.requests, **found, "failed": report.failed}
    )
    late = max(each["max"] for each in found.values()) > limit
    return 1 if late or report.failed else 0


def _say(what: str, found: list[str], *, of: int | None = None) -> None:
    typer.echo(f"{what}: {len(found)}" + ("" if of is None else f" of {of}"))
    for each in found[:_SHOWN]:
        typer.echo(f"  {each}")


def _progress(text: str, *, last: bool) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{text}", nl=last, err=True)


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        typer.echo(f"written: {path}")
