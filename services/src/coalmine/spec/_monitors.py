"""The monitors' part of the service file."""

from __future__ import annotations

from math import isfinite
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coalmine.spec._units import Duration


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DriftSpec(_Spec):
    """The drift monitor."""

    window_rows: Annotated[int, Field(ge=50)] = 500
    expected_run_length: Annotated[int, Field(ge=10)] = 2000
    """Windows between two false alarms, at least, when nothing happens."""

    min_effect: Annotated[float, Field(ge=0)] = 0.2
    """Smallest shift worth an alarm: population stability index, corrected for its bias."""


class PerformanceSpec(_Spec):
    """The performance monitor."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Accuracy lost against the version's own evaluation that opens an incident."""

    expected_run_length: Annotated[int, Field(ge=10)] = 2000
    """Evaluated blocks between two false alarms, at least, when nothing happens."""

    block: Annotated[Duration, Field(ge=0.1)] = 1.0
    """Rows of one block of time are judged together, since neighbours are alike."""

    maturity: Duration = 0.0
    """Age from which a record counts as labelled for good: until then its window is not scored,
    since what fails early is labelled first. 0: labels come in any order, each is as good."""


class QualitySpec(_Spec):
    """The data-quality monitor."""

    window_rows: Annotated[int, Field(ge=20)] = 250
    consecutive: Annotated[int, Field(ge=1)] = 2
    """Faulty windows in a row that open an incident, healthy ones that close it."""


class SegmentColumnSpec(_Spec):
    """A feature that cuts the traffic into segments, which are watched apart."""

    feature: Annotated[str, Field(pattern=r"^[^:,=<>\n]+$")]
    edges: Annotated[tuple[float, ...], Field(max_length=20)] = ()
    """Of a number: rising; a value that equals an edge belongs above it. Of a categorical feature:
    none, each category is a segment (of more than 20, the rest together)."""

    @model_validator(mode="after")
    def _edges_rise(self) -> SegmentColumnSpec:
        if not all(map(isfinite, self.edges)) or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges: numbers that rise, as [5, 30]")
        return self


class MonitorsSpec(_Spec):
    """What watches the records."""

    segments: Annotated[tuple[SegmentColumnSpec, ...], Field(max_length=5)] = ()
    """Features by whose values the monitors look at parts of the traffic, besides all of it."""

    drift: DriftSpec = DriftSpec()
    performance: PerformanceSpec = PerformanceSpec()
    quality: QualitySpec = QualitySpec()
