"""How `coalmine data` shows training sets to a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

__all__ = ["differing", "listed", "shown"]

_SHORT = len("sha256:") + 12
_FEATURES = 15


def listed(found: Sequence[Mapping[str, Any]]) -> None:
    """One line for each."""
    if not found:
        typer.echo("no training set yet")
        return
    typer.echo(f"{'digest':12}  {'made (UTC)':19}  {'rows':>8}  {'MiB':>7}  made from")
    for manifest in found:
        size = manifest["bytes"] / 2**20
        rows, made = manifest["summary"]["rows"], _time(manifest["created"])
        source = _source(manifest)
        typer.echo(f"{_short(manifest['digest'])}  {made}  {rows:8}  {size:7.2f}  {source}")


def shown(manifest: Mapping[str, Any]) -> None:
    """All of one, but the features: their number."""
    summary = manifest["summary"]
    lines = {
        "digest": manifest["digest"],
        "made": f"{_time(manifest['created'])} UTC",
        "made from": _source(manifest),
        "source": json.dumps(manifest["source"], sort_keys=True),
        "beside": manifest["parent"] or "nothing: it made a first model",
        "recipe": manifest["recipe"],
        "rows": f"{summary['rows']}, {manifest['bytes']} bytes",
        "time": _range(summary["time"]),
        "splits": _counts(summary["splits"]),
        "classes": _counts(summary["classes"]),
        "features": str(len(summary["features"])),
    }
    for name, text in lines.items():
        typer.echo(f"{name:10} {text}")
    typer.echo(f"\n{'feature':34} {'missing':>8} {'mean':>11} {'std':>11} {'lowest':>11} highest")
    for name, of in summary["features"].items():
        cells = " ".join(f"{_number(of[key]):>11}" for key in ("mean", "std", "lowest"))
        typer.echo(f"{name:34} {of['missing']:8.2%} {cells} {_number(of['highest'])}")


def differing(first: str, second: str, found: Mapping[str, Any]) -> None:
    """What changed from the first to the second; the features that moved most."""
    typer.echo(f"from {_short(first)} to {_short(second)}")
    typer.echo(f"rows       {found['rows'][0]} -> {found['rows'][1]}")
    typer.echo(f"time       {_range(found['time'][0])} -> {_range(found['time'][1])}")
    for key in ("columns_added", "columns_removed", "columns_retyped"):
        if found[key]:
            typer.echo(f"{key.replace('_', ' ')}: {json.dumps(found[key])}")
    for key in ("splits", "classes"):
        total = [sum(counts[side] for counts in found[key].values()) or 1 for side in (0, 1)]
        for name, (before, after) in found[key].items():
            shares = f"{before / total[0]:6.1%} -> {after / total[1]:6.1%}"
            typer.echo(f"{key:10} {name:24} {before:>8} -> {after:<8} {shares}")
    typer.echo(f"\n{'feature, most moved first':34} {'shift (sd)':>10}  mean, missing")
    for name, of in list(found["features"].items())[:_FEATURES]:
        mean = " -> ".join(_number(value) for value in of["mean"])
        gaps = " -> ".join(f"{value:.2%}" for value in of["missing"])
        typer.echo(f"{name:34} {_number(of['shift']):>10}  {mean}, {gaps}")
    if len(found["features"]) > _FEATURES:
        typer.echo(f"... and {len(found['features']) - _FEATURES} more: --json has them all")


def _source(manifest: Mapping[str, Any]) -> str:
    source = manifest["source"]
    if source["kind"] == "records":
        until = f"{_time(source['since'])} to {_time(source['until'])}"
        return f"records of version {source['version']}, {until}, labels up to {source['labels']}"
    if source["kind"] == "file":
        return f"the file {source['path']}"
    return f"the simulator, seed {source['seed']}"


def _short(digest: str) -> str:
    return digest[:_SHORT].removeprefix("sha256:")


def _range(times: Sequence[float] | None) -> str:
    return "none" if times is None else f"{_time(times[0])} to {_time(times[1])} UTC"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
