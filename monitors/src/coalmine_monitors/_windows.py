"""Window after window of the stable version's records, judged by a detector: drift and quality.

The same code drives both monitors. It reads the log in order, finds the stable version, gives its
rows to the detector, and keeps the incident that the detector's findings make. A window ends after
a number of rows, wherever the log's batches end, so verdicts depend on the log alone: not on when
it was read, in which pieces, or how often the monitor died meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prometheus_client.core import Metric

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.incidents import Incident, IncidentKind
from coalmine.modeldir import Column
from coalmine.records import RecordLog, read_all
from coalmine_monitors._catalog import Catalog, Deployed
from coalmine_monitors._cursors import Progress, cursors_of, known_lag, lag, positions
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._incidents import Finding, close, follow
from coalmine_monitors._metrics import (
    SnapshotCollector,
    counter,
    gauge,
    health_metrics,
    incident_metrics,
)
from coalmine_monitors._rows import answered, matrix, times
from coalmine_monitors._state import Saved, StateStore, put_history, put_incidents, save
from coalmine_monitors._versions import StableVersion, batch_arm, batch_version

__all__ = ["Detector", "WindowMonitor", "in_pieces"]

_log = logging.getLogger(__name__)

#: Rows read at a time: some tens of milliseconds of work.
READ_ROWS = 50_000

Floats = NDArray[np.float64]


class _Pieces(Protocol):
    """What judges one window at a time."""

    @property
    def windows(self) -> int: ...

    def fits(self, at: Floats) -> int: ...

    def update(self, rows: Floats, at: Floats) -> None: ...


def in_pieces(detector: _Pieces, rows: Floats, at: Floats) -> Iterator[int]:
    """`Detector.feed` of one whose `update` takes as many rows as `fits` says: a window's."""
    start = 0
    while start < len(rows):
        end, judged = start + detector.fits(at[start:]), detector.windows
        detector.update(rows[start:end], at[start:end])
        start = end
        if detector.windows > judged:
            yield start


class Detector(Protocol):
    """Judges tumbling windows of one version's rows. Its state has a fixed size."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What `update` takes, in order."""

    @property
    def windows(self) -> int:
        """Windows judged so far."""

    @property
    def finding(self) -> Finding | None:
        """What the last judged window led to."""

    @property
    def report(self) -> Mapping[str, Any]:
        """Numbers of the last judged window, to be looked at."""

    def feed(self, rows: Floats, at: Floats) -> Iterator[int]:
        """Take rows [n, columns], NaN where missing, with their record times [n].

        It stops after each judged window, at how many of the rows it ended, for what that led to.
        """

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""


Build = Callable[[Deployed], Detector]
Shown = Callable[[str, Detector], Iterable[Metric]]
Look = Callable[[Detector, pa.RecordBatch, bool], None]


@dataclass(frozen=True)
class _Position:
    """The part of the state that is not the detector's. Frozen: a step makes the next one."""

    stable: StableVersion = StableVersion()
    incident: Incident | None = None
    evaluated_to: float = 0.0
    unjudged_rows: int = 0
    """Rows of versions without a usable reference."""


