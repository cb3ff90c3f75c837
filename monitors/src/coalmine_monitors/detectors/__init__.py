"""Sequential tests: block-calibrated p-values, e-values, betting, and the e-detector of them."""

from __future__ import annotations

from coalmine_monitors.detectors._betting import STAKES, bets_on_less
from coalmine_monitors.detectors._calibration import RISK, BlockCalibration
from coalmine_monitors.detectors._checks import Case, yield_checks
from coalmine_monitors.detectors._ecusum import EDetector
from coalmine_monitors.detectors._evalues import calibrate, e_benjamini_hochberg

__all__ = [
    "RISK",
    "STAKES",
    "BlockCalibration",
    "Case",
    "EDetector",
    "bets_on_less",
    "calibrate",
    "e_benjamini_hochberg",
    "yield_checks",
]
