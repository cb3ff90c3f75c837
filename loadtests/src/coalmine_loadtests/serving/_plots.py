"""Plots for the documents: how fast, how late, and what a request costs, all servers beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalmine_loadtests.serving._bars import CEILINGS
from coalmine_loadtests.serving._samples import Measured, Results

__all__ = ["write_plots"]

_OURS, _PEER = "#c8553d", "#588b8b"
_PANELS = ("mlp/json1_c64", "mlp/grpc1_c8m8", "mlp/bin1024_c8", "gbt/json1_c64")
_LATENCY = ("mlp/json1_c8", "mlp/grpc1_c8m1", "wide/bin1_c1", "image/bin1_c1")


@dataclass(frozen=True, slots=True)
class _Plot:
    name: str
    label: str
    cells: tuple[str, ...]
    value: Callable[[Measured], float]
    least_is_best: bool = True
    logarithmic: bool = False


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Write the SVG files and return their paths; a plot of nothing is not written."""
    directory.mkdir(parents=True, exist_ok=True)
    plots = (
        _Plot(
            "throughput",
            "rows/s, one core",
            _PANELS,
            lambda m: m.rows_per_s,
            least_is_best=False,
        ),
        _Plot("latency", "p99 in ms", _LATENCY, lambda m: m.p99_ms, logarithmic=True),
        _Plot("cpu", "CPU in us a request, all processes of the server", _PANELS, _cpu),
    )
    written = []
    for plot in plots:
        path = directory / f"{plot.name}.svg"
        if _draw(results, plot, path):
            written.append(path)
    return written


def _cpu(measured: Measured) -> float:
    return measured.cpu_us


def _draw(results: Results, plot: _Plot, path: Path) -> bool:
    import matplotlib

    panels = [(cell, f) for cell in plot.cells if (f := _values(results, cell, plot.value))]
    if not panels:
        return False
    # The same results give the same file: no random ids, no date.
    with matplotlib.rc_context({"svg.hashsalt": "coalmine", "font.size": 8}):
        from matplotlib.figure import Figure

        height = max(len(found) for _, found in panels)
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(5.2 * columns, rows * (0.24 * height + 0.9)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (cell, found) in zip(axes, panels, strict=False):
            _panel(axis, results, plot, cell, found)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        figure.savefig(path, metadata={"Date": None})
    return True


def _values(
    results: Results, cell: str, value: Callable[[Measured], float]
) -> list[tuple[str, float]]:
    """A ceiling is in the tables alone: beside nginx nothing else could be told apart."""
    servers = [server for server in results.servers() if server not in CEILINGS]
    found = [(s, value(m)) for s in servers if (m := results.measured(s, cell))]
    return sorted([each for each in found if each[1] > 0], key=lambda each: each[1])


def _panel(
    axis: Any, results: Results, plot: _Plot, cell: str, found: list[tuple[str, float]]
) -> None:
    at = range(len(found))
    values = [value for _, value in found]
    ours = [server.partition("-")[0] == "coalmine" for server, _ in found]
    colors = [_OURS if mine else _PEER for mine in ours]
    if plot.logarithmic:
        # A bar has a length only from zero, which a logarithm has not.
        axis.scatter(values, at, color=colors)
        axis.set_xscale("log")
        axis.set_xlim(values[0] / 2, 5 * values[-1])
    else:
        axis.barh(at, values, color=colors)
        axis.set_xlim(0, 1.2 * values[-1])
    for y, value in zip(at, values, strict=True):
        text = f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
        axis.annotate(text, (value, y), (5, 0), textcoords="offset points", va="center")
    axis.set_yticks(at, [results.titles[server] for server, _ in found])
    axis.set_title(cell, loc="left", fontweight="bold")
    axis.set_xlabel(plot.label)
    axis.minorticks_off()
    if plot.least_is_best:
        axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
