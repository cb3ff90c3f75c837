"""Faults of the stream of records itself, not of one feature's values.

Volume: rows are counted by intervals of record time. A surge is more than `factor` times the
busiest interval of the last day, a fall less than the quietest of the last hour divided by it: what
traffic has done lately, with all its seasons and likeness of neighbours, is no fault. Nothing is
judged before there is a history.

Time: records that come long after newer ones, and requests that are in the log twice.

Schema: features that are not in the records, or are no longer of their kind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._rows import times
from coalmine_monitors.quality._rules import Check, Fault

__all__ = ["TIME", "VOLUME", "StreamChecks"]

#: What faults of the stream are about, where no feature is to blame: retraining is not suppressed.
VOLUME, TIME = "(volume)", "(time)"
#: Intervals without which nothing is judged; those of the last hour, and of the last day.
_HISTORY, _HOUR, _DAY = 20, 3600.0, 86400.0
#: Rows of an interval below which chance alone may do anything: they come some at a time.
_FEW = 40
#: Seconds that an interval is kept open for what other servers still send.
_GRACE = 30.0
#: Seconds that a record may come after newer ones: a server's spool after an outage.
_LATE = 300.0
_MAX_LATE = 0.05
_MAX_DUPLICATES = 0.01

Floats = NDArray[np.float64]


class StreamChecks:
    """Looks at whole batches; `faults` is what has gathered, once per window of rows."""

    def __init__(
        self,
        columns: tuple[Column, ...],
        *,
        interval_s: float,
        factor: float | None,
        remembered: int,
    ) -> None:
        self._columns = columns
        self._interval_s = interval_s
        self._factor = factor
        self._remembered = remembered
        self._newest = 0.0
        self._counts: dict[int, int] = {}
        self._past: deque[int] = deque(maxlen=max(int(_DAY / interval_s), _HISTORY))
        self._next: int | None = None
        self._volume: Fault | None = None
        self._faulty = 0
        self._requests: dict[tuple[float, str], None] = {}
        self._window = dict.fromkeys(("rows", "requests", "late", "duplicates"), 0)
        self._schema: dict[str, Fault] = {}

    def look(self, batch: pa.RecordBatch, *, own: bool) -> None:
        """Take the answered rows of the next batch; `own`: of the version that is watched.

        Traffic moves from one version to another in a rollout, which is no fall: all is counted.
        """
        if not batch.num_rows:
            return
        at = times(batch)
        self._window["rows"] += batch.num_rows
        self._window["late"] += int((at < self._newest - _LATE).sum())
        self._newest = max(self._newest, float(at.max()))
        self._find_duplicates(batch, at)
        if own:
            self._find_changes(batch.schema)
        self._count(at)

    def faults(self) -> list[Fault]:
        """The faults since the last call."""
        found = list(self._schema.values())
        if self._volume is not None:
            found.append(self._volume)
        limits: tuple[tuple[Check, str, str, float], ...] = (
            ("order", "late", "rows", _MAX_LATE),
            ("duplicates", "duplicates", "requests", _MAX_DUPLICATES),
        )
        for check, count, of, most in limits:
            share = self._window[count] / max(self._window[of], 1)
            if share > most:
                found.append(Fault(TIME, check, share, most, "up"))
        self._schema = {}
        self._window = dict.fromkeys(self._window, 0)
        return found

    def _find_duplicates(self, batch: pa.RecordBatch, at: Floats) -> None:
        first = np.flatnonzero(batch.column("row").to_numpy() == 0)
        ids = batch.column("request_id").take(pa.array(first)).to_pylist()
        self._window["requests"] += len(ids)
        for key in zip(at[first].tolist(), ids, strict=True):
            self._window["duplicates"] += key in self._requests
            self._requests[key] = None
        surplus = len(self._requests) - self._remembered
        for key in list(self._requests)[: max(surplus, 0)]:
            del self._requests[key]

    def _find_changes(self, schema: pa.Schema) -> None:
        there = {
            field.name: field
            for field in schema
            if (field.metadata or {}).get(b"role") in (None, b"feature")
        }
        for column in self._columns:
            field = there.get(column.name)
            if field is None:
                self._schema[column.name] = Fault(column.name, "schema", 1.0, 0.0, "other")
            elif column.type == "numeric" and not _is_number(field.type):
                self._schema[column.name] = Fault(column.name, "type", 1.0, 0.0, "other")
        known = {column.name for column in self._columns}
        for name, field in there.items():
            if (field.metadata or {}).get(b"role") == b"feature" and name not in known:
                self._schema[name] = Fault(name, "schema", 1.0, 0.0, "other")

    def _count(self, at: Floats) -> None:
        if self._factor is None:
            return
        numbers, counts = np.unique((at // self._interval_s).astype(np.int64), return_counts=True)
        if self._next is None:
            # The first interval is not seen whole.
            self._next = int(numbers[0]) + 1
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number >= self._next:
                self._counts[number] = self._counts.get(number, 0) + count
        over = int((self._newest - _GRACE) // self._interval_s)
        if over - self._next > (self._past.maxlen or 0):
            # Nothing for longer than is remembered: there is no past to compare with.
            self._past.clear()
            self._next, self._counts, self._volume = over, {}, None
        while self._next < over:
            self._judge(self._counts.pop(self._next, 0))
            self._next += 1

    def _judge(self, count: int) -> None:
        assert self._factor is not None
        before, self._volume = self._volume, None
        if len(self._past) >= _HISTORY:
            past = np.array(self._past)
            hour = max(int(_HOUR / self._interval_s), _HISTORY)
            quietest = float(past[-hour:].min())
            most = max(float(past.max()) * self._factor, _FEW)
            least = quietest / self._factor
            if count > most:
                self._volume = Fault(VOLUME, "volume", count, most, "up")
            elif count < least and quietest >= _FEW:
                self._volume = Fault(VOLUME, "volume", count, least, "down")
        if self._volume is None:
            # What is over is told for one more interval: nobody could be told of a silence in it.
            self._volume, self._faulty = (before if self._faulty > 1 else None), 0
            self._past.append(count)
            return
        # A faulty interval is no past to compare with; one that lasts is what traffic is from now.
        self._faulty += 1
        if self._faulty >= _HISTORY:
            self._past.clear()
            self._volume, self._faulty = None, 0

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "newest": self._newest,
            "counts": list(self._counts.items()),
            "past": list(self._past),
            "next": self._next,
            "volume": None if self._volume is None else vars(self._volume),
            "faulty": self._faulty,
            "requests": list(self._requests),
            "window": self._window,
            "schema": [vars(fault) for fault in self._schema.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the checks that gave `state`."""
        self._newest = float(state["newest"])
        self._counts = {int(number): int(count) for number, count in state["counts"]}
        self._past.clear()
        self._past.extend(state["past"])
        self._next = state["next"]
        self._volume = None if state["volume"] is None else Fault(**state["volume"])
        self._faulty = int(state["faulty"])
        self._requests = {(float(at), str(name)): None for at, name in state["requests"]}
        self._window = dict(state["window"])
        self._schema = {fault["feature"]: Fault(**fault) for fault in state["schema"]}


def _is_number(kind: pa.DataType) -> bool:
    of = pa.types
    return bool(
        of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind) or of.is_null(kind)
    )
