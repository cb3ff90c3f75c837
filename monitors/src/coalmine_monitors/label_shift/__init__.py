"""How frequent each true class is now, estimated from the predictions alone."""

from __future__ import annotations

from coalmine_monitors.label_shift._bbse import BlackBoxShift, ClassShares
from coalmine_monitors.label_shift._reference import reference_shift

__all__ = ["BlackBoxShift", "ClassShares", "reference_shift"]
