"""The performance monitor: counts traffic, joins labels, watches the stable version's accuracy."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.incidents import Incident
from coalmine.records import Entry, Label, RecordLog, read_all
from coalmine.spec import PerformanceSpec, SegmentColumnSpec
from coalmine_monitors._catalog import Catalog
from coalmine_monitors._cursors import Progress, cursors_of, known_lag, lag, positions
from coalmine_monitors._metrics import SnapshotCollector, health_metrics
from coalmine_monitors._state import Saved, StateStore, put_incidents, save
from coalmine_monitors._versions import batch_arm, batch_version, oldest_time
from coalmine_monitors.performance._answers import answers_of
from coalmine_monitors.performance._blocks import (
    MAX_AGE,
    add_joined,
    add_traffic,
    forget_blocks,
    traffic,
)
from coalmine_monitors.performance._calibrations import Calibrations
from coalmine_monitors.performance._callers import add_callers, forget_callers
from coalmine_monitors.performance._estimate import Calibration
from coalmine_monitors.performance._estimates import (
    add_expected,
    forget_expected,
)
from coalmine_monitors.performance._join import (
    MAX_ROWS,
    Answer,
    Scored,
    forget,
    join,
    score_by_block,
)
from coalmine_monitors.performance._maturity import matured, wait
from coalmine_monitors.performance._objective import Objective, objective_of
from coalmine_monitors.performance._position import Position
from coalmine_monitors.performance._predictions import add_predictions, forget_predictions
from coalmine_monitors.performance._reign import Reign
from coalmine_monitors.performance._scores import (
    add_instances,
    add_scores,
    forget_scores,
    known_tasks,
    put_tasks,
)
from coalmine_monitors.performance._shown import Look, Numbers, look, performance_metrics
from coalmine_monitors.performance._summary import estimate_onset
from coalmine_monitors.performance._tasks import Task, task_of

__all__ = ["PerformanceMonitor"]

#: Reigns whose late labels are still judged.
REIGNS = 8
#: Rows, and labels, read at a time.
READ_ROWS = 20_000
_log = logging.getLogger(__name__)

#: Seconds of record time between two rounds of forgetting what is too old.
TIDY = 60.0
#: Seconds of record time that the search for an onset looks back.
LOOKBACK = 86400.0


class PerformanceMonitor:
    """What `create_performance_app` runs."""

    def __init__(
        self,
        spec: PerformanceSpec,
        *,
        model: str,
        log: RecordLog,
        store: StateStore,
        catalog: Catalog,
        clock: Clock,
        block_s: float,
        segments: Sequence[SegmentColumnSpec] = (),
    ) -> None:
        self.metrics = SnapshotCollector()
        self._spec = spec
        self._model = model
        self._log = log
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._block_s = block_s
        self._segments = segments
        self._progress = Progress(log, model=model, kind="accuracy", clock=clock)
        self._failures = 0
        self._saved = Saved()
        self._position = Position()
        self._incidents: list[Incident] = []
        self._looked: tuple[Saved | None, Look] = (None, Look())
        self._reigns: list[Reign] = []
        self._objectives: dict[str, Objective | None] = {}
        self._more_matured = True
        """Whether labelled rows may be left that are due already."""
        self.calibrations = Calibrations(catalog)

    def load(self) -> None:
        """Take up the persisted state."""
        self._saved = self._store.load()
        body = self._saved.body
        self._position = Position.restored(body)
        self._reigns = [
            Reign.restored(
                state,
                spec=self._spec,
                block_s=self._block_s,
                calibration=self.calibrations.of(state["version"]),
            )
            for state in body.get("reigns", ())
        ]
        self._incidents = self._store.incidents()

    def failed(self) -> None:
        """Count a step that raised, and show it: a monitor that fails must not look well."""
        self._failures += 1
        taken = positions(self._saved.cursors, "records", self._log)
        self.metrics.amend(
            health_metrics(
                (self._model, self._position.stable.version or "", "accuracy"),
                evaluated_to=self._position.evaluated_to,
                failures=self._failures,
                lag_batches=known_lag(self._log, taken),
            )
        )

    @property
    def evaluated_to(self) -> float:
        """Record time up to which records and labels are counted; 0 before the first."""
        return float(self._store.load().body.get("evaluated_to", 0.0))

    def step(self) -> bool:
        """Count what the log has, up to `READ_ROWS` of each; whether there is more.

        Labels are read only when no records wait, so that a label finds its record however far
        behind the monitor has been.
        """
        began = self._clock.monotonic()
        before = self._saved
        taken = positions(before.cursors, "records", self._log)
        batches, waiting = self._readable(read_all(self._log, taken, limit_rows=READ_ROWS))
        caught_up = not batches and not waiting
        labels = (
            self._log.labels_after(before.cursors.get("labels", 0), READ_ROWS) if caught_up else []
        )
        drained = caught_up and len(labels) < READ_ROWS
        behind = self._position.evaluated_to < self._position.complete_to
        if batches or labels or behind or (drained and self._more_matured):
            self._count(batches, labels, drained=drained)
        self._progress.note(positions(self._saved.cursors, "records", self._log))
        self._publish(seconds=self._clock.monotonic() - began)
        return bool(batches or labels or (drained and self._more_matured))

    def _readable(self, batches: Sequence[Entry]) -> tuple[list[Entry], bool]:
        """The batches up to the first that needs a model card, and whether one does."""
        stable = self._position.stable
        for index, (_, _, batch) in enumerate(batches):
            after = stable.after(batch)
            if after.version != stable.version and not self._is_known(str(after.version)):
                return list(batches[:index]), True
            stable = after
        return list(batches), False

    def _is_known(self, version: str) -> bool:
        if version in self._objectives:
            return True
        deployed = self._catalog.find(version, with_reference=False)
        if deployed is None:
            return False
        card = deployed.card
        self._objectives[version] = None if card is None else objective_of(card, self._spec)
        return True

    def _count(
        self,
        entries: Sequence[Entry],
        labels: Sequence[Label],
        *,
        drained: bool,
    ) -> None:
        changed: dict[str, Incident] = {}
        position = self._position
        answers: list[Answer] = []
        tasks: dict[str, Task] = {}
        estimated: list[tuple[pa.RecordBatch, Calibration]] = []
        taken = {entry.partition: entry.offset for entry in entries}
        batches = [entry.batch for entry in entries if entry.batch.num_rows]
        for batch in batches:
            before, position = position, position.after(batch)
            if position.stable.version != before.stable.version:
                self._crown(str(position.stable.version), since=oldest_time(batch), changed=changed)
            calibration = self._calibration(batch, stable=position.stable.version)
            made = answers_of(batch, calibration=calibration, segments=self._segments)
            found = task_of(batch.schema)
            if found is not None and made:
                task = replace(found.task, shift=made[0].value or 0.0)
                tasks.setdefault(batch_version(batch), task)
            answers += made
            if calibration is not None:
                estimated.append((batch, calibration))
        if drained:
            newer = max(position.evaluated_to, position.complete_to)
            position = replace(position, evaluated_to=newer)
        tidy = position.complete_to - position.tidied > TIDY
        if tidy:
            position = replace(position, tidied=position.complete_to)
        with self._store.step(self._saved) as connection:
            for batch in batches:
                add_traffic(connection, traffic(batch, block_s=self._block_s))
                add_callers(connection, batch)
            for batch, calibration in estimated:
                add_expected(connection, batch, calibration=calibration, block_s=self._block_s)
            add_predictions(connection, answers, block_s=self._block_s)
            joined = join(connection, answers=answers, labels=labels, block_s=self._block_s)
            add_joined(connection, joined)
            put_tasks(connection, tasks)
            add_instances(connection, answers, block_s=self._block_s)
            add_scores(connection, joined, block_s=self._block_s)
            due = self._due(
                connection, joined.scored, until=position.evaluated_to if drained else None
            )
            self._judge(connection, due, changed=changed)
            if tidy:
                self._tidy(connection, newest=position.tidied)
            put_incidents(connection, changed.values())
            cursors = dict(self._saved.cursors)
            cursors |= cursors_of("records", taken)
            cursors |= {"labels": labels[-1].offset} if labels else {}
            saved = Saved(cursors, self._body(position))
            save(connection, saved)
        self._saved, self._position = saved, position
        if changed:
            self._incidents = self._store.incidents()

    def _calibration(self, batch: pa.RecordBatch, *, stable: str | None) -> Calibration | None:
        """What to estimate by: for the stable version's answers to clients, not for others."""
        if batch_version(batch) != stable or batch_arm(batch) == Arm.SHADOW:
            return None
        return self.calibrations.of(str(stable))

    def _crown(self, version: str, *, since: float, changed: dict[str, Incident]) -> None:
        """Begin the reign of a version, and end the last one."""
        if self._reigns:
            incident = self._reigns[-1].end(at=since)
            if incident is not None:
                changed[incident.id] = incident
        reign = Reign(
            version,
            since=since,
            objective=self._objectives[version],
            spec=self._spec,
            block_s=self._block_s,
            calibration=self.calibrations.of(version),
        )
        self._reigns = [*self._reigns, reign][-REIGNS:]

    def _tidy(self, connection: sqlite3.Connection, *, newest: float) -> None:
        """Forget what is too old, counted from when it is mature: nobody saw its score before."""
        mature, block_s = newest - self._spec.maturity, self._block_s
        if forget(connection, newest=mature) and self._spec.maturity:
            _log.warning(
                "performance: more than %s answers within monitors.performance.maturity: the oldest"
                " are forgotten before they are mature, and not scored; give a shorter time",
                f"{MAX_ROWS:,}",
            )
        forget_callers(connection, newest=newest)
        forget_blocks(connection, newest=mature, block_s=block_s)
        forget_predictions(connection, oldest=mature - MAX_AGE, block_s=block_s)
        forget_expected(connection, newest=mature, block_s=block_s)
        forget_scores(connection, newest=mature, block_s=block_s)

    def _due(
        self, connection: sqlite3.Connection, fresh: list[Scored], *, until: float | None
    ) -> list[Scored]:
        """The rows to be judged now: those just labelled, or, with a maturity, those that are due.

        `until` is a record time; None: nothing is due while there are labels left to be read.
        """
        if not self._spec.maturity:
            self._more_matured = False
            return fresh
        wait(connection, fresh, maturity=self._spec.maturity)
        due = [] if until is None else matured(connection, until=until, limit=READ_ROWS)
        self._more_matured = len(due) >= READ_ROWS
        return due

    def _judge(
        self,
        connection: sqlite3.Connection,
        scored: Sequence[Scored],
        *,
        changed: dict[str, Incident],
    ) -> None:
        """Give each labelled row to the reign it belongs to."""

        def onset(row: Scored) -> float:
            return self._onset(connection, reign, before=row)

        tasks = known_tasks(connection)
        for row in scored:
            for reign in self._reigns:
                if not reign.owns(row):
                    continue
                incident = reign.update(
                    row, model=self._model, task=tasks.get(row.version), onset=onset
                )
                if incident is not None:
                    changed[incident.id] = incident

    def _onset(self, connection: sqlite3.Connection, reign: Reign, *, before: Scored) -> float:
        # What is mature was judged in the order of record time, else in that of the labels.
        mature = bool(self._spec.maturity)
        blocks = score_by_block(
            connection,
            version=reign.version,
            since=max(reign.since, before.time - LOOKBACK),
            until=before.time if mature else None,
            before_label=None if mature else before.label_offset,
            block_s=self._block_s,
        )
        if reign.detector is None or not blocks:
            return before.time
        return estimate_onset(blocks, threshold=reign.detector.threshold)

    def _body(self, position: Position) -> dict[str, Any]:
        return {**position.state(), "reigns": [reign.state() for reign in self._reigns]}

    def _publish(self, *, seconds: float) -> None:
        version = self._position.stable.version
        taken = positions(self._saved.cursors, "records", self._log)
        if self._looked[0] is not self._saved:
            self._looked = (self._saved, self._look(version))
        self.metrics.publish(
            performance_metrics(
                model=self._model,
                version=version,
                look=self._looked[1],
                reign=self._reigns[-1] if self._reigns else None,
                incidents=self._incidents,
                numbers=Numbers(
                    evaluated_to=self._position.evaluated_to,
                    lag_batches=lag(self._log, taken),
                    seconds=seconds,
                    failures=self._failures,
                ),
            )
        )

    def _look(self, version: str | None) -> Look:
        """What there is to say of the stable version's last rows whose labels are mature."""
        newest = self._position.complete_to
        mature = newest - self._spec.maturity
        check = self._reigns[-1].check if self._reigns else None
        with self._store.reading() as connection:
            return look(
                connection,
                version=str(version),
                calibration=self.calibrations.of(str(version)),
                check=check,
                newest=newest,
                mature=mature,
                block_s=self._block_s,
            )
