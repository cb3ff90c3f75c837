"""Streams on which nothing happens, and on which one feature of them moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

__all__ = ["NULLS", "SEASON_ROWS", "SHIFTS", "World", "moved", "null_rows"]

Kind = Literal["ar", "season", "heavy"]
Floats = NDArray[np.float64]

#: Rows of a day. With windows of 500 that is a swing over eight windows.
SEASON_ROWS = 4000
#: Sizes of a shift in spreads of the feature, of one feature.
SHIFTS = (1.0, 0.5)


@dataclass(frozen=True, slots=True)
class World:
    """How the rows of a stream are made."""

    name: str
    kind: Kind = "ar"
    rho: float = 0.0
    """Autocorrelation of neighbouring rows."""

    features: int = 20


#: What telemetry does while nothing happens.
NULLS = (
    World("independent"),
    World("AR(1), rho 0.6", rho=0.6),
    World("AR(1), rho 0.9", rho=0.9),
    World("daily season, rho 0.6", kind="season", rho=0.6),
    World("heavy tails (t3), rho 0.6", kind="heavy", rho=0.6),
    World("rho 0.6, 5 features", rho=0.6, features=5),
    World("rho 0.6, 100 features", rho=0.6, features=100),
)


def null_rows(world: World, rows: int, rng: np.random.Generator) -> Floats:
    """A stationary stream [rows, features], each column of unit variance.

    `season` adds a sine of `SEASON_ROWS` rows with a phase of its own per feature; `heavy` has
    innovations of Student's t with three degrees of freedom.
    """
    shape = (rows + 500, world.features)
    noise = rng.standard_normal(shape)
    if world.kind == "heavy":
        noise = rng.standard_t(3, shape) / np.sqrt(3)
    if world.rho:
        noise = lfilter([np.sqrt(1 - world.rho**2)], [1.0, -world.rho], noise, axis=0)
    values = np.asarray(noise[500:], dtype=np.float64)  # without the start from zero
    if world.kind == "season":
        phase = rng.uniform(0, 2 * np.pi, world.features)
        turn = 2 * np.pi * np.arange(rows)[:, None] / SEASON_ROWS
        values = (values + np.sin(turn + phase)) / np.sqrt(1.5)
    return values


def moved(rows: Floats, *, after: int, size: float, feature: int) -> Floats:
    """The rows with one feature moved up by `size` from row `after` on."""
    changed = rows.copy()
    changed[after:, feature] += size
    return changed
