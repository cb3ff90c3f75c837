"""The monitors' part of the service file."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from coalmine.spec._alibi import AlibiSpec
from coalmine.spec._units import Duration, HttpUrl

DriftStatistic = Literal["psi", "js", "ks", "wasserstein", "chi_squared", "location"]
JointStatistic = Literal["pca", "domain_classifier", "mmd"]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReferenceSpec(_Spec):
    """What the drift monitor's windows are compared with."""

    by: Annotated[str, Field(min_length=1)] | None = None
    """One of `segments`, whose every segment has a reference and windows of its own while all rows
    together have none: where a change of the mix is no drift."""


class DriftSpec(_Spec):
    """The drift monitor."""

    window_rows: Annotated[int, Field(ge=50)] = 500
    """Rows of a window; the fewest of one by time."""

    window: Annotated[Duration, Field(ge=1)] | None = None
    """Windows by time (`10m`): they end at multiples of it, and go on while they have too few rows.
    A number without a unit is `window_rows`."""

    expected_run_length: Annotated[int, Field(ge=10)] = 2000
    """Windows between two false alarms, at least, when nothing happens."""

    min_effect: Annotated[float, Field(ge=0)] = 0.2
    """Smallest shift worth an alarm: population stability index, corrected for its bias."""

    statistics: Annotated[tuple[DriftStatistic, ...], Field(min_length=1)] = ("psi", "location")
    """What evidence is gathered of, of the columns that have it. All are shown anyway."""

    multivariate: tuple[JointStatistic, ...] = ("pca", "domain_classifier", "mmd")
    """What looks at all columns together, for changes that no column shows alone; `[]`: nothing."""

    season: Annotated[Duration, Field(ge=60)] | None = None
    """Period (`1d`) within which traffic differs: a window is compared with the reference's
    windows of the same phase, if the reference has times and spans it twice."""

    reference: ReferenceSpec = ReferenceSpec()

    @model_validator(mode="before")
    @classmethod
    def _window_of_rows(cls, given: Any) -> Any:
        if not isinstance(given, dict) or isinstance(given.get("window"), bool):
            return given
        if isinstance(given.get("window"), int):
            if "window_rows" in given:
                raise ValueError("window: rows are given twice, here and in `window_rows`")
            given = {**given, "window_rows": given["window"]}
            del given["window"]
        return given

    @field_validator("multivariate")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"listed more than once: {', '.join(doubled)}")
        return names

    @field_validator("statistics")
    @classmethod
    def _every_column_has_one(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"listed more than once: {', '.join(doubled)}")
        for kind in ("numeric", "categorical"):
            known = {"psi", "js"} | (
                {"chi_squared"} if kind == "categorical" else {"ks", "wasserstein", "location"}
            )
            if not known.intersection(names):
                raise ValueError(f"a {kind} column has none of {', '.join(names)}; add psi or js")
        return names


_LONGEST_MATURITY = 30 * 86_400.0


class PerformanceSpec(_Spec):
    """The performance monitor."""

    metric: Literal["accuracy", "brier", "log_loss", "mae", "rmse"] | None = None
    """What an incident is about; `model.yaml` has its value at the evaluation (`metrics`). None:
    what suits the model, the accuracy of classes, of a number its RMSE or else its MAE."""

    margin: Annotated[float, Field(gt=0)] | None = None
    """How much worse than at the version's own evaluation opens an incident, in the metric's own
    unit: accuracy lost, loss or error gained. None: 0.03, of MAE and RMSE a tenth of their value at
    the evaluation, since nobody else knows their unit."""

    expected_run_length: Annotated[int, Field(ge=10)] = 2000
    """Evaluated blocks between two false alarms, at least, when nothing happens."""

    block: Annotated[Duration, Field(ge=0.1)] = 1.0
    """Rows of one block of time are judged together, since neighbours are alike."""

    maturity: Duration = 0.0
    """Age from which a record counts as labelled for good: until then its window is not scored and
    no alarm made of it, since what fails early is labelled first. 0: labels come in any order, each
    is as good. At most 30 days: all answers of that time wait in the monitor's state."""

    @field_validator("maturity")
    @classmethod
    def _answers_wait_so_long(cls, maturity: float) -> float:
        if maturity > _LONGEST_MATURITY:
            raise ValueError(
                f"{maturity / 86_400:g} days: at most 30d, since every answer waits so long in the "
                "monitor's state; where most labels are there earlier, give that time"
            )
        return maturity

    @model_validator(mode="after")
    def _margin_fits(self) -> PerformanceSpec:
        if self.metric == "accuracy" and self.margin is not None and self.margin >= 1:
            raise ValueError(f"margin: {self.margin:g} of accuracy is all of it; less than 1")
        return self


