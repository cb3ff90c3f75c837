"""Plots: delay beside false alarms, and rows a second."""

from __future__ import annotations

import math
from pathlib import Path

from coalmine_loadtests.monitors._detectors import OURS
from coalmine_loadtests.monitors._results import Results

__all__ = ["write_plots"]

_OURS, _PEER = "#c8553d", "#588b8b"
#: Where "never found" is drawn.
_NEVER = 13.0


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Draw what was measured; the files written."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    if results.delays:
        written.append(_delays(results, directory / "monitors-delay.svg"))
    if results.throughput:
        written.append(_throughput(results, directory / "monitors-throughput.svg"))
    return written


def _figure(width: float, height: float) -> object:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _delays(results: Results, path: Path) -> Path:
    """A panel for each world: median delays, a bar for each method and shift."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "coalmine", "font.size": 8}):
        worlds = list(results.delays)
        figure = _figure(3.4 * len(worlds) + 1.4, 4.2)
        panels = figure.subplots(1, len(worlds), squeeze=False, sharey=True)[0]  # type: ignore[attr-defined]
        for axes, world in zip(panels, worlds, strict=True):
            shifts = results.delays[world]
            names = list(dict.fromkeys(name for found in shifts.values() for name in found))
            for place, (shift, found) in enumerate(shifts.items()):
                for row, name in enumerate(names):
                    if name not in found or not found[name].delays:
                        continue
                    value = min(found[name].median, _NEVER)
                    at = row + 0.36 * place - 0.18
                    colour = _OURS if name == OURS else _PEER
                    axes.barh(at, value, height=0.32, color=colour, alpha=1 - 0.45 * place)
                    late = math.isinf(found[name].median)
                    text = f"+{shift}σ: " + ("never" if late else f"{found[name].median:g}")
                    axes.text(value + 0.15, at, text, va="center", fontsize=6.5)
            axes.set_yticks(range(len(names)), names)
            axes.set_title(world)
            axes.set_xlim(0, _NEVER + 5)
            axes.set_xlabel("windows of 500 rows until found (median)")
        panels[0].invert_yaxis()
        figure.savefig(path, metadata={"Date": None})  # type: ignore[attr-defined]
    return path


def _throughput(results: Results, path: Path) -> Path:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "coalmine", "font.size": 8}):
        windows = list(results.throughput)
        figure = _figure(4.2 * len(windows) + 1.2, 3.6)
        panels = figure.subplots(1, len(windows), squeeze=False)[0]  # type: ignore[attr-defined]
        for axes, window in zip(panels, windows, strict=True):
            found = results.throughput[window]
            names = sorted(found, key=lambda name: found[name]["rows_per_second"])
            rates = [found[name]["rows_per_second"] for name in names]
            colours = [_OURS if name == OURS else _PEER for name in names]
            axes.barh(names, rates, color=colours)
            for row, rate in enumerate(rates):
                axes.text(rate * 1.1, row, f"{rate:,.0f}", va="center", fontsize=7)
            axes.set_xscale("log")
            axes.set_xlim(min(rates) / 3, max(rates) * 12)
            axes.set_title(f"windows of {int(window):,} rows")
            axes.set_xlabel("rows a second of 20 columns, one core")
        figure.savefig(path, metadata={"Date": None})  # type: ignore[attr-defined]
    return path
