"""The tables: on the terminal, and between the markers of a document."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.monitors._detectors import OURS
from coalmine_loadtests.monitors._errors import MonitorBenchError
from coalmine_loadtests.monitors._plots import write_plots
from coalmine_loadtests.monitors._results import Delay, Results, verdicts

__all__ = ["BEGIN", "END", "markdown", "print_results", "write_report"]

BEGIN, END = "<!-- monitors results: begin -->", "<!-- monitors results: end -->"

#: Title, head, rows.
_Section = tuple[str, list[str], list[list[str]]]


def print_results(results: Results, console: Console) -> None:
    """The bars, and all that was measured."""
    bars = Table("bar", "asked", "measured", "", title="Bars")
    for text, asked, measured, met in verdicts(results):
        bars.add_row(text, asked, measured, "[green]met[/]" if met else "[red]MISSED[/]")
    console.print(bars)
    for title, head, rows in _sections(results):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for failure in results.failures:
        console.print(f"left out: {failure}", markup=False)


def markdown(results: Results) -> str:
    """The same for a document."""
    lines = [_told(results), "", "| bar | asked | measured | |", "|---|---|---|---|"]
    for text, asked, measured, met in verdicts(results):
        lines.append(f"| {text} | {asked} | {measured} | {'met' if met else '**missed**'} |")
    for title, head, rows in _sections(results):
        lines += ["", f"### {title}", "", f"| {' | '.join(head)} |"]
        lines.append("|---|" + "---:|" * (len(head) - 1))
        lines += [f"| {' | '.join(row)} |" for row in rows]
    if results.failures:
        lines += [
            "",
            "Left out: " + "; ".join(each.replace("\n", " ") for each in results.failures),
        ]
    return "\n".join(lines) + "\n"


def write_report(
    results: Results, *, docs: Path | None = None, plots: Path | None = None
) -> list[Path]:
    """Rewrite the document between its markers and draw the plots; the files written."""
    written = write_plots(results, plots) if plots is not None else []
    if docs is not None:
        text = docs.read_text("utf-8")
        pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.S)
        if not pattern.search(text):
            raise MonitorBenchError(f"{docs} lacks the lines {BEGIN!r} and {END!r}")
        images = [f"![{path.stem}]({os.path.relpath(path, docs.parent)})\n" for path in written]
        new = "\n".join([BEGIN, "", *images, markdown(results), END])
        write_whole(docs, pattern.sub(lambda _: new, text))
        written.append(docs)
    return written


def _told(results: Results) -> str:
    options, machine = results.options, results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"Up to {options.get('runs')} runs of {options.get('windows')} null windows of "
        f"{options.get('window')} rows, a reference of {options.get('reference')} windows, seed "
        f"{options.get('seed')}; {machine.get('processor', 'unknown processor')}. {versions}."
    )


def _sections(results: Results) -> Iterator[_Section]:
    if results.nulls:
        yield _false_alarms(results)
    for world, shifts in results.delays.items():
        yield _delays(world, shifts)
    if results.coverage:
        head = ["CBPE, calibrated scores", "covered", "width of the interval", "windows"]
        rows = [
            [name, f"{each['covered']:.1%}", f"{each['width']:.4f}", f"{each['windows']:,}"]
            for name, each in results.coverage.items()
        ]
        yield "The true accuracy within the 95 % interval", head, rows
    if results.validity:
        yield _validity(results)
    for window, methods in results.throughput.items():
        yield _speed(window, methods)
    for name, found in results.streams.items():
        yield _stream(name, found)


def _validity(results: Results) -> _Section:
    rows = [
        [
            name,
            ", ".join(
                f"{share:.0%} ({labels})"
                for share, labels in zip(each["noticed"], each["labels"], strict=True)
            )
            if "noticed" in each
            else f"{each['false']} times in {each['rows']:,}",
            str(each["runs"]),
        ]
        for name, each in results.validity.items()
    ]
    head = ["labels mean something else", "runs in which the flag is false (by so many labels)"]
    return "The flag of estimated accuracy", [*head, "runs"], rows


def _false_alarms(results: Results) -> _Section:
    kinds = list(dict.fromkeys(kind for each in results.nulls.values() for kind in each))
    rows = []
    for world, found in results.nulls.items():
        cells = []
        for kind in kinds:
            runs = found.get(kind)
            cells.append(
                ""
                if runs is None
                else f"{_number(runs.run_length)} ({runs.alarms} of {runs.runs} runs)"
            )
        rows.append([world, *cells])
    head = ["nothing happens", *(f"{kind}: windows between alarms" for kind in kinds)]
    return "False alarms of Coalmine", head, rows


def _delays(world: str, shifts: dict[str, dict[str, Delay]]) -> _Section:
    names = list(dict.fromkeys(name for methods in shifts.values() for name in methods))
    rows = []
    for name in names:
        cells = []
        for methods in shifts.values():
            found = methods.get(name)
            cells += (
                ["", ""]
                if found is None or not found.delays
                else [_number(found.median), f"{found.within(10):.0%} of {len(found.delays)}"]
            )
        first = next(methods[name] for methods in shifts.values() if name in methods)
        rows.append([name, *cells, f"{_number(first.run_length)} ({first.null_windows:,})"])
    heads = [
        text
        for shift in shifts
        for text in (f"+{shift} sigma: median windows", f"+{shift} sigma: within 10")
    ]
    head = ["method", *heads, "realised run length (null windows)"]
    return f"Delay at an equal realised run length: {world}", head, rows


def _speed(window: str, methods: dict[str, dict[str, float]]) -> _Section:
    ours = methods.get(OURS, {}).get("rows_per_second")
    rows = [
        [
            name,
            f"{found['rows_per_second']:,.0f}",
            "" if ours is None else f"{ours / found['rows_per_second']:,.1f}x",
            f"{found['peak_mb']:,.0f}",
        ]
        for name, found in methods.items()
    ]
    head = ["method", "rows/s", "Coalmine is", "peak memory, MB"]
    return f"20 numeric columns, one core, windows of {window} rows", head, rows


def _stream(name: str, found: dict[str, dict[str, object]]) -> _Section:
    rows = []
    for method, each in found.items():
        alarms, delays = each["alarms"], each["delays"]
        assert isinstance(alarms, list)
        assert isinstance(delays, dict)
        shown = ", ".join(f"{row:,}" for row in alarms[:6]) + (" ..." if len(alarms) > 6 else "")
        waits = ", ".join(
            f"{int(change):,}: {'never' if delay is None else f'{delay:,}'}"
            for change, delay in delays.items()
        )
        rows.append([method, str(len(alarms)), f"{each['share']:.0%}", shown, waits])
    head = ["method", "alarms begin", "windows in alarm", "at row", "rows after each known change"]
    return f"The stream {name}", head, rows


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return "never" if math.isinf(value) else f"{value:.0f}" if value >= 20 else f"{value:g}"
