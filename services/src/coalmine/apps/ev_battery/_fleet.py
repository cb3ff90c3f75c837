"""The fleet: vehicles drawn once from a seed, streaming uploads in simulated time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.apps.ev_battery._simulator import Setting, simulate, window_days
from coalmine.apps.ev_battery._telemetry import Telemetry
from coalmine.apps.ev_battery._vehicles import build_vehicles
from coalmine.apps.ev_battery._world import World
from coalmine.protocol import Array

_LIVE, _HISTORY, _REFERENCE = 1, 2, 3
_WINDOWS_PER_UPLOAD = 8
_HISTORY_DAYS = 365.25
#: Days of the past that the reference may take, so that the history ends before it begins.
_RECENT_DAYS = 7.0
#: The workshop: half of the findings are in after two days, nearly all after a week.
_DELAY_MEDIAN_DAYS = 2.0
_DELAY_SPREAD = 0.6
_DELAY_CAP_DAYS = 10.0


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """Who is in the fleet, and how fast it sends. Equal configurations are the same vehicles."""

    vehicles: int = 2000
    seed: int = 0
    uploads_per_day: float = 20_000.0
    """Of the whole fleet; so many that the season stands still during a demo."""

    missing_share: float = 0.002
    """Share of windows in which a reading is missing, for each kind of sensor."""

    def __post_init__(self) -> None:
        if self.vehicles < 1 or self.uploads_per_day <= 0:
            raise ValueError("a fleet has at least one vehicle, and it sends")


class Fleet:
    """A stream of uploads from day 0 on. The data is synthetic.

    Vehicles are chosen at random for each upload, all around the globe, so that a few dozen uploads
    see every hour of the day.

    >>> fleet = Fleet(FleetConfig(vehicles=50, seed=7))
    >>> telemetry = fleet.uploads(3)
    >>> len(telemetry), telemetry.raw["cell_voltage"].shape
    (24, (24, 16, 6))
    """

    def __init__(
        self,
        config: FleetConfig,
        *,
        world: World | None = None,
        start_day: float = 0.0,
        stream: int = _LIVE,
    ) -> None:
        self.config = config
        self._world = world or World()
        self._vehicles = build_vehicles(config.vehicles, config.seed)
        self._rng = np.random.default_rng([config.seed, stream])
        self._day = start_day
        self._sent = 0

    @property
    def world(self) -> World:
        """The world that the next upload comes from."""
        return self._world

    @property
    def day(self) -> float:
        """Simulated time of the last upload, in days."""
        return self._day

    def set_world(self, world: World) -> None:
        """Change the world from the next upload on; the vehicles stay the same."""
        self._world = world

    def uploads(self, n: int, windows_per_upload: int = _WINDOWS_PER_UPLOAD) -> Telemetry:
        """The next n uploads, in time order; an upload's windows are consecutive.

        How a stream is cut into calls changes its noise, never its distribution.
        """
        gaps = self._rng.exponential(1 / self.config.uploads_per_day, n)
        day = self._day + np.cumsum(gaps)
        if n:
            self._day = float(day[-1])
        return self._telemetry(day, windows_per_upload)

    def _telemetry(self, day: Array, windows: int) -> Telemetry:
        vehicle = self._rng.integers(self.config.vehicles, size=len(day))
        setting = Setting(self._vehicles, self._world, windows, self.config.missing_share)
        raw, label = simulate(setting, vehicle=vehicle, day=day, rng=self._rng)
        delay = _DELAY_MEDIAN_DAYS * self._rng.lognormal(0, _DELAY_SPREAD, len(day))
        upload = self._sent + np.arange(len(day))
        self._sent += len(day)
        return Telemetry(
            vehicle=np.repeat(vehicle, windows),
            upload=np.repeat(upload, windows),
            day=window_days(day, windows),
            raw=raw,
            label=np.repeat(label, windows),
            label_delay_days=np.repeat(np.minimum(delay, _DELAY_CAP_DAYS), windows),
        )


def training_history(config: FleetConfig, n_windows: int) -> Telemetry:
    """About n windows, spread over the year before the reference: all seasons, all vehicles.

    n is rounded up to whole uploads.
    """
    fleet = Fleet(config, stream=_HISTORY)
    rng = np.random.default_rng([config.seed, _HISTORY, 0])
    day = -_RECENT_DAYS - _HISTORY_DAYS * np.sort(rng.random(_uploads(n_windows)))[::-1]
    return fleet._telemetry(day, _WINDOWS_PER_UPLOAD)


def reference_stream(config: FleetConfig, n_windows: int) -> Telemetry:
    """The n windows right before day 0, built as the live stream is: for holdout and reference.

    n is rounded up to whole uploads.
    """
    count = _uploads(n_windows)
    span = min(count / config.uploads_per_day, _RECENT_DAYS)
    return Fleet(config, start_day=-span, stream=_REFERENCE).uploads(count)


def _uploads(n_windows: int) -> int:
    return -(-n_windows // _WINDOWS_PER_UPLOAD)
