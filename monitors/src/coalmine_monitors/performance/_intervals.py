"""Intervals that hold at every moment at once, however often somebody looks.

A 95 % interval for a fixed number of rows is wrong in far more than 5 % of the looks at a stream.
These are confidence sequences: with 95 % probability the truth lies in all of them, over all time.

`rate_interval` is exact for means of values in [0, 1]: betting against "the mean is m" with a
mixture of stakes wins a factor whose expectation is at most 1 while m is true, and the interval is
every m against which less than a factor 20 has been won. `mean_interval` is for everything else, by
the central limit theorem with the price of looking all the time; exact as the rows become many.

Neighbouring rows are alike. Where they differ less than independent rows would, by a `effect` (the
design effect: 1 for independent ones), n of them count as n / effect.

Sources: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970;
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024 (why the
mixture for coins holds for all values in [0, 1]); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

__all__ = ["ALPHA", "USUAL", "Level", "mean_interval", "rate_interval"]

#: How often an interval may be wrong, over all time.
ALPHA = 0.05
#: Effective rows at which `mean_interval` is tightest.
_TIGHTEST = 300.0
#: Effective rows below which no variance can be told.
FEWEST = 10.0
_BISECTIONS = 30

Floats = NDArray[np.float64]
Refuted = Callable[[Floats], NDArray[np.bool_]]


class Level(NamedTuple):
    """What an interval allows for."""

    effect: float = 1.0
    """The design effect of the rows."""

    alpha: float = ALPHA
    """How often it may be wrong, over all time."""


#: Independent rows, at 95 %.
USUAL = Level()


def rate_interval(
    successes: ArrayLike, trials: ArrayLike, *, level: Level = USUAL, share: ArrayLike = 1.0
) -> tuple[Floats, Floats]:
    """Bounds [k] of the means [k] of values in [0, 1], from their sums and numbers [k].

    Each at a `share` [k] of the error of `level`.

    >>> low, high = rate_interval([90.0], [100.0])
    >>> low.round(3).item(), high.round(3).item()
    (0.772, 0.971)
    """
    total = np.atleast_1d(np.asarray(trials, dtype=np.float64)) / level.effect
    won = np.clip(np.atleast_1d(np.asarray(successes, dtype=np.float64)) / level.effect, 0.0, total)
    mean = np.divide(won, total, out=np.full_like(won, 0.5), where=total > 0)
    # The stakes are those of Krichevsky and Trofimov: a Beta(1/2, 1/2) mixture.
    evidence = (
        betaln(won + 0.5, total - won + 0.5)
        - betaln(0.5, 0.5)
        + np.log(level.alpha * np.asarray(share))
    )

    def refuted(other: Floats) -> NDArray[np.bool_]:
        return np.asarray(xlogy(won, other) + xlog1py(total - won, -other) < evidence)

    return (
        _edge(refuted, outside=np.zeros_like(mean), inside=mean),
        _edge(refuted, outside=np.ones_like(mean), inside=mean),
    )


def _edge(refuted: Refuted, *, outside: Floats, inside: Floats) -> Floats:
    """Where `refuted` begins between two places; `outside` if nothing there is."""
    free = ~refuted(outside)
    far, near = outside.copy(), inside.copy()
    for _ in range(_BISECTIONS):
        middle = (far + near) / 2
        out = refuted(middle)
        far, near = np.where(out, middle, far), np.where(out, near, middle)
    return np.where(free, outside, far)


def mean_interval(deviation: float, rows: float, *, level: Level = USUAL) -> float | None:
    """Half the width of the interval of a mean; None of too few rows.

    `deviation` is the standard deviation of one row's part in the mean.

    >>> round(mean_interval(1.0, 300), 3)
    0.175
    """
    count = rows / level.effect
    if count < FEWEST:
        return None
    log = -2 * np.log(level.alpha)
    scale = (log + np.log(log + 1)) / _TIGHTEST
    wide = count * scale + 1
    half = deviation * np.sqrt(2 * wide / (count**2 * scale) * np.log(np.sqrt(wide) / level.alpha))
    return float(half)
