"""What was found, in a form that a file can keep."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.verdicts._rules import OURS
from coalmine_loadtests.verdicts._run import Found
from coalmine_loadtests.verdicts._scenarios import LABEL_SCENARIOS, SCENARIOS, Scenario

__all__ = ["Cell", "Results", "missed", "verdicts"]


@dataclass(slots=True)
class Cell:
    """One rule in one world: the minutes of its fates."""

    runs: int = 0
    rolled_back: list[int] = field(default_factory=list)
    promoted: list[int] = field(default_factory=list)

    def share(self, what: str) -> float:
        """Of the runs."""
        found: list[int] = getattr(self, what)
        return len(found) / self.runs if self.runs else math.nan

    def error(self, what: str) -> float:
        """The standard error of the share."""
        share = self.share(what)
        return math.sqrt(share * (1.0 - share) / self.runs) if self.runs else math.nan

    def median(self, what: str) -> float:
        """The minute by which half of all runs had this fate; infinite if fewer ever had."""
        found: list[int] = getattr(self, what)
        missing = [math.inf] * (self.runs - len(found))
        return float(median([*found, *missing])) if self.runs else math.nan


@dataclass(slots=True)
class Results:
    """All of a benchmark."""

    seed: int
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    """By scenario and rule."""

    labels: dict[str, list[int]] = field(default_factory=dict)
    interrupted: bool = False
    """By Ctrl-C: it holds the runs until then."""

    def add(self, found: Found) -> None:
        """Count a job."""
        if found.scenario >= len(SCENARIOS):
            name = LABEL_SCENARIOS[found.scenario - len(SCENARIOS)].name
            self.labels.setdefault(name, []).extend(found.labels)
            return
        cells = self.cells.setdefault(SCENARIOS[found.scenario].name, {})
        for rule, fates in found.fates.items():
            cell = cells.setdefault(rule, Cell())
            cell.runs += len(fates)
            cell.rolled_back += [f.minute for f in fates if f.what == "rolled_back"]
            cell.promoted += [f.minute for f in fates if f.what == "promoted"]

    def merge(self, other: Results) -> None:
        """Take over what the other has more runs of."""
        for scenario, cells in other.cells.items():
            mine = self.cells.setdefault(scenario, {})
            for rule, cell in cells.items():
                if rule not in mine or mine[rule].runs < cell.runs:
                    mine[rule] = cell
        self.interrupted |= other.interrupted
        for name, counts in other.labels.items():
            if len(self.labels.get(name, ())) < len(counts):
                self.labels[name] = counts

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_whole(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote; ValueError for another file."""
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            cells = {
                scenario: {rule: Cell(**cell) for rule, cell in rules.items()}
                for scenario, rules in content["cells"].items()
            }
            return cls(
                seed=content["seed"],
                cells=cells,
                labels=content["labels"],
                interrupted=content.get("interrupted", False),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no result of this benchmark") from error


def verdicts(results: Results) -> list[tuple[str, str, str, bool]]:
    """The bars that this was run for: text, asked, measured, and whether it is met."""
    found = []
    for scenario in SCENARIOS:
        cell = results.cells.get(scenario.name, {}).get(OURS)
        if cell is not None and cell.runs:
            found += _bars(scenario, cell)
    for labels in LABEL_SCENARIOS:
        counts = sorted(results.labels.get(labels.name, ()))
        if counts and labels.within is not None:
            most = counts[min(len(counts) - 1, math.ceil(0.9 * len(counts)) - 1)]
            text = f"accuracy -2 points, {labels.name}: labels at the 90th percentile"
            found.append((text, f"<= {labels.within:,}", f"{most:,}", most <= labels.within))
    return found


def missed(results: Results) -> list[str]:
    """The bars that are not met."""
    return [text for text, _, _, met in verdicts(results) if not met]


def _bars(scenario: Scenario, cell: Cell) -> list[tuple[str, str, str, bool]]:
    share, error = cell.share(scenario.shows), cell.error(scenario.shows)
    measured = f"{share:.2%} ± {error:.2%} of {cell.runs:,}"
    what = "" if "promoted" in scenario.title else ", rolled back"
    found = []
    if scenario.at_least is not None:
        met = share >= scenario.at_least
        found.append((scenario.title + what, f">= {scenario.at_least:.0%}", measured, met))
    if scenario.at_most is not None:
        met = share <= scenario.at_most
        found.append((scenario.title + what, f"<= {scenario.at_most:.0%}", measured, met))
    if scenario.promoted is not None:
        share = sum(minute <= 30 for minute in cell.promoted) / cell.runs
        text = f"{scenario.title}, promoted when 30 minutes are over"
        met = share >= scenario.promoted
        found.append((text, f">= {scenario.promoted:.0%}", f"{share:.2%} of {cell.runs:,}", met))
    if scenario.median is not None:
        minutes = cell.median(scenario.shows)
        asked = f"<= {scenario.median} min"
        found.append(
            (f"{scenario.title}, median", asked, f"{minutes:g} min", minutes <= scenario.median)
        )
    return found
