"""The drift detector, accompanied by detectors of streams of one value on the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prometheus_client.core import Metric

from coalmine.incidents import AffectedFeature
from coalmine.modeldir import Column
from coalmine.spec import OnlineSpec
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._incidents import Finding
from coalmine_monitors._metrics import gauge
from coalmine_monitors._rows import matrix
from coalmine_monitors._windows import Detector
from coalmine_monitors.online import BoundedMeanDetector, ScoreDetector

__all__ = ["Accompanied", "Stream", "make_streams", "online_metrics"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """A column, as a stream of one value, and who watches it."""

    spec: OnlineSpec
    column: Column
    detector: BoundedMeanDetector | ScoreDetector

    @property
    def name(self) -> str:
        """`column`, or `column=category`."""
        return self.spec.name

    def values(self, column: Floats) -> Floats:
        """The stream of a column's values [rows]."""
        if self.spec.equals is None:
            return column
        wanted = float((self.column.categories or ()).index(self.spec.equals))
        return np.where(np.isnan(column), np.nan, (column == wanted).astype(np.float64))

    def affected(self) -> AffectedFeature:
        """What an incident says of it."""
        bounded = isinstance(self.detector, BoundedMeanDetector)
        above = self.detector.score > (self.spec.limit if self.spec.limit is not None else 0.0)
        return AffectedFeature(
            name=self.name,
            statistic="online_mean" if bounded else "online_ranks",
            score=round(self.detector.score, 6),
            threshold=self.spec.limit if self.spec.limit is not None else 0.0,
            direction="up" if above else "down",
            onset_at=self.detector.onset,
        )

    def report(self) -> dict[str, Any]:
        """Numbers to be looked at."""
        log_evidence, needed = self.detector.log_evidence
        return {
            "score": round(self.detector.score, 6),
            "limit": self.spec.limit,
            "log_evidence": round(log_evidence, 6),
            "log_evidence_threshold": round(needed, 6),
            "detected": self.detector.detected,
        }


def make_streams(
    specs: Sequence[OnlineSpec], known: Mapping[str, Column], reference: pa.Table
) -> tuple[list[Stream], list[str]]:
    """The streams of a model's columns, and why some of those asked for are not watched."""
    streams, refused = [], []
    for spec in specs:
        column = known.get(spec.stream)
        try:
            if column is None:
                raise UnusableReferenceError(
                    f"the model has no column {spec.stream!r}; it has {', '.join(known)}"
                )
            streams.append(Stream(spec, column, _detector(spec, column, reference)))
        except UnusableReferenceError as error:
            refused.append(f"monitors.online: {spec.name} is not watched: {error}")
    return streams, refused


def _detector(
    spec: OnlineSpec, column: Column, reference: pa.Table
) -> BoundedMeanDetector | ScoreDetector:
    categories = column.categories or ()
    if column.type != "numeric" and spec.equals is None:
        raise UnusableReferenceError(f"say which one: `equals:` one of {', '.join(categories)}")
    if spec.equals is not None and spec.equals not in categories:
        raise UnusableReferenceError(
            f"{spec.equals!r} is no category of it"
            + (f": {', '.join(categories)}" if categories else "")
        )
    if spec.limit is not None:
        return BoundedMeanDetector(
            limit=spec.limit,
            run_length=spec.run_length,
            low=spec.range[0],
            high=spec.range[1],
            below=spec.below,
            block_rows=spec.block_rows,
        )
    values = matrix(reference, (column,))[:, 0]
    return ScoreDetector(values, run_length=spec.run_length, block_rows=spec.block_rows)


class Accompanied:
    """A `Detector` whose incidents are about streams, too: one incident while anything is wrong.

    What streams found is told when a window ends.
    """

    def __init__(self, drift: Detector, streams: Sequence[Stream]) -> None:
        self._drift = drift
        self._streams = tuple(streams)
        self._finding: Finding | None = None
        self._online: dict[str, Any] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What `update` takes: the drift detector's, then the streams'."""
        return (*self._drift.columns, *(stream.column for stream in self._streams))

    @property
    def windows(self) -> int:
        """Windows judged so far."""
        return self._drift.windows

    @property
    def finding(self) -> Finding | None:
        """What the last judged window led to."""
        return self._finding

    @property
    def report(self) -> Mapping[str, Any]:
        """Numbers of the last judged window, to be looked at."""
        return {**self._drift.report, "online": self._online}

    def feed(self, rows: Floats, at: Floats) -> Iterator[int]:
        """Take rows [n, columns], NaN where missing, and their record times [n].

        It stops after each judged window; the streams are then where the window ends.
        """
        own, start = len(self._drift.columns), 0
        for end in self._drift.feed(rows[:, :own], at):
            self._watch(rows[start:end, own:], at[start:end])
            start = end
            self._conclude()
            yield end
        self._watch(rows[start:, own:], at[start:])

    def _watch(self, rows: Floats, at: Floats) -> None:
        for column, stream in zip(rows.T, self._streams, strict=True):
            stream.detector.update(stream.values(column), at)

    def _conclude(self) -> None:
        self._online = {stream.name: stream.report() for stream in self._streams}
        finding = self._drift.finding
        loud = [stream for stream in self._streams if stream.detector.detected]
        if finding is None or not loud:
            self._finding = finding
            return
        features = tuple(stream.affected() for stream in loud)
        texts = [finding.summary] if finding.detected else []
        texts += [_said(stream, feature) for stream, feature in zip(loud, features, strict=True)]
        onsets = [stream.detector.onset for stream in loud]
        self._finding = replace(
            finding,
            detected=True,
            onset=min([*onsets, finding.onset] if finding.detected else onsets),
            summary="; ".join(texts),
            features=(*finding.features, *features),
            evidence={**finding.evidence, "online": {s.name: self._online[s.name] for s in loud}},
        )

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        online = {
            stream.name: {
                "settings": stream.spec.model_dump(mode="json"),
                "state": stream.detector.state(),
            }
            for stream in self._streams
        }
        return {**self._drift.state(), "online": online}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`; streams with other settings begin anew."""
        self._drift.restore(state)
        for stream in self._streams:
            saved = state.get("online", {}).get(stream.name)
            if saved and saved["settings"] == stream.spec.model_dump(mode="json"):
                stream.detector.restore(saved["state"])


def _said(stream: Stream, feature: AffectedFeature) -> str:
    if stream.spec.limit is None:
        return f"{stream.name} has another distribution than in the training data"
    side = "below" if stream.spec.below else "above"
    return f"the mean of {stream.name} is {feature.score:.4g}, {side} {stream.spec.limit:g}"


def online_metrics(here: Sequence[str], online: Mapping[str, Any]) -> Iterable[Metric]:
    """Of the streams, as `Accompanied.report` has them."""
    for key, name, text in (
        ("score", "coalmine_online_score", "Mean of a stream, or distance of its mean rank."),
        ("log_evidence", "coalmine_online_evidence_log", "Evidence; of recovery while detected."),
        ("log_evidence_threshold", "coalmine_online_evidence_log_threshold", "What it takes."),
        ("detected", "coalmine_online_detected", "1 while the stream is beyond what is usual."),
    ):
        yield gauge(
            name,
            text,
            labels=("model_name", "revision", "monitor", "stream"),
            samples=[((*here, stream), float(numbers[key])) for stream, numbers in online.items()],
        )
