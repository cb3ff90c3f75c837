"""The results as text: for a terminal, and as Markdown for `docs/benchmarks.md`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.serving._bars import judge, stock
from coalmine_loadtests.serving._cells import CELLS
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._samples import Measured, Results

__all__ = ["markdown", "print_results", "write_docs"]

_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
_COLORS = {"pass": "green", "FAIL": "bold red", "short": "yellow", "not measured": "dim"}


def print_results(results: Results, console: Console) -> None:
    """Every cell with all servers, best first, then the bars and what is absent."""
    for cell in CELLS:
        rows = [(s, m) for s in results.servers() if (m := results.measured(s, cell)) is not None]
        if rows:
            console.print(_cell_table(results, cell, rows))
    bars = Table(title="bars", box=None, padding=(0, 1, 0, 0))
    for name in ("", "measured", "asked"):
        bars.add_column(name, justify="right" if name else "left", no_wrap=True)
    bars.add_column("bar", overflow="fold")
    for verdict in judge(results):
        asked, measured = _asked_and_measured(verdict.bar.limit, verdict.measured, verdict.bar.unit)
        word = f"[{_COLORS[verdict.word]}]{verdict.word}"
        wanted = " (wanted)" if verdict.bar.wanted else ""
        bars.add_row(word, measured, f"{verdict.bar.side} {asked}", f"{verdict.bar.text}{wanted}")
    console.print(bars)
    for line in _troubles(results):
        console.print(f"[yellow]{line}", highlight=False)


def _cell_table(results: Results, cell: str, rows: Sequence[tuple[str, Measured]]) -> Table:
    table = Table(title=cell, box=None, padding=(0, 1, 0, 0))
    table.add_column("server", no_wrap=True)
    for name in ("rows/s", "x stock", "p50 ms", "p99 ms", "CPU us/request", "spread", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    peer = _stock_rate(results, cell)
    for server, m in sorted(rows, key=lambda row: -row[1].rows_per_s):
        table.add_row(
            server,
            f"{m.rows_per_s:,.0f}",
            "" if peer is None else f"{m.rows_per_s / peer:.2f}",
            f"{m.p50_ms:.2f}",
            f"{m.p99_ms:.2f}",
            f"{m.cpu_us:,.0f}" if m.cpu_us else "",
            f"{m.spread:.0%}",
            str(m.errors or ""),
        )
    return table


def _stock_rate(results: Results, cell: str) -> float | None:
    rates = [m.rows_per_s for s in stock(results) if (m := results.measured(s, cell)) is not None]
    return max(rates, default=None)


def _asked_and_measured(limit: float, measured: float | None, unit: str) -> tuple[str, str]:
    if unit == "":
        return f"{limit:.0%}", "" if measured is None else f"{measured:.1%}"
    unit = unit if unit in ("x", "%") else f" {unit}"
    return f"{limit:.3g}{unit}", "" if measured is None else f"{measured:.3g}{unit}"


def _troubles(results: Results) -> list[str]:
    """What is missing from the tables, and why; each reason once."""
    lines = [f"{name} is absent: {_line(why)}" for name, why in results.absent.items()]
    for sample in results.samples:
        line = f"{sample.server} {sample.cell}: {_line(sample.told)}"
        if sample.told and line not in lines:
            lines.append(line)
    return lines


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def markdown(results: Results) -> str:
    """The tables for the documents."""
    servers = [s for s in results.servers() if any(results.measured(s, cell) for cell in CELLS)]
    parts = [_machine(results), "### Bars\n", _bars(results)]
    for title, models in (
        ("MLP: rows/s (p99 in ms)", ("mlp",)),
        ("Other models: rows/s (p99 in ms)", ("gbt", "nop", "wide", "image")),
    ):
        cells = [n for n, cell in CELLS.items() if cell.model in models and cell.protocol != "call"]
        parts += [f"### {title}\n", _matrix(results, servers, cells)]
    calls = [name for name, cell in CELLS.items() if cell.protocol == "call"]
    parts += ["### ONNX Runtime in process: rows/s (p99 in ms)\n"]
    parts += [_matrix(results, servers, calls), "### Servers\n", _starts(results, servers)]
    if troubles := _troubles(results):
        lines = "\n".join(f"- {line}" for line in troubles)
        parts += ["### Not measured, or measured with errors\n", f"{lines}\n"]
    return "\n".join(parts)


def _machine(results: Results) -> str:
    m, o = results.machine, results.options
    when = datetime.fromtimestamp(m["measured"], UTC).strftime("%Y-%m-%d")
    return (
        f"Measured on {when}: {m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, "
        f"{m['system']}, Python {m['python']}; one core for the server, one for the load; medians "
        f"of {o['repeats']} round(s) of {o['seconds']:g} s.\n"
    )


def _bars(results: Results) -> str:
    lines = ["| bar | asked | measured | |", "|---|---|---|---|"]
    for verdict in judge(results):
        bar = verdict.bar
        asked, measured = _asked_and_measured(bar.limit, verdict.measured, bar.unit)
        wanted = " (wanted)" if bar.wanted else ""
        lines.append(f"| {bar.text} | {bar.side} {asked}{wanted} | {measured} | {verdict.word} |")
    return "\n".join(lines) + "\n"


def _matrix(results: Results, servers: Sequence[str], cells: Sequence[str]) -> str:
    shown = [cell for cell in cells if any(results.measured(s, cell) for s in servers)]
    if not shown:
        return "Not measured.\n"
    one_model = len({CELLS[cell].model for cell in shown}) == 1
    heads = [cell.partition("/")[2] if one_model else cell for cell in shown]
    lines = [f"| server | {' | '.join(heads)} |", "|---|" + "---:|" * len(shown)]
    for server in servers:
        found = [results.measured(server, cell) for cell in shown]
        if any(found):
            texts = ["" if m is None else f"{m.rows_per_s:,.0f} ({m.p99_ms:.3g})" for m in found]
            lines.append(f"| {results.titles[server]} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _starts(results: Results, servers: Sequence[str]) -> str:
    lines = [
        "| server | versions | ready s | idle RSS MB | idle PSS MB | CPU us a request, json1_c64 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for server in servers:
        starts = [start for start in results.of_server(server) if start.model == "mlp"]
        if not starts:
            continue
        middle = sorted(starts, key=lambda start: start.ready_s)[len(starts) // 2]
        versions = results.versions.get(server.partition("-")[0], {})
        told = ", ".join(f"{name} {v}" for name, v in versions.items() if name != "python")
        measured = results.measured(server, "mlp/json1_c64")
        cpu = f"{measured.cpu_us:,.0f}" if measured else ""
        lines.append(
            f"| {results.titles[server]} | {told} | {middle.ready_s:.1f} | "
            f"{middle.idle_rss_mb:.0f} | {middle.idle_pss_mb:.0f} | {cpu} |"
        )
    return "\n".join(lines) + "\n"


def write_docs(results: Results, path: Path, *, plots: Sequence[Path] = ()) -> None:
    """Replace what is between the markers in a document, which shows `plots` too."""
    text = path.read_text("utf-8")
    pattern = re.compile(f"{re.escape(_BEGIN)}\n.*?{re.escape(_END)}", re.S)
    if not pattern.search(text):
        raise ServingBenchError(f"{path} lacks the lines {_BEGIN!r} and {_END!r}")
    images = [f"![{p.stem}]({os.path.relpath(p, path.parent)})\n" for p in plots]
    new = "\n".join([_BEGIN, "", *images, markdown(results), _END])
    write_whole(path, pattern.sub(lambda _: new, text))
