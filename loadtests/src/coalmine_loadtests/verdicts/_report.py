"""The table: on the terminal, and between the markers of a document; and a plot."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coalmine_loadtests.verdicts._results import Cell, Results, verdicts
from coalmine_loadtests.verdicts._rules import OURS, RULES
from coalmine_loadtests.verdicts._scenarios import LABEL_SCENARIOS, SCENARIOS, Scenario

__all__ = ["BEGIN", "END", "markdown", "print_table", "write_docs", "write_plot"]

BEGIN, END = "<!-- rollout results: begin -->", "<!-- rollout results: end -->"
_OURS, _PEER = "#c8553d", "#588b8b"


def print_table(results: Results, console: Console) -> None:
    """Bars, and every rule in every world."""
    bars = Table("bar", "asked", "measured", "", title="Bars")
    for text, asked, measured, met in verdicts(results):
        bars.add_row(text, asked, measured, "[green]met[/]" if met else "[red]MISSED[/]")
    console.print(bars)
    rules = _rules(results)
    table = Table("world", *rules, title="Percent of runs (median minute)")
    for scenario in _scenarios(results):
        cells = results.cells[scenario.name]
        table.add_row(scenario.title, *(_cell(cells.get(rule), scenario) for rule in rules))
    console.print(table)
    labels = Table("two points of accuracy", "median labels", "90th percentile", "found")
    for row in _labels(results):
        labels.add_row(*row)
    console.print(labels)


def markdown(results: Results) -> str:
    """The same for a document."""
    lines = ["| bar | asked | measured | |", "|---|---|---|---|"]
    for text, asked, measured, met in verdicts(results):
        lines.append(f"| {text} | {asked} | {measured} | {'met' if met else '**missed**'} |")
    rules = _rules(results)
    lines += ["", f"| percent of runs (median minute) | {' | '.join(rules)} |"]
    lines.append("|---|" + "---:|" * len(rules))
    for scenario in _scenarios(results):
        cells = [_cell(results.cells[scenario.name].get(rule), scenario) for rule in rules]
        lines.append(f"| {scenario.title} | {' | '.join(cells)} |")
    lines += ["", "| paired labels until −2 points are found | median | 90th percentile | found |"]
    lines.append("|---|---:|---:|---:|")
    lines += [f"| {' | '.join(row)} |" for row in _labels(results)]
    return "\n".join(lines) + "\n"


def write_docs(text: str, results: Results, *, plots: Sequence[Path], path: Path) -> str:
    """The document's text with what is between its markers replaced; ValueError without them."""
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.S)
    if not pattern.search(text):
        raise ValueError(f"{path} lacks the lines {BEGIN!r} and {END!r}")
    images = [f"![{p.stem}]({os.path.relpath(p, path.parent)})\n" for p in plots]
    runs = sorted({c.runs for cells in results.cells.values() for c in cells.values()})
    told = " to ".join(f"{n:,}" for n in sorted({runs[0], runs[-1]})) if runs else "no"
    new = "\n".join(
        [BEGIN, "", f"{told} runs a world, seed {results.seed}.\n", *images, markdown(results), END]
    )
    return pattern.sub(lambda _: new, text)


def write_plot(results: Results, directory: Path) -> Path | None:
    """False rollbacks beside what is found, a point for each rule; None if nothing was measured."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    worlds = [name for name in ("null", "errors 2x", "errors 4x") if name in results.cells]
    if "null" not in worlds or len(worlds) < 2:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "rollout.svg"
    with matplotlib.rc_context({"svg.hashsalt": "coalmine", "font.size": 9}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, len(worlds) - 1, squeeze=False)[0]
        for axes, world in zip(panels, worlds[1:], strict=True):
            for rule, cell in results.cells[world].items():
                null = results.cells["null"].get(rule)
                if null is None:
                    continue
                x, y = 100 * null.share("rolled_back"), 100 * cell.share("rolled_back")
                axes.plot(x, y, "o", color=_OURS if rule == OURS else _PEER)
                axes.annotate(rule, (x, y), xytext=(5, -9), textcoords="offset points", fontsize=7)
            axes.axvline(5, color="0.7", linewidth=0.8, linestyle=":")
            axes.axhline(85, color="0.7", linewidth=0.8, linestyle=":")
            axes.set_title(f"{world}: caught in 30 minutes")
            axes.set_xlabel("good models rolled back, %")
            axes.set_ylabel("regressions rolled back, %")
            axes.set_xlim(-3, 120)
            axes.set_ylim(-5, 108)
        figure.savefig(path, metadata={"Date": None})
    return path


def _scenarios(results: Results) -> list[Scenario]:
    return [each for each in SCENARIOS if each.name in results.cells]


def _rules(results: Results) -> list[str]:
    return [rule for rule in RULES if any(rule in cells for cells in results.cells.values())]


def _cell(cell: Cell | None, scenario: Scenario) -> str:
    if cell is None or not cell.runs:
        return ""
    share, minute = cell.share(scenario.shows), cell.median(scenario.shows)
    digits = 1 if 0.0005 <= share < 0.1 else 0
    return f"{100 * share:.{digits}f}" + ("" if math.isinf(minute) else f" ({minute:g})")


def _labels(results: Results) -> list[tuple[str, str, str, str]]:
    rows = []
    for scenario in LABEL_SCENARIOS:
        counts = sorted(results.labels.get(scenario.name, ()))
        if counts:
            most = counts[math.ceil(0.9 * len(counts)) - 1]
            within = sum(count <= 2500 for count in counts) / len(counts)
            shown = (f"{counts[len(counts) // 2]:,}", f"{most:,}" if most <= 8000 else "> 8,000")
            rows.append((scenario.name, *shown, f"{within:.1%} within 2,500"))
    return rows
