"""What was found, as JSON; and which of the bars are met."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.monitors._detectors import OURS
from coalmine_loadtests.monitors._errors import MonitorBenchError

__all__ = ["DECLARED", "Delay", "NullRuns", "Results", "joined", "missed", "verdicts"]


#: Windows between false alarms that Coalmine is told to keep, as `peer_coalmine.py` declares them.
DECLARED = 100


@dataclass(slots=True)
class NullRuns:
    """Windows on which nothing happens."""

    runs: int
    windows: int
    run_length: float
    """Windows between false alarms, realised; infinite if there was none."""

    alarms: int = 0


@dataclass(slots=True)
class Delay:
    """How soon a shift is found at an equal realised run length."""

    threshold: float
    run_length: float
    """Realised on the nulls that the threshold was set on; infinite: they were too few."""

    null_windows: int
    delays: list[float]

    @property
    def median(self) -> float:
        """Windows; infinite if fewer than half of the runs were found."""
        return float(median(self.delays)) if self.delays else math.nan

    def within(self, windows: int) -> float:
        """Share of the runs found within so many windows."""
        if not self.delays:
            return math.nan
        return sum(delay <= windows for delay in self.delays) / len(self.delays)


@dataclass(slots=True)
class Results:
    """All of a benchmark. Keys: world, then method or shift."""

    options: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    nulls: dict[str, dict[str, NullRuns]] = field(default_factory=dict)
    delays: dict[str, dict[str, dict[str, Delay]]] = field(default_factory=dict)
    """World, shift, method."""

    psi: dict[str, Any] = field(default_factory=dict)
    coverage: dict[str, dict[str, Any]] = field(default_factory=dict)
    validity: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By change of what labels mean: how soon the flag of the estimates is false."""

    throughput: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Rows of a window, then method: rows_per_second, peak_mb."""

    soak: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False
    """By Ctrl-C: it holds what was complete by then."""

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_whole(path, json.dumps(_finite(asdict(self)), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote; MonitorBenchError for another file."""
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            nulls = {
                world: {name: NullRuns(**_infinite(found)) for name, found in methods.items()}
                for world, methods in content.pop("nulls").items()
            }
            delays = {
                world: {
                    shift: {name: Delay(**_infinite(found)) for name, found in methods.items()}
                    for shift, methods in shifts.items()
                }
                for world, shifts in content.pop("delays").items()
            }
            return cls(nulls=nulls, delays=delays, **content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise MonitorBenchError(f"{path} is no result of this benchmark") from error


def joined(parts: Sequence[Results]) -> Results:
    """What several runs found, as one; where two have measured the same, the later part counts."""
    first, *rest = parts
    for part in rest:
        for each in fields(Results):
            old, new = getattr(first, each.name), getattr(part, each.name)
            if each.name == "failures":
                old += [failure for failure in new if failure not in old]
            elif each.name == "interrupted":
                first.interrupted |= part.interrupted
            elif each.name not in ("options", "machine"):  # the tables say which they are of
                _put(old, new)
    return first


def _put(old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _put(old[key], value)
        else:
            old[key] = value


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _infinite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_infinite(each) for each in value]
    return math.inf if value is None else value


def verdicts(results: Results) -> list[tuple[str, str, str, bool]]:
    """The bars that this was run for: text, asked, measured, and whether it is met."""
    return [
        *_nulls(results),
        *_power(results),
        *_shares(results),
        *_flags(results),
        *_speed(results),
    ]


def missed(results: Results) -> list[str]:
    """The bars that are not met."""
    return [text for text, _, _, met in verdicts(results) if not met]


def _nulls(results: Results) -> list[tuple[str, str, str, bool]]:
    found = []
    for world, methods in results.nulls.items():
        runs = methods.get("declared")
        if runs is None:
            continue
        shown = "no alarm" if math.isinf(runs.run_length) else f"{runs.run_length:.0f}"
        error = runs.run_length / math.sqrt(runs.alarms) if runs.alarms else 0.0
        text = f"{world}: windows between false alarms"
        measured = f"{shown} ± {error:.0f} ({runs.windows:,} windows)"
        met = runs.run_length + 2 * error >= DECLARED
        found.append((text, f">= {DECLARED}", measured, met))
    return found


def _power(results: Results) -> list[tuple[str, str, str, bool]]:
    found = []
    for world, shifts in results.delays.items():
        for shift, methods in shifts.items():
            ours = methods.get(OURS)
            if ours is None or not ours.delays:
                continue
            limit = 3 if float(shift) >= 1 else 10
            share = ours.within(limit)
            text = f"{world}: +{shift} sigma in one feature found within {limit} windows, median"
            shown = f"{ours.median:g}; {share:.0%} of {len(ours.delays)} runs"
            found.append((text, f"<= {limit}", shown, ours.median <= limit))
            peers = {name: each.median for name, each in methods.items() if name != OURS}
            if peers:
                best = min(peers, key=lambda name: peers[name])
                text = f"{world}: +{shift} sigma, median delay beside the best peer"
                asked = f"<= {peers[best]:g} ({best})"
                found.append((text, asked, f"{ours.median:g}", ours.median <= peers[best]))
    return found


def _shares(results: Results) -> list[tuple[str, str, str, bool]]:
    found = []
    if results.psi:
        share, plain = results.psi["corrected"], results.psi["plain"]
        text = "PSI of 200 rows, 10 bins, on a null: over its threshold"
        asked = f"<= {results.psi['declared']:.1%}"
        error = math.sqrt(share * (1 - share) / max(results.psi["windows"], 1))
        met = share - 2 * error <= results.psi["declared"]
        found.append((text, asked, f"{share:.1%} (the usual rule: {plain:.0%})", met))
    for name, each in results.coverage.items():
        if name == OURS:
            shown = f"{each['covered']:.1%} of {each['windows']:,} windows"
            text = "CBPE: true accuracy within the 95 % interval"
            found.append((text, ">= 90%", shown, each["covered"] >= 0.9))
    return found


def _flags(results: Results) -> list[tuple[str, str, str, bool]]:
    found = []
    for name, each in results.validity.items():
        if each.get("lost", 0.0) >= 0.1:
            share, labels = each["noticed"][-1], each["labels"][-1]
            text = f"CBPE: {name}: the flag is false within {labels} labels"
            found.append((text, ">= 90%", f"{share:.0%} of {each['runs']} runs", share >= 0.9))
    return found


def _speed(results: Results) -> list[tuple[str, str, str, bool]]:
    found = []
    for window, methods in results.throughput.items():
        ours = methods.get(OURS)
        for name, least in (("alibi-detect KSDrift", 10), ("Evidently DataDriftPreset", 100)):
            if ours and name in methods:
                ratio = ours["rows_per_second"] / methods[name]["rows_per_second"]
                text = f"rows/s, 20 columns, windows of {window}: times {name}"
                found.append((text, f">= {least}x", f"{ratio:.0f}x", ratio >= least))
    if results.soak:
        grown = results.soak["late_mb"] - results.soak["early_mb"]
        text = f"memory over {results.soak['rows']:,} rows: growth after a tenth"
        found.append((text, "<= 5 MB", f"{grown:.1f} MB", grown <= 5))
    if results.merge:
        milliseconds = 1e3 * results.merge["seconds"]
        text = f"{results.merge['partitions']} partitions merge"
        met = milliseconds < 50 and results.merge["same"]
        found.append((text, "< 50 ms", f"{milliseconds:.2f} ms", met))
    return found
