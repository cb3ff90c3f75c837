"""One benchmark from end to end: targets, cases, the table, and the numbers as JSON."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import orjson
from rich.console import Console
from rich.table import Table

from coalmine_loadtests._files import write_whole
from coalmine_loadtests._payloads import battery_payloads
from coalmine_loadtests.bench._errors import BenchError
from coalmine_loadtests.bench._load import Target, in_process_target, url_target
from coalmine_loadtests.bench._measure import BenchOptions, Case, Result, measure
from coalmine_loadtests.bench._model import write_model
from coalmine_loadtests.bench._server import served

__all__ = ["run_bench"]

_PROTOCOLS: tuple[Literal["v1", "v2", "grpc"], ...] = ("v1", "v2", "grpc")
_PAYLOADS = 32


def run_bench(options: BenchOptions, *, console: Console | None = None) -> int:
    """Measure, print, and write what was asked for; 0 if every request was answered rightly."""
    shown = console or Console()
    try:
        results = asyncio.run(_bench(options, shown))
    except BenchError as error:
        shown.print(f"[red]{error}")
        return 2
    shown.print(_table(results))
    shown.print(
        "Ratios are windows per second over those of the same model in process, in this run; the "
        "client shares the machine with the server."
    )
    if options.json is not None:
        write_whole(options.json, orjson.dumps(_content(options, results), option=_INDENT))
        shown.print(f"written: {options.json}")
    return 1 if any(result.errors for result in results) else 0


async def _bench(options: BenchOptions, console: Console) -> list[Result]:
    if (options.url is None) != (options.model is None) and options.url is not None:
        raise BenchError("--url needs --model: the directory of the model that is served there")
    async with _targets(options) as targets:
        results: list[Result] = []
        for windows in options.windows:
            payloads = battery_payloads(_PAYLOADS, model=options.name, windows=windows)
            for connections in options.connections:
                case = Case(windows, connections)
                console.print(f"{windows} windows a request, {connections} at a time ...")
                try:
                    results += await measure(
                        targets,
                        payloads,
                        case=case,
                        seconds=options.seconds,
                        rounds=options.rounds,
                    )
                except (OSError, ValueError) as error:
                    raise BenchError(str(error)) from error
        return results


@asynccontextmanager
async def _targets(options: BenchOptions) -> AsyncIterator[list[Target]]:
    with tempfile.TemporaryDirectory(prefix="coalmine-bench-") as scratch:
        directory = Path(scratch)
        model = options.model or write_model(directory / "model", name=options.name)
        peer = in_process_target(model, _transformer(options.transformer))
        if options.url is not None:
            yield [peer, *_over("server", options.url, model=options.name)]
            return
        async with served(
            model, name=options.name, transformer=options.transformer, directory=directory
        ) as (gateway, server):
            yield [
                peer,
                *_over("server", server, model=options.name),
                *_over("gateway", gateway, model=options.name),
            ]


def _over(name: str, url: str, *, model: str) -> list[Target]:
    return [url_target(name, url, protocol=protocol, model=model) for protocol in _PROTOCOLS]


def _transformer(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise BenchError(f"transformer {path!r}: {error}") from error


def _table(results: Sequence[Result]) -> Table:
    table = Table(title="medians over the rounds", box=None, padding=(0, 1, 0, 0))
    for name in ("windows", "at a time", "target", "protocol"):
        right = name in ("windows", "at a time")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name in ("windows/s", "ratio", "p50 ms", "p99 ms", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    before: Case | None = None
    for result in results:
        if before not in (None, result.case):
            table.add_section()
        before = result.case
        table.add_row(
            str(result.case.windows),
            str(result.case.connections),
            result.target,
            result.protocol,
            f"{result.windows_per_s:,.0f}",
            f"{result.ratio:.3f}",
            f"{result.p50_ms:.2f}",
            f"{result.p99_ms:.2f}",
            str(result.errors),
        )
    return table


_INDENT = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def _content(options: BenchOptions, results: Sequence[Result]) -> dict[str, Any]:
    import onnxruntime

    asked = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()}
    return {
        "machine": {
            "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
        },
        "options": asked,
        "results": [result.as_dict() for result in results],
    }
