"""Where further statistics of whole windows join those of single features: the multivariate ones.

An extension is fitted on the reference's contiguous windows and then gives one number per stream
for each window to come. The detector gathers evidence of its streams as it does of features, under
the same declared run length, and an alarm may name them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Extend", "Extension"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Extension:
    """Streams that see several columns at once. Arrays are [streams]."""

    names: tuple[str, ...]
    past: Floats
    """Values [windows, streams] of the reference's windows, each as of rows not fitted on."""

    floor: tuple[Floats, Floats]
    """Mean and spread on independent rows, 0 where unknown: no stream is trusted to be steadier."""

    two_sided: NDArray[np.bool_]
    """Whether less of it is drift too."""

    threshold: Floats
    """Smallest effect that is worth an alarm, beside its evidence."""

    measure: Callable[[Sequence[Floats]], Floats]
    """Of windows' rows, each [at most `SAMPLE_ROWS`, columns], NaN where missing: the values
    [windows, streams]; NaN for none. The same rows have to give the same values, in whatever
    process, and whichever other windows there are."""

    effect: Callable[[Floats], Floats]
    """Of such values: how large a drift is [windows, streams]; 0 on average while nothing
    happens."""

    contributions: Callable[[Floats, int], Floats] | None = None
    """Of a window's rows and a stream: what each column [columns] makes of its effect."""


#: Makes extensions of the reference's windows, each rows [at most `SAMPLE_ROWS`, columns] in time
#: order; None if nothing can be made of them.
Extend = Callable[[list[Floats]], Extension | None]