class QualitySpec(_Spec):
    """The data-quality monitor."""

    window_rows: Annotated[int, Field(ge=20)] = 250
    consecutive: Annotated[int, Field(ge=1)] = 2
    """Faulty windows in a row that open an incident, healthy ones that close it."""

    volume_interval: Annotated[Duration, Field(ge=1, le=3600)] = 60.0
    """Rows are counted by intervals of this length."""

    volume_factor: Annotated[float, Field(gt=1)] | None = 4.0
    """More rows than the busiest interval of the last day times this are a surge, fewer than the
    quietest of the last hour divided by it a fall; null: any number is right."""


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


class OnlineSpec(_Spec):
    """A column of the model that is watched row by row, as a stream of one value."""

    stream: Annotated[str, Field(min_length=1)]
    """A feature or an output."""

    equals: str | None = None
    """Of a categorical column: the category whose share is watched, as a stream of 0 and 1."""

    limit: float | None = None
    """What the mean may be; null: ranks as in the reference. A margin beyond what is usual."""

    range: tuple[float, float] = (0.0, 1.0)
    """Between which the values of a stream with a `limit` lie; others count as the next of both."""

    below: bool = False
    """Whether a mean below `limit` is the trouble."""

    run_length: Annotated[int, Field(ge=100)] = 100_000
    """Rows between two false alarms, at least, when nothing happens."""

    block_rows: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Rows taken together as one observation: several times as long as rows stay alike."""

    @property
    def name(self) -> str:
        """How the stream is called in incidents and metrics."""
        return self.stream if self.equals is None else f"{self.stream}={self.equals}"

    @model_validator(mode="after")
    def _limit_is_within(self) -> OnlineSpec:
        low, high = self.range
        if not (isfinite(low) and isfinite(high) and low < high):
            raise ValueError(f"range: {list(self.range)} is empty; the lower limit comes first")
        if self.limit is not None and not low < self.limit < high:
            raise ValueError(f"limit: {self.limit:g} is not within `range`: {list(self.range)}")
        if self.limit is None and (self.below or self.equals is not None):
            raise ValueError("limit: `below` and `equals` need one")
        if self.run_length < 2 * self.block_rows:
            raise ValueError(f"run_length: less than two blocks of {self.block_rows} rows")
        return self


class AlertsSpec(_Spec):
    """Whom the monitors tell of incidents themselves, besides what Prometheus makes of metrics."""

    alertmanager: HttpUrl | None = None
    """Base address of an Alertmanager (`POST /api/v2/alerts`)."""

    webhook: HttpUrl | None = None
    """Is posted what Alertmanager posts to its webhooks, version 4."""

    resend: Annotated[Duration, Field(ge=1)] = 60.0
    """Alertmanager is told again of what is open; it takes an alert for over that it does not hear
    of for three times as long."""


class MonitorsSpec(_Spec):
    """What watches the records."""

    segments: Annotated[tuple[SegmentColumnSpec, ...], Field(max_length=5)] = ()
    """Features by whose values the monitors look at parts of the traffic, besides all of it."""

    drift: DriftSpec = DriftSpec()
    performance: PerformanceSpec = PerformanceSpec()
    quality: QualitySpec = QualitySpec()
    online: Annotated[tuple[OnlineSpec, ...], Field(max_length=20)] = ()
    """Columns that the drift monitor watches row by row, besides."""

    alerts: AlertsSpec = AlertsSpec()

    alibi: Annotated[tuple[AlibiSpec, ...], Field(max_length=20)] = ()
    """Detectors of alibi-detect, a monitor each, beside the three above. They need an environment
    of their own: docs/alibi.md."""

    @field_validator("online")
    @classmethod
    def _each_stream_once(cls, streams: tuple[OnlineSpec, ...]) -> tuple[OnlineSpec, ...]:
        names = [stream.name for stream in streams]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"listed more than once: {', '.join(doubled)}")
        return streams

    @model_validator(mode="after")
    def _reference_is_by_a_segment(self) -> MonitorsSpec:
        by, known = self.drift.reference.by, [segment.feature for segment in self.segments]
        if by is not None and by not in known:
            raise ValueError(f"drift.reference.by: {by!r} is none of `segments`: {known}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> MonitorsSpec:
        names = [each.name for each in self.alibi]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"alibi: more than one is named {', '.join(doubled)}")
        return self
