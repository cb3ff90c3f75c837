"""Plots for the documents: how fast, how late, and what a request costs, all servers beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coalmine_loadtests.serving._plan import IN_PROCESS
from coalmine_loadtests.serving._samples import Measured, Results

__all__ = ["write_plots"]

_OURS, _PEER, _CEILING = "#c8553d", "#588b8b", "#bbbbbb"
_PANELS = ("mlp/json1_c64", "mlp/grpc1_c8m8", "mlp/bin1024_c8", "gbt/json1_c64")
_LATENCY = ("mlp/json1_c8", "mlp/grpc1_c8m1", "wide/bin1_c1", "image/bin1_c1")


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Write the SVG files and return their paths; a plot of nothing is not written."""
    directory.mkdir(parents=True, exist_ok=True)
    plots = (
        ("throughput", "rows/s, one core", _PANELS, lambda m: m.rows_per_s),
        ("latency", "p99 in ms", _LATENCY, lambda m: m.p99_ms),
        ("cpu", "CPU in us a request, all processes of the server", _PANELS, lambda m: m.cpu_us),
    )
    written = []
    for name, label, cells, value in plots:
        path = directory / f"{name}.svg"
        if _plot(results, path, label=label, cells=cells, value=value):
            written.append(path)
    return written


def _plot(
    results: Results,
    path: Path,
    *,
    label: str,
    cells: tuple[str, ...],
    value: Callable[[Measured], float],
) -> bool:
    import matplotlib

    panels = [(cell, found) for cell in cells if (found := _values(results, cell, value))]
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
            _panel(axis, results, cell, found, label=label)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        figure.savefig(path, metadata={"Date": None})
    return True


def _values(
    results: Results, cell: str, value: Callable[[Measured], float]
) -> list[tuple[str, float]]:
    found = [(s, value(m)) for s in results.servers() if (m := results.measured(s, cell))]
    return sorted([each for each in found if each[1] > 0], key=lambda each: each[1])


def _panel(
    axis: Any, results: Results, cell: str, found: list[tuple[str, float]], *, label: str
) -> None:
    names = [server for server, _ in found]
    colors = [_color(server) for server in names]
    bars = axis.barh(range(len(found)), [v for _, v in found], color=colors)
    axis.set_yticks(range(len(found)), [results.titles[server] for server in names])
    axis.bar_label(bars, labels=[f" {v:,.0f}" if v >= 100 else f" {v:.2g}" for _, v in found])
    axis.set_title(cell, loc="left", fontweight="bold")
    axis.set_xlabel(label)
    # Servers differ by factors, which a logarithm shows as equal steps.
    axis.set_xscale("log")
    axis.set_xlim(right=3 * found[-1][1])
    axis.spines[["top", "right"]].set_visible(False)


def _color(server: str) -> str:
    if server.partition("-")[0] == "coalmine":
        return _OURS
    return _CEILING if server in (IN_PROCESS, "nginx") else _PEER
