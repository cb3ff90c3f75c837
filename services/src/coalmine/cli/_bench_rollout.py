"""`coalmine bench chaos-rollout` and `weights`: run, show, write the numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import typer

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.rollout import (
    ChaosOptions,
    ChaosReport,
    Kill,
    WeightsOptions,
    run_chaos,
    run_weights,
)

__all__ = ["change_weights", "chaos"]

#: Of what went wrong, as many as help.
_SHOWN = 5
#: Seconds in which the effects of a decision, the next look and the next stage come about.
_SOON = (0.02, 0.1, 0.5, 1.0)
#: Between two lines of progress where nobody watches a terminal, in percent.
_EVERY = 10


def chaos(
    *, kills: int, seed: int, connections: int, directory: Path | None, json: Path | None
) -> int:
    """Returns the exit status."""

    def progress(report: ChaosReport) -> None:
        _progress("killed", report.kills, of=kills)

    options = ChaosOptions(kills=kills, seed=seed, connections=connections, directory=directory)
    report = run_chaos(options, progress=progress)
    ends = ", ".join(f"{outcome} {count}" for outcome, count in sorted(report.outcomes.items()))
    typer.echo(f"{report.kills} kills in {report.seconds:.0f} s")
    for line in _instants(report.killed):
        typer.echo(f"  {line}")
    typer.echo(f"rollouts that ended: {ends}; verdicts replayed: {report.verdicts}")
    _say("requests that no model answered", report.failed, of=report.requests)
    _say("weights at the gateway that nobody had decided", report.undecided, of=report.plans)
    _say("verdicts that replay otherwise", [""] * report.replayed_otherwise, of=report.verdicts)
    _say("not at rest at the end", report.unsettled)
    _write(json, {"kills": report.kills, **asdict(report), "passed": report.passed})
    return 0 if report.passed else 1


def _instants(killed: list[Kill]) -> Iterator[str]:
    """At which instants the kills fell."""
    for what, found in (
        ("while the rollout was", Counter(each.state for each in killed)),
        ("in the phase", Counter(each.phase for each in killed)),
    ):
        yield f"{what}: " + ", ".join(f"{name} {count}" for name, count in found.most_common())
    since = [each.since_entry for each in killed if each.since_entry is not None]
    counts = ", ".join(
        f"within {limit * 1000:.0f} ms {sum(each <= limit for each in since)}" for limit in _SOON
    )
    yield f"after the last decision: {counts}, later {sum(each > _SOON[-1] for each in since)}"
    yield f"of a controller that had the lease: {sum(each.acting for each in killed)}"


def change_weights(*, changes: int, connections: int, limit: float, json: Path | None) -> int:
    """Returns the exit status."""
    options = WeightsOptions(changes=changes, connections=connections)
    report = run_weights(options, progress=lambda done: _progress("changed", done, of=changes))
    found = {
        "routed_ms": report.summary(report.routed),
        "acknowledged_ms": report.summary(report.acknowledged),
        "request_ms": report.summary(report.ordinary),
    }
    for name, about in (
        ("routed_ms", "first request routed by the new weights      "),
        ("acknowledged_ms", "shown by the gateway's admin port            "),
        ("request_ms", "an ordinary request meanwhile, for comparison"),
    ):
        numbers = ", ".join(f"{key} {value:.1f} ms" for key, value in found[name].items())
        typer.echo(f"{about}: {numbers}")
    _say("requests that no model answered", report.failed, of=report.requests)
    _write(
        json, {"changes": changes, "requests": report.requests, **found, "failed": report.failed}
    )
    late = max(found[name]["max"] for name in ("routed_ms", "acknowledged_ms")) > limit
    return 1 if late or report.failed else 0


def _say(what: str, found: list[str], *, of: int | None = None) -> None:
    typer.echo(f"{what}: {len(found)}" + ("" if of is None else f" of {of}"))
    for each in found[:_SHOWN]:
        typer.echo(f"  {each}")


def _progress(what: str, done: int, *, of: int) -> None:
    """On a terminal one line that changes, elsewhere a line for every tenth of the work."""
    text = f"{what} {done} of {of} times"
    if sys.stderr.isatty():
        typer.echo(f"\r{text}", nl=done == of, err=True)
    elif done * 100 // (_EVERY * of) > (done - 1) * 100 // (_EVERY * of):
        typer.echo(text, err=True)


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        write_whole(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))
        typer.echo(f"written: {path}")