class WindowMonitor:
    """The monitor of one kind; `build` makes the detector of a version, `shown` its metrics.

    `name` tells it from others of its kind: in metrics, as `monitor`, and in the ids of incidents.
    `look` is shown the answered rows of every batch that clients got, of whatever version, and
    whether they are of the detector's own, before the detector takes these. Where nobody looks, it
    takes the rows of all batches of a step together: many windows at once are judged faster.
    """

    def __init__(
        self,
        kind: IncidentKind,
        *,
        model: str,
        log: RecordLog,
        store: StateStore,
        catalog: Catalog,
        clock: Clock,
        build: Build,
        shown: Shown,
        name: str | None = None,
        look: Look | None = None,
    ) -> None:
        self.metrics = SnapshotCollector()
        self._kind: IncidentKind = kind
        self._name = name or kind
        self._model = model
        self._log = log
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._build = build
        self._shown = shown
        self._look = look
        self._progress = Progress(log, model=model, kind=kind, clock=clock)
        self._failures = 0
        self._incidents: list[Incident] = []
        self._saved = Saved()
        self._position = _Position()
        self._detector: Detector | None = None
        self._next: tuple[str, Detector | None] | None = None
        self._held: list[tuple[Floats, Floats]] = []

    # What the worker calls.

    def load(self) -> None:
        """Take up the persisted state."""
        self._saved = self._store.load()
        body = self._saved.body
        self._position = _position(body)
        self._incidents = self._store.incidents()
        self._detector = None
        self._next = None
        self._held = []

    def step(self) -> bool:
        """Judge what the log has, up to `READ_ROWS`; whether there is more."""
        if not self._resume():
            return False
        began = self._clock.monotonic()
        before = positions(self._saved.cursors, "records", self._log)
        taken = dict(before)
        changed: dict[str, Incident] = {}
        windows: list[dict[str, Any]] = []
        for partition, offset, batch in read_all(self._log, before, limit_rows=READ_ROWS):
            if not self._prepared(batch):
                break
            self._take(batch, changed=changed, windows=windows)
            taken[partition] = offset
        self._feed(changed=changed, windows=windows)
        if taken != before:
            after = Saved(cursors_of("records", taken), self._body())
            with self._store.step(self._saved) as connection:
                save(connection, after)
                put_incidents(connection, changed.values())
                put_history(connection, windows)
            self._saved = after
            if changed:
                self._incidents = self._store.incidents()
        self._progress.note(taken)
        self._publish(taken, seconds=self._clock.monotonic() - began)
        return taken != before

    def failed(self) -> None:
        """Count a step that raised, and show it: a monitor that fails must not look well."""
        self._failures += 1
        position = _position(self._saved.body)
        taken = positions(self._saved.cursors, "records", self._log)
        self.metrics.amend(
            health_metrics(
                (self._model, position.stable.version or "", self._name),
                evaluated_to=position.evaluated_to,
                failures=self._failures,
                lag_batches=known_lag(self._log, taken),
            )
        )

    # What the HTTP side calls, from other threads.

    @property
    def evaluated_to(self) -> float:
        """Record time of the end of the last judged window; 0 before it."""
        return float(self._store.load().body.get("evaluated_to", 0.0))

    def _resume(self) -> bool:
        """Make the detector that the persisted state is of; False while its files are missing."""
        state = self._saved.body.get("detector")
        if self._detector is not None or state is None:
            return True
        deployed = self._catalog.find(str(self._position.stable.version), with_reference=True)
        if deployed is None:
            return False
        self._detector = self._built(deployed)
        if self._detector is not None:
            self._detector.restore(state)
        return True

    def _prepared(self, batch: pa.RecordBatch) -> bool:
        """Whether the batch can be judged now: a new version's files have to be there first."""
        stable = self._position.stable.after(batch)
        known = {self._position.stable.version, self._next[0] if self._next else None}
        if stable.version is None or stable.version in known:
            return True
        deployed = self._catalog.find(stable.version, with_reference=True)
        if deployed is None:
            return False
        self._next = (stable.version, self._built(deployed))
        return True

    def _built(self, deployed: Deployed) -> Detector | None:
        if deployed.card is None:
            _log.warning(
                "%s: version %s has no model.yaml; not judged", self._name, deployed.version
            )
            return None
        try:
            return self._build(deployed)
        except UnusableReferenceError as error:
            _log.warning("%s: version %s is not judged: %s", self._name, deployed.version, error)
            return None

    def _take(
        self,
        batch: pa.RecordBatch,
        *,
        changed: dict[str, Incident],
        windows: list[dict[str, Any]],
    ) -> None:
        stable = self._position.stable.after(batch)
        if stable.version != self._position.stable.version:
            self._feed(changed=changed, windows=windows)
            self._switch(stable, changed=changed)
        self._position = replace(self._position, stable=stable)
        if batch.num_rows == 0 or batch_arm(batch) not in (Arm.STABLE, Arm.CANARY):
            return
        own = batch_version(batch) == stable.version
        batch = answered(batch)
        if self._detector is not None and self._look is not None:
            self._look(self._detector, batch, own)
        if not own:
            return
        if self._detector is None:
            unjudged = self._position.unjudged_rows + batch.num_rows
            self._position = replace(self._position, unjudged_rows=unjudged)
            return
        self._held.append((matrix(batch, self._detector.columns), times(batch)))
        if self._look is not None:
            self._feed(changed=changed, windows=windows)

    def _feed(self, *, changed: dict[str, Incident], windows: list[dict[str, Any]]) -> None:
        """Give the detector the rows that are held for it."""
        if self._detector is None or not self._held:
            return
        rows, at = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        self._held = []
        for _ in self._detector.feed(rows, at):
            self._book(self._detector, changed=changed, windows=windows)

    def _switch(self, stable: StableVersion, *, changed: dict[str, Incident]) -> None:
        """Go over to another version: what was wrong with the old one is over."""
        incident = self._position.incident
        if incident is not None:
            changed[incident.id] = close(incident, at=stable.newest)
        self._position = replace(self._position, incident=None)
        self._detector = self._next[1] if self._next else None
        self._next = None

    def _book(
        self,
        detector: Detector,
        *,
        changed: dict[str, Incident],
        windows: list[dict[str, Any]],
    ) -> None:
        finding = detector.finding
        if finding is None:
            return
        version = str(self._position.stable.version)
        incident = follow(
            self._position.incident,
            finding,
            kind=self._kind,
            monitor=self._name,
            model=self._model,
            version=version,
        )
        if incident is not None:
            changed[incident.id] = incident
        still_open = incident if incident is not None and incident.closed_at is None else None
        self._position = replace(
            self._position,
            incident=still_open,
            evaluated_to=max(finding.end, self._position.evaluated_to),
        )
        number = detector.windows
        windows.append({"version": version, "window": number, **detector.report})

    def _body(self) -> dict[str, Any]:
        position = self._position
        incident = position.incident
        return {
            "stable": asdict(position.stable),
            "incident": None if incident is None else incident.model_dump(mode="json"),
            "evaluated_to": position.evaluated_to,
            "unjudged_rows": position.unjudged_rows,
            "detector": None if self._detector is None else self._detector.state(),
        }

    def _publish(self, taken: Mapping[int, int], *, seconds: float) -> None:
        version = self._position.stable.version
        labels = ("model_name", "revision", "monitor")
        here = (self._model, version or "", self._name)
        metrics = health_metrics(
            here,
            evaluated_to=self._position.evaluated_to,
            failures=self._failures,
            lag_batches=lag(self._log, taken),
        )
        metrics += [
            gauge(
                "coalmine_evaluation_duration_seconds",
                "Duration of the last step.",
                labels=labels,
                samples=[(here, seconds)],
            ),
            counter(
                "coalmine_monitor_unjudged_rows_total",
                "Rows of versions without a usable reference.",
                labels=labels,
                samples=[(here, self._position.unjudged_rows)],
            ),
        ]
        metrics += incident_metrics(
            self._incidents,
            model=self._model,
            version=version,
            monitor=self._name,
            kind=self._kind,
        )
        if self._detector is not None:
            metrics += self._shown(str(version), self._detector)
        self.metrics.publish(metrics)


def _position(body: Mapping[str, Any]) -> _Position:
    if not body:
        return _Position()
    incident = body["incident"]
    return _Position(
        stable=StableVersion(**body["stable"]),
        incident=None if incident is None else Incident.model_validate(incident),
        evaluated_to=body["evaluated_to"],
        unjudged_rows=body["unjudged_rows"],
    )
