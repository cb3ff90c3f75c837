"""Asking the monitors, and counting the records of a range beside the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coalmine.clock import Clock
from coalmine.modeldir import REFERENCE_FILE, Column, ModelDirectoryError, load_card
from coalmine.records import RecordLog, archived_rows
from coalmine.report._facts import Facts, ReportError, Shape
from coalmine.spec import ServiceSpec

__all__ = ["Ask", "collect", "offline"]

#: The JSON answer of a monitor: its name, the path and its parameters.
Ask = Callable[[str, str, Mapping[str, Any]], Any]

Numbers = NDArray[Any]

_MONITORS = ("drift", "performance", "quality")
#: Windows that are shown at most; a monitor keeps about as many.
_WINDOWS = 5000
#: Rows read from the log at a time.
_READ = 20_000
#: A time that no record has, of which a day can be told: some thousand years on.
_FAR = 32e9


def offline(service: ServiceSpec, *, log: RecordLog, state: Path, models: Path) -> Ask:
    """Ask the monitors' own routes over their state files, with no monitor running."""
    import asyncio

    import httpx

    import coalmine_monitors as monitors

    makers = {
        "drift": monitors.create_drift_app,
        "performance": monitors.create_performance_app,
        "quality": monitors.create_quality_app,
    }
    apps: dict[str, Any] = {}

    async def answer(name: str, path: str, params: Mapping[str, Any]) -> Any:
        # Without its lifespan an app answers, and judges nothing.
        transport = httpx.ASGITransport(apps[name])
        async with httpx.AsyncClient(transport=transport, base_url="http://monitor") as client:
            response = await client.get(path, params=dict(params))
        if response.status_code != 200:
            raise ReportError(f"{name}: {response.text[:300]}")
        return response.json()

    def ask(name: str, path: str, params: Mapping[str, Any]) -> Any:
        file = state / f"{name}.db"
        if not file.exists():
            raise ReportError(f"{file}: missing; the {name} monitor has not run on this state")
        if name not in apps:
            apps[name] = makers[name](service, log=log, state=file, models=models)
        return asyncio.run(answer(name, path, params))

    return ask


def collect(
    model: str,
    *,
    ask: Ask,
    log: RecordLog,
    models: Path,
    clock: Clock,
    archive: Path | None = None,
    version: str | None = None,
    since: float | None = None,
    until: float | None = None,
) -> Facts:
    """Everything about a version, the stable one unless `version` says another, in a range.

    What a monitor cannot tell becomes a note; ReportError if there is nothing at all.
    """
    notes: list[str] = []

    def asked(name: str, path: str, **params: Any) -> dict[str, Any]:
        try:
            given = {key: value for key, value in params.items() if value is not None}
            answer: dict[str, Any] = ask(name, path, given)
            return answer
        except ReportError as error:
            notes.append(str(error))
            return {}

    span = {"since": since, "until": until}
    versions = _versions(log, since=since, until=until)
    performance = asked("performance", "/v1/performance", version=version, **span)
    whole = asked("performance", "/v1/performance", version=version, window=_FAR, **span)
    shown = version or performance.get("version") or next(reversed(versions), None)
    drift = asked("drift", "/v1/drift", version=shown, limit=_WINDOWS, **span)
    quality = asked("quality", "/v1/quality", version=shown, limit=_WINDOWS, **span)
    incidents = [
        incident
        for name in _MONITORS
        for incident in asked(name, "/v1/incidents", **span).get("incidents", ())
        if version is None or incident["model_version"] == version
    ]
    judged = (drift.get("windows"), quality.get("windows"), performance.get("windows"))
    if version is not None and version not in versions and not any((incidents, *judged)):
        known = ", ".join(versions) or "none"
        raise ReportError(
            f"{model}: nothing of version {version} in that range; there are: {known}"
        )
    if not any((versions, incidents, *judged)):
        raise ReportError(
            f"{model}: no records and no judged windows in that range; see `coalmine status`, and "
            "try another --from and --to"
        )
    shapes: dict[str, Shape] = {}
    rows = 0
    if shown is not None:
        batches = _records(log, archive, shown, since=since, until=until)
        shapes, rows = _shapes(models / shown, batches, notes)
    return Facts(
        model=model,
        version=shown,
        since=since,
        until=until,
        made_at=clock.time(),
        drift=drift.get("windows", []),
        quality=quality.get("windows", []),
        performance=performance,
        whole=whole.get("windows", []),
        incidents=sorted(incidents, key=lambda incident: -incident["opened_at"]),
        versions=versions,
        shapes=shapes,
        rows=rows,
        notes=tuple(dict.fromkeys(notes)),
    )


def _batches(log: RecordLog, *, since: float | None, **only: Any) -> Iterator[pa.RecordBatch]:
    for partition in range(log.partitions):
        after = 0 if since is None else log.offset_before(since, partition=partition)
        while found := log.read(after, limit_rows=_READ, partition=partition, **only):
            after = found[-1][0]
            yield from (batch for _, batch in found)


def _versions(
    log: RecordLog, *, since: float | None, until: float | None
) -> dict[str, tuple[int, float, float]]:
    """Rows and their times in the range by version, in the order of their first rows."""
    from coalmine_monitors.reference import times

    found: dict[str, tuple[int, float, float]] = {}
    for batch in _batches(log, since=since):
        at = times(batch)
        at = at[(at >= _low(since)) & (at < _high(until))]
        if at.size:
            name = str(batch.column("model_version")[0].as_py())
            rows, first, last = found.get(name, (0, math.inf, -math.inf))
            found[name] = (rows + at.size, min(first, at.min()), max(last, at.max()))
    return dict(sorted(found.items(), key=lambda item: item[1][1]))


def _records(
    log: RecordLog, archive: Path | None, version: str, *, since: float | None, until: float | None
) -> Iterator[pa.RecordBatch]:
    """Answered records of a version in the range: of the log, and of what the archive has more."""
    from coalmine_monitors.reference import answered, times

    def within(batch: pa.RecordBatch) -> pa.RecordBatch:
        at = times(batch)
        return answered(batch.filter(pa.array((at >= _low(since)) & (at < _high(until)))))

    for batch in _batches(log, since=since, model_version=version):
        yield within(batch)
    if archive is not None and archive.is_dir():
        low, high = max(_low(since), 0.0), min(_high(until), _FAR)
        for table in archived_rows(archive, log, model_version=version, since=low, until=high):
            yield from map(within, table.to_batches())


def _shapes(
    directory: Path, batches: Iterator[pa.RecordBatch], notes: list[str]
) -> tuple[dict[str, Shape], int]:
    """Shares of the reference and of the records in the reference's bins."""
    from coalmine_monitors.reference import matrix
    from coalmine_monitors.sketches import Histograms, category_edges, numeric_edges

    try:
        card = load_card(directory)
        reference = pq.read_table(directory / REFERENCE_FILE)
    except (ModelDirectoryError, OSError, pa.ArrowException) as error:
        notes.append(f"no shapes: {error}")
        return {}, 0
    columns = (*card.feature_columns(), *card.output_columns())
    usual = matrix(reference, columns)
    histograms = Histograms(
        edges=tuple(
            category_edges(len(column.categories))
            if column.categories
            else numeric_edges(usual[:, index])
            for index, column in enumerate(columns)
        )
    )
    counts, rows = histograms.empty(), 0
    for batch in batches:
        if batch.num_rows:
            counts = counts + histograms.count(matrix(batch, columns))
            rows += batch.num_rows
    before = histograms.count(usual)
    sizes = (len(usual), rows)
    found = {
        column.name: _shape(column, histograms.edges[index], before[index], counts[index], sizes)
        for index, column in enumerate(columns)
    }
    return found, rows


def _shape(
    column: Column, edges: Numbers, before: Numbers, now: Numbers, rows: tuple[int, int]
) -> Shape:
    size = edges.size + 1
    if column.categories:
        names = (*column.categories, "other")[:size]
    else:
        shown = [f"{edge:.4g}" for edge in edges]
        middle = (f"{low} – {high}" for low, high in zip(shown, shown[1:], strict=False))
        names = (f"< {shown[0]}", *middle, f"≥ {shown[-1]}")
    return Shape(
        name=column.name,
        bins=tuple(names),
        reference=tuple((before[:size] / max(before.sum(), 1)).tolist()),
        present=tuple((now[:size] / max(now.sum(), 1)).tolist()),
        missing_reference=1 - float(before.sum()) / max(rows[0], 1),
        missing_present=1 - float(now.sum()) / rows[1] if rows[1] else 0.0,
    )


def _low(since: float | None) -> float:
    return -math.inf if since is None else since


def _high(until: float | None) -> float:
    return math.inf if until is None else until
